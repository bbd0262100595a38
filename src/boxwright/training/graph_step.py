"""The training step as CUDA graphs: one for each shape of a batch, replayed without Python.

A small network spends most of a step on a GPU in launching kernels. Captured once, forward, losses, backward, clipping,
optimizer and weight average run again as one launch, on whatever lies in the same buffers. So everything that differs
between two steps is a tensor there: pixels, boxes, the learning rate, the share of the weight average.

Shape legend: B = images, G = ground-truth boxes (padded), H W = pixels of the batch.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.data.loader import Batch
from boxwright.structures import ImageBatch, Targets
from boxwright.training.optim import apply_lr
from boxwright.training.scales import scale_batch
from boxwright.training.schedule import StepSettings
from boxwright.training.step import EagerStep, StepLosses, TrainStep
from boxwright.wording import counted

MOST_GRAPHS = 16
"""Graphs that are kept; of more shapes, the least used one gives way."""
SEEN_BEFORE = 3
"""Eager steps of a shape before it is captured: a shape that comes once is not worth it, and libraries choose their
kernels in the first steps."""
SIDE = 32
"""Height and width are padded to multiples of this many pixels, so that shapes repeat."""
FEWEST_BOXES = 8
"""Boxes are padded to 8, 16, 32, ..."""


class Recording(NamedTuple):
    """Captured work: call `replay` to do it again; `losses` are the tensors that it writes its results to."""

    replay: Callable[[], None]
    losses: StepLosses


class CudaCapture:
    """CUDA graphs that share one pool of memory."""

    does_the_work = False
    """Recording launches nothing: the first replay is the first time that the work is done."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], StepLosses]) -> Recording:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self._pool):
            losses = work()
        return Recording(graph.replay, losses)


class Capture(Protocol):
    """How work is recorded: `CudaCapture`, or a stand-in for it in tests on a CPU."""

    does_the_work: bool
    """Whether recording also does the work once."""

    def __call__(self, work: Callable[[], StepLosses]) -> Recording:
        """Record the work."""


@dataclass(frozen=True)
class Graph:
    """One captured shape: the batch whose buffers it reads, and its recording."""

    batch: Batch
    recording: Recording

    def take(self, batch: Batch) -> None:
        """Copy another batch of the same shape into the buffers."""
        for own, other in zip(tensors_of(self.batch), tensors_of(batch), strict=True):
            own.copy_(other, non_blocking=True)


class GraphStep:
    """A `TrainStep` that replays captured steps, and takes others operation by operation.

    Eager are: a shape until it was seen `SEEN_BEFORE` times; batches with masks, whose number of pixels differs from
    step to step; accumulated gradients; scaled gradients (fp16); several processes. The first of each is logged.
    """

    def __init__(self, eager: EagerStep, capture: Capture, log: Callable[[str], None] = lambda text: None) -> None:
        self.eager, self.capture, self.log = eager, capture, log
        self._graphs: OrderedDict[tuple[object, ...], Graph] = OrderedDict()
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._logged: set[str] = set()
        self._refused = False
        device = eager.accelerator.device
        # fused optimizers read a float32 on a GPU and the whole double on a CPU
        kind = torch.float64 if device.type == "cpu" else torch.float32
        for group in eager.state.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=kind, device=device).clone()
            if device.type == "cuda" and "capturable" in group:
                group["capturable"] = True
        if eager.state.average is not None:
            eager.state.average.share = torch.zeros((), device=device)

    def __call__(self, batches: Sequence[Batch], settings: StepSettings) -> StepLosses:
        """Learn from the batches; see `TrainStep`."""
        if (reason := self._why_eager(batches)) is not None:
            self._log_once(f"CUDA graphs: {reason}: these steps are taken operation by operation")
            return self.eager(batches, settings)
        (batch,) = batches
        batch = padded(scale_batch(batch, settings.scale) if settings.scale != 1.0 else batch)
        # what Python decides within a step is part of the key: it is fixed in the recording
        key = (settings.hold_statistics, *((tensor.shape, tensor.dtype) for tensor in tensors_of(batch)))
        graph = self._graphs.get(key)
        if graph is None:
            self._seen[key] += 1
            if self._seen[key] <= SEEN_BEFORE:
                return self.eager([batch], replace(settings, scale=1.0))
            return self._captured(key, batch, settings)
        self._graphs.move_to_end(key)
        graph.take(batch)
        self._set_numbers(settings)
        graph.recording.replay()
        return copied(graph.recording.losses)

    def _why_eager(self, batches: Sequence[Batch]) -> str | None:
        """Why these batches cannot be captured; None where they can."""
        state, accelerator = self.eager.state, self.eager.accelerator
        if accelerator.num_processes > 1:
            return "several processes train together"
        if state.scaler is not None:
            return "the gradient is scaled (fp16)"
        if len(batches) > 1:
            return "gradients are accumulated"
        if batches[0].targets.masks is not None:
            return "masks have another number of pixels in each batch"
        return "this detector cannot be captured" if self._refused else None

    def _log_once(self, sentence: str) -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            self.log(sentence)

    def _captured(self, key: tuple[object, ...], batch: Batch, settings: StepSettings) -> StepLosses:
        """Capture the step of a new shape, and take it."""
        if len(self._graphs) == MOST_GRAPHS:
            self._graphs.popitem(last=False)
        own = _cloned(batch)
        self._set_numbers(settings)
        self.eager.hold_statistics(settings.hold_statistics)
        try:
            recording = self.capture(lambda: self.eager.learn([own]))
        except RuntimeError as error:  # it waits for the device, or its shapes depend on values
            self._refused = True
            self._log_once(f"CUDA graphs: this detector cannot be captured ({str(error).splitlines()[0][:120]}): its "
                           "steps are taken operation by operation")  # fmt: skip
            self.eager.state.optimizer.zero_grad(set_to_none=True)
            if self.eager.state.average is not None:
                self.eager.state.average.updates -= 1  # the eager step counts this one
            return self.eager([batch], replace(settings, scale=1.0))
        self._graphs[key] = Graph(own, recording)
        height, width = batch.images.pixels.shape[-2:]
        self.log(
            f"CUDA graphs: {len(batch.images)} images of {height} x {width} with up to "
            f"{counted(batch.targets.boxes.shape[1], 'box')} captured ({len(self._graphs)} of {MOST_GRAPHS})"
        )
        if not self.capture.does_the_work:
            recording.replay()
        return copied(recording.losses)

    def _set_numbers(self, settings: StepSettings) -> None:
        """Write what differs from step to step into the tensors that a recording reads."""
        apply_lr(self.eager.state.optimizer, settings.lr)
        torch.manual_seed(settings.seed)
        if self.eager.state.average is not None:
            self.eager.state.average.advance()


def check_graphs(wanted: bool, device: torch.device) -> None:
    """Raise ValueError if `cuda_graphs` is set for a device that has none."""
    if wanted and device.type != "cuda":
        raise ValueError(f"cuda_graphs=true needs a CUDA GPU, and this run is on {device.type}: leave it out")


def training_step(eager: EagerStep, graphs: bool, log: Callable[[str], None]) -> TrainStep:
    """The eager step itself, or with `graphs` one that captures it."""
    return GraphStep(eager, CudaCapture(), log) if graphs else eager


def padded(batch: Batch) -> Batch:
    """The batch with sides of a multiple of `SIDE` and 8, 16, 32, ... boxes; what is added is marked as padding.

    >>> [next_size(count) for count in (0, 8, 9, 33)]
    [8, 8, 16, 64]
    """
    images, targets, indices, proposals = batch
    height, width = images.pixels.shape[-2:]
    pixels = F.pad(images.pixels, (0, -width % SIDE, 0, -height % SIDE))
    missing = next_size(targets.boxes.shape[1]) - targets.boxes.shape[1]
    rows = (0, missing)
    wider = Targets(
        F.pad(targets.boxes, (0, 0, *rows)), F.pad(targets.labels, rows), F.pad(targets.ignore, rows),
        F.pad(targets.valid, rows),
    )  # fmt: skip
    whole = ImageBatch(pixels, images.sizes_hw, images.original_hw, images.scale_xy, images.offset_xy)
    if proposals is not None:
        more = next_size(proposals.boxes.shape[1]) - proposals.boxes.shape[1]
        proposals = proposals.padded(more)
    return Batch(whole, wider, indices, proposals)


def next_size(count: int) -> int:
    """The number of boxes that so many are padded to."""
    size = FEWEST_BOXES
    while size < count:
        size *= 2
    return size


def tensors_of(batch: Batch) -> list[Tensor]:
    """All tensors of a batch without masks, in a fixed order."""
    images, targets, _, proposals = batch
    found = [images.pixels, images.sizes_hw, images.original_hw, images.scale_xy, images.offset_xy]
    found += [targets.boxes, targets.labels, targets.ignore, targets.valid]
    if proposals is not None:
        found += [proposals.boxes, proposals.scores, proposals.valid]
        found += [] if proposals.level is None else [proposals.level]
    return found


def _cloned(batch: Batch) -> Batch:
    """The batch in buffers of its own."""
    images, targets, indices, proposals = batch
    pixels = ImageBatch(
        images.pixels.clone(), images.sizes_hw.clone(), images.original_hw.clone(), images.scale_xy.clone(),
        images.offset_xy.clone(),
    )  # fmt: skip
    boxes = Targets(targets.boxes.clone(), targets.labels.clone(), targets.ignore.clone(), targets.valid.clone())
    return Batch(pixels, boxes, indices, None if proposals is None else proposals.cloned())


def copied(losses: StepLosses) -> StepLosses:
    """Losses that the next replay does not overwrite."""
    return StepLosses(
        losses.total.clone(),
        {name: value.clone() for name, value in losses.losses.items()},
        {name: value.clone() for name, value in losses.floors.items()},
    )
