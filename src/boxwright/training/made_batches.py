"""Drawn batches made on a device (`data.drawn`): as CUDA graphs where their shapes repeat, and beside the step before.

Making a batch is some 250 small operations, which a host needs longer to launch than a GPU to do. So what makes a
batch is captured as the training step is, and each batch is made on a stream of its own while the step before runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.data.drawn import DrawnBatch
from boxwright.data.loader import Batch
from boxwright.data.moved_objects import DrawnObjects, StoredObjects
from boxwright.runtime.cuda_graphs import Capture, Kept, Recording
from boxwright.training.static_batch import tensors_of, with_tensors

MOST_GRAPHS = 32
SEEN_BEFORE = 3
"""Batches of a shape that are made operation by operation before it is captured."""


class Making(NamedTuple):
    """How batches of one shape are made: from what lies in these buffers."""

    drawn: DrawnBatch
    recording: Recording[Batch]


class BatchMaker:
    """Makes drawn batches on a device, of images (N, 3) and objects that are stored there; nothing waits for it.

    With a `capture` batches of a shape that was seen `SEEN_BEFORE` times are made by a recording. Those that come with
    images, proposals or masks of their own are always made operation by operation; so are all others once a recording
    has failed, which is logged.
    """

    def __init__(
        self, device: torch.device, pixels: Tensor | None, objects: StoredObjects | None, capture: Capture | None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self.device, self.pixels, self.capture, self.log = device, pixels, capture, log
        self.objects = None if objects is None else objects.to(device)
        self.makings: Kept[Making] = Kept(MOST_GRAPHS, SEEN_BEFORE)

    def __call__(self, drawn: DrawnBatch) -> Batch:
        """Make a batch; its memory is its own."""
        if self.capture is None or not isinstance(drawn.targets, DrawnObjects):
            return self._eager(drawn)
        if self.pixels is None or drawn.proposals is not None:
            return self._eager(drawn)
        key = shape_of(drawn)
        making = self.makings.find(key)
        if making is not None:
            for own, other in zip(drawn_tensors(making.drawn), drawn_tensors(drawn), strict=True):
                own.copy_(other, non_blocking=True)
            making.recording.replay()
        elif self.makings.due(key) and self.capture.has_room():
            buffers = with_buffers(drawn.sent(self.device))
            try:
                recording = self.capture(lambda: buffers.made(self.pixels, self.objects))
            except RuntimeError as error:  # of memory, or of an operation that cannot be captured
                self.capture = None
                reason = str(error).splitlines()[0][:120]
                self.log(f"CUDA graphs: batches cannot be captured ({reason}): they are made operation by operation")
                return self._eager(drawn)
            making = Making(buffers, recording)
            self.makings.add(key, making)
        else:
            return self._eager(drawn)
        # the next replay overwrites it
        return with_tensors(making.recording.result, torch.clone)._replace(indices=drawn.indices)

    def _eager(self, drawn: DrawnBatch) -> Batch:
        return drawn.to(self.device, self.pixels, self.objects)


def drawn_tensors(drawn: DrawnBatch) -> list[Tensor]:
    """All tensors of a drawn batch of stored images and objects, in a fixed order."""
    found: list[Tensor] = []
    drawn.changed(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    assert isinstance(drawn.targets, DrawnObjects)
    return [*found, *drawn.targets[:3]]


def with_buffers(drawn: DrawnBatch) -> DrawnBatch:
    """The same in memory of its own."""
    assert isinstance(drawn.targets, DrawnObjects)
    parts, own, shared = (tensor.clone() for tensor in drawn.targets[:3])
    return replace(drawn.changed(torch.clone), targets=drawn.targets._replace(parts=parts, own=own, shared=shared))


def shape_of(drawn: DrawnBatch) -> tuple[object, ...]:
    """All that Python decides while a batch is made."""
    assert isinstance(drawn.targets, DrawnObjects)
    hue = drawn.colours is not None and drawn.colours.hue
    tiles = drawn.tiles
    return (
        drawn.size_hw, tiles.window_hw, tiles.exact, hue, drawn.targets.num_boxes,
        *(tensor.shape for tensor in drawn_tensors(drawn)),
    )  # fmt: skip


def made_beside(
    drawn: Iterable[DrawnBatch], make: Callable[[DrawnBatch], Batch], device: torch.device
) -> Iterator[Batch]:
    """The batches, each made on a stream of its own while the step before it runs; on a CPU when it is asked for."""
    if device.type != "cuda":
        yield from map(make, drawn)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))  # stored images are there
    ahead: tuple[Batch, torch.cuda.Event] | None = None
    for one in drawn:
        with torch.cuda.stream(stream):
            made = make(one)
            event = stream.record_event()
        if ahead is not None:
            yield _ready(*ahead, device)
        ahead = made, event
    if ahead is not None:
        yield _ready(*ahead, device)


def _ready(batch: Batch, event: torch.cuda.Event, device: torch.device) -> Batch:
    """A batch that what follows on the current stream may use; its memory is not given away before that is done."""
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for tensor in (*tensors_of(batch), *(batch.targets.masks or ())):
        tensor.record_stream(current)
    return batch
