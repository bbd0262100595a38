"""The training step as CUDA graphs: one for each shape of a batch, replayed without Python.

A small network spends most of a step on a GPU in launching kernels. Captured once, forward, losses, backward, clipping,
optimizer and weight average run again as one launch, on whatever lies in the same buffers. So everything that differs
between two steps is a tensor there: pixels, boxes, the learning rate, the share of the weight average, the scale of the
loss. Chance is drawn by the device's generator, whose seed each step sets as an eager one does.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import Tensor, nn

from boxwright.data.loader import Batch
from boxwright.models.box_branch import BoxBranch
from boxwright.ops.processes import Answers
from boxwright.runtime.cuda_graphs import Capture, Recording, Stopwatch
from boxwright.training.optim import apply_lr
from boxwright.training.scales import scale_batch
from boxwright.training.schedule import StepSettings
from boxwright.training.static_batch import padded, tensors_of, with_tensors
from boxwright.training.step import EagerStep, StepLosses
from boxwright.training.timing import now
from boxwright.training.undo import Undo
from boxwright.wording import counted

MOST_GRAPHS = 32
"""Graphs that are kept; of more shapes, the least used gives way to one that comes more than twice as often."""
FORGOTTEN_AFTER = 256
"""Steps after which how often a shape came counts half."""
SEEN_BEFORE = 3
"""Eager steps of a shape before it is captured: a shape that comes once is not worth it, and libraries choose their
kernels in the first steps."""
LAPS = 5
"""Replays of a shape after which its time is compared with that of its eager steps."""

Key = tuple[object, ...]


@dataclass
class Laps:
    """The last seconds of the steps of one shape, as eager ones and as replays."""

    eager: deque[float] = field(default_factory=lambda: deque(maxlen=LAPS))
    replayed: deque[float] = field(default_factory=lambda: deque(maxlen=LAPS))


@dataclass(frozen=True)
class Graph:
    """One captured shape: the batch whose buffers it reads, and its recording."""

    batch: Batch
    recording: Recording[StepLosses]

    def take(self, batch: Batch) -> None:
        """Copy another batch of the same shape into the buffers."""
        for own, other in zip(tensors_of(self.batch), tensors_of(batch), strict=True):
            own.copy_(other, non_blocking=True)


class GraphStep:
    """A `TrainStep` that replays captured steps, and takes others operation by operation.

    Eager are: a shape until it was seen `SEEN_BEFORE` times; batches with masks, whose number of pixels differs from
    step to step; box heads with BatchNorm; accumulated gradients; a shape whose replays are not faster. The first of
    each is logged. Where BatchNorm begins to hold its statistics, every shape is captured anew.

    Several processes meet between graphs, in the same places as in an eager step. So each decides by itself what it
    captures and replays, whatever the others do; only seconds, which are those of the slowest, decide nothing.

    Args:
        eager: the step that is captured; ValueError where processes meet in the middle of its backward pass.
        capture: records it.
        log: is told what is captured, and why something is not.
        multiple: batches are padded to sides of a multiple of so many pixels.
    """

    def __init__(
        self, eager: EagerStep, capture: Capture, log: Callable[[str], None] = lambda text: None, multiple: int = 1
    ) -> None:
        self.eager, self.capture, self.log, self.multiple = eager, capture, log, multiple
        self._alone = eager.accelerator.num_processes == 1
        if not self._alone and eager.gradient_mean is None:
            raise ValueError("graphs of several processes: expected an EagerStep with meets_once=True, got one without")
        self._graphs: dict[Key, Graph] = {}
        self._seen: Counter[Key] = Counter()
        self._uses: Counter[Key] = Counter()
        self._steps = 0
        self._laps: dict[Key, Laps] = {}
        self._running: deque[tuple[deque[float], Stopwatch]] = deque(maxlen=64)
        self._kept_eager: set[Key] = set()
        self._logged: set[str] = set()
        self._refused = False
        device = eager.accelerator.device
        model: nn.Module = eager.state.model
        self._counts_regions = any(
            isinstance(part, BoxBranch) and part.cuts_padding(device) for part in model.modules()
        )
        # fused optimizers read a float32 on a GPU and the whole double on a CPU
        kind = torch.float64 if device.type == "cpu" else torch.float32
        for group in eager.state.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=kind, device=device).clone()
        if eager.state.average is not None:
            eager.state.average.share = torch.zeros((), device=device)

    def __call__(self, batches: Sequence[Batch], settings: StepSettings) -> StepLosses:
        """Learn from the batches; see `TrainStep`."""
        if self._refused:
            return self.eager(batches, settings)
        if (reason := self._why_eager(batches)) is not None:
            self._log_once(f"CUDA graphs: {reason}: these steps are taken operation by operation")
            return self.eager(batches, settings)
        (batch,) = batches
        batch = padded(scale_batch(batch, settings.scale) if settings.scale != 1.0 else batch, self.multiple)
        settings = replace(settings, scale=1.0)
        # what Python decides within a step is part of the key: it is fixed in the recording
        key = (settings.hold_statistics, *((tensor.shape, tensor.dtype) for tensor in tensors_of(batch)))
        laps = self._laps.setdefault(key, Laps())
        self._read_laps(key)
        self._count(key)
        graph = self._graphs.get(key)
        if graph is not None:
            return self._timed(laps.replayed, lambda: self._replayed(graph, batch, settings))
        if self._seen[key] > SEEN_BEFORE and key not in self._kept_eager and self._has_room(key):
            return self._captured(key, batch, settings)
        return self._timed(laps.eager, lambda: self._uncaptured(batch, settings))

    @property
    def seconds(self) -> float | None:
        """What a captured step takes, the mean over shapes as often as they come; None before that is known."""
        known = [(self._seen[key], median(laps.replayed)) for key, laps in self._laps.items() if laps.replayed]
        return sum(count * lap for count, lap in known) / sum(count for count, _ in known) if known else None

    @property
    def num_shapes(self) -> int:
        """How many shapes are captured."""
        return len(self._graphs)

    def forget(self) -> None:
        """Drop every recording: what it recorded has changed."""
        self._graphs.clear()
        self._laps.clear()
        self._seen.clear()
        self._uses.clear()
        self._running.clear()
        self.capture.forget()

    def _why_eager(self, batches: Sequence[Batch]) -> str | None:
        """Why these batches cannot be captured; None where they can."""
        if len(batches) > 1:
            return "gradients are accumulated"
        if batches[0].targets.masks is not None:
            return "masks have another number of pixels in each batch"
        if batches[0].targets.keypoints is not None:
            return "keypoints are learnt in another number of regions in each batch"
        if batches[0].targets.rotated is not None:
            return "rotated boxes have another number of samples in each batch"
        return "a norm of the box head needs to know how many regions there are" if self._counts_regions else None

    def _count(self, key: Key) -> None:
        """Count a step of a shape: since the beginning, and lately."""
        self._steps += 1
        if self._steps % FORGOTTEN_AFTER == 0:
            self._uses = Counter({other: uses // 2 for other, uses in self._uses.items()})
        self._seen[key] += 1
        self._uses[key] += 1

    def _has_room(self, key: Key) -> bool:
        """Whether a shape may be captured, if need be in the place of another; where memory is short this is logged."""
        if not self.capture.has_room():
            self._log_once(
                "CUDA graphs: the memory of the device does not suffice for graphs beside other steps: new shapes are "
                "taken operation by operation"
            )
            return False
        if len(self._graphs) < MOST_GRAPHS:
            return True
        least = min(self._graphs, key=self._uses.__getitem__)
        if self._uses[key] <= 2 * self._uses[least]:
            return False
        del self._graphs[least]
        return True

    def _uncaptured(self, batch: Batch, settings: StepSettings) -> StepLosses:
        """An eager step; if the memory does not suffice for it beside the graphs, they give way."""
        undo, answers = Undo(self.eager.state) if self._graphs else None, Answers()
        try:
            with answers.kept() if undo is not None else nullcontext():
                return self.capture.aside(lambda: self.eager([batch], settings))
        except torch.OutOfMemoryError:
            if undo is None:
                raise
        undo()  # not before the error, which holds what the step had made, is gone
        self.forget()
        self._log_once("CUDA graphs: a step needed the memory of all graphs: they are captured anew")
        with answers.kept():
            return self.capture.aside(lambda: self.eager([batch], settings))

    def _log_once(self, sentence: str) -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            self.log(sentence)

    def _timed(self, laps: deque[float], step: Callable[[], StepLosses]) -> StepLosses:
        """Take a step, and the time that it needs on the device once that is over."""
        watch = self.capture.start_stopwatch()
        losses = step()
        watch.stop()
        self._running.append((laps, watch))
        return losses

    def _read_laps(self, key: Key) -> None:
        """Collect the times of steps that are over; a shape whose replays are not faster is eager from then on."""
        while self._running and (seconds := self._running[0][1].seconds()) is not None:
            self._running.popleft()[0].append(seconds)
        if not self._alone:  # a step of any shape takes what the slowest process needs
            return
        laps = self._laps[key]
        if key not in self._graphs or len(laps.replayed) < LAPS or not laps.eager:
            return
        replayed, eager = median(laps.replayed), min(laps.eager)  # the first eager ones made the device ready
        if replayed > eager:
            self._kept_eager.add(key)
            del self._graphs[key]
            self._log_once(
                f"CUDA graphs: a step of one shape takes {replayed * 1000:.3g} ms, operation by operation "
                f"{eager * 1000:.3g} ms: such shapes are taken so"
            )
        elif not any(sentence.startswith("CUDA graphs: a step takes") for sentence in self._logged):
            self._log_once(f"CUDA graphs: a step takes {replayed * 1000:.3g} ms instead of {eager * 1000:.3g} ms")

    def _replayed(self, graph: Graph, batch: Batch, settings: StepSettings) -> StepLosses:
        graph.take(batch)
        self._set_numbers(settings)
        graph.recording.replay()
        return copied(graph.recording.result)

    def _captured(self, key: Key, batch: Batch, settings: StepSettings) -> StepLosses:
        """Take the step of a new shape, and record it."""
        start = now()
        own = with_tensors(batch, torch.clone)
        undo, answers = Undo(self.eager.state), Answers()
        self._set_numbers(settings)
        self.eager.hold_statistics(settings.hold_statistics)
        try:
            with _capturable(self.eager.state.optimizer), answers.kept():
                recording = self.capture(lambda: self.eager.learn([own]))
        except RuntimeError as error:  # it waits for the device, its shapes depend on values, or memory is short
            undo()
            self._kept_eager.add(key)
            self._refused = not self._graphs
            what = "this shape" if self._graphs else "this detector"
            reason = str(error).splitlines()[0][:120]
            self._log_once(
                f"CUDA graphs: {what} cannot be captured ({reason}): its steps are taken operation by operation"
            )
            with answers.kept():
                return self.eager([batch], settings)
        self._graphs[key] = Graph(own, recording)
        height, width = batch.images.pixels.shape[-2:]
        self.log(
            f"CUDA graphs: {counted(len(batch.images), 'image')} of {height} x {width} with up to "
            f"{counted(batch.targets.boxes.shape[1], 'box')} captured in {now() - start:.1f} s ({len(self._graphs)} of "
            f"{MOST_GRAPHS}, {self.capture.memory() / 2**20:.0f} MiB)"
        )
        return copied(recording.result)

    def _set_numbers(self, settings: StepSettings) -> None:
        """Write what differs from step to step into the tensors that a recording reads."""
        apply_lr(self.eager.state.optimizer, settings.lr)
        torch.manual_seed(settings.seed)
        if self.eager.state.average is not None:
            self.eager.state.average.advance()


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """A context in which an optimizer lets itself be captured; AdamW asks for it, SGD needs nothing."""
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    for group in groups:
        group["capturable"] = group["params"][0].is_cuda
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


def copied(losses: StepLosses) -> StepLosses:
    """Losses that the next replay does not overwrite."""
    values = torch.stack([losses.total, *losses.losses.values(), *losses.floors.values()]).unbind()
    names, rest = list(losses.losses), values[1 + len(losses.losses) :]
    parts: dict[str, Tensor] = dict(zip(names, values[1:], strict=False))
    return StepLosses(values[0], parts, dict(zip(losses.floors, rest, strict=True)))
