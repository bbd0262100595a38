"""Whole detections as CUDA graphs, and batches that are launched without waiting for the one before.

A detection of a small network is bound by launching some hundreds of kernels. Where a shape comes again, network and
selection are recorded as one CUDA graph (`cuda_graphs.py`) and launched at once. NMS then looks once, without waiting;
whether that was enough is known with the detections, and where it was not (a crowd) they are computed again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from boxwright.ops.suppress_pairs import one_look
from boxwright.runtime.cuda_graphs import Capture, CudaCapture, Kept, Recording
from boxwright.structures import DetectSettings, ImageBatch, PaddedDetections, Proposals

MOST_GRAPHS = 8
"""Shapes that are kept as CUDA graphs; of more, the one that was not used for longest gives way."""
SWITCH = "BOXWRIGHT_CUDA_GRAPHS"
"""Environment variable: 0 runs every detection operation by operation."""
SEEN_BEFORE = 2
"""Batches of a shape before it is recorded: one that comes once is not worth it, and libraries choose kernels first."""


Detect: TypeAlias = Callable[[ImageBatch, DetectSettings, Proposals | None], PaddedDetections]


class _Found(NamedTuple):
    """Detections, and whether one look of NMS was enough for all of them (a bool on the device; None: it always is)."""

    padded: PaddedDetections
    enough: Tensor | None


@dataclass(frozen=True)
class Launched:
    """A batch that the device works on; `result` waits for it."""

    found: _Found
    again: Callable[[], PaddedDetections]
    """The same detections, however many looks they take."""
    ready: torch.cuda.Event | None = None

    @classmethod
    def done(cls, padded: PaddedDetections) -> Launched:
        """Detections that need no other look."""
        return cls(_Found(padded, None), lambda: padded)

    def on_the_way(self) -> Launched:
        """The same, on its way to the CPU; nothing waits."""
        if (device := self.found.padded.boxes.device).type != "cuda":
            return self
        padded, enough = self.found
        here = padded.each(lambda part: part.to("cpu", non_blocking=True))
        decided = None if enough is None else enough.to("cpu", non_blocking=True)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record(torch.cuda.current_stream(device))
        return Launched(_Found(here, decided), self.again, ready)

    @property
    def is_here(self) -> bool:
        """Whether the device is known to be done with it, so that `result` does not wait."""
        return self.ready is not None and bool(self.ready.query())  # type: ignore[no-untyped-call]

    def result(self) -> PaddedDetections:
        """The detections of the batch."""
        if self.ready is not None:
            self.ready.synchronize()
        padded, enough = self.found
        return padded if enough is None or bool(enough) else self.again()


class _Graph(NamedTuple):
    """A recorded detection, and the buffers that it reads."""

    images: ImageBatch
    proposals: Proposals | None
    recording: Recording[_Found]


class GraphedDetect:
    """Launches a detector's batches; a shape that repeats is run as a CUDA graph."""

    def __init__(self, detect: Detect, device: torch.device, capture: Capture | None = None) -> None:
        """Args:

        detect: what is done with a batch.
        device: where.
        capture: how it is recorded, if not as CUDA graphs on a GPU.
        """
        self._detect = detect
        wanted = device.type == "cuda" and os.environ.get(SWITCH) != "0"
        self.capture: Capture | None = CudaCapture(device) if capture is None and wanted else capture
        self.graphs: Kept[_Graph] = Kept(MOST_GRAPHS, SEEN_BEFORE)
        self.why_no_graphs: str | None = None
        """Why detections of this model cannot be recorded, once that was tried."""

    @torch.inference_mode()
    def launch(self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None = None) -> Launched:
        """Start with a batch; nothing waits for it here. Its buffers may be given back at once."""

        @torch.inference_mode()
        def again() -> PaddedDetections:
            return self._detect(images, settings, proposals)

        found = self._replayed(images, settings, proposals) if self._records else None
        return Launched(self._one_look(images, settings, proposals) if found is None else found, again)

    @property
    def _records(self) -> bool:
        return self.capture is not None and self.why_no_graphs is None

    def _one_look(self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None) -> _Found:
        """Detections for which nothing waits."""
        with one_look() as enough:
            padded = self._detect(images, settings, proposals)
        return _Found(padded, torch.stack([one.all() for one in enough]).all() if enough else None)

    def _replayed(self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None) -> _Found | None:
        """The detections by a graph of this shape; None where there is none yet."""
        given = (*_tensors_of(images), *_tensors_of(proposals))
        # what Python decides is part of the key: it is fixed in the recording
        key: Hashable = (settings, *((tuple(one.shape), one.dtype) for one in given))
        graph = self.graphs.find(key)
        if graph is None:
            if not self.graphs.due(key):
                return None
            graph = self._recorded(images, settings, proposals)
            if graph is None:
                return None
            self.graphs.add(key, graph)
            return _copied(graph.recording.result)  # of this batch: recording does the work, too
        for own, other in zip((*_tensors_of(graph.images), *_tensors_of(graph.proposals)), given, strict=True):
            own.copy_(other, non_blocking=True)
        graph.recording.replay()
        return _copied(graph.recording.result)

    def _recorded(self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None) -> _Graph | None:
        """The detection as a graph with buffers of its own; None where this model cannot be recorded."""
        own = ImageBatch(*(one.clone() for one in _tensors_of(images)))
        regions = None if proposals is None else Proposals(*(one.clone() for one in _tensors_of(proposals)))
        assert self.capture is not None
        try:
            recording = self.capture(lambda: self._one_look(own, settings, regions))
        except RuntimeError as error:  # it waits for the device, its shapes depend on values, or memory is short
            self.why_no_graphs = str(error).splitlines()[0][:160]
            return None
        return _Graph(own, regions, recording)


def _tensors_of(given: ImageBatch | Proposals | None) -> list[Tensor]:
    """The tensors of a batch of images or of proposals, in a fixed order."""
    if given is None:
        return []
    if isinstance(given, ImageBatch):
        return [given.pixels, given.sizes_hw, given.original_hw, given.scale_xy, given.offset_xy]
    found = [given.boxes, given.scores, given.valid]
    return found if given.level is None else [*found, given.level]


def _copied(found: _Found) -> _Found:
    """Detections that the next replay does not overwrite."""
    return _Found(found.padded.each(torch.clone), None if found.enough is None else found.enough.clone())
