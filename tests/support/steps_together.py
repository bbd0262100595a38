"""Training steps of two processes at once, for `two_processes.py`: as graphs, eager ones, and those of torch's DDP.

The first process has images of one size, which it soon replays; the second has two sizes, sometimes no box, and bad
luck: a capture that fails after it has met the other, and an eager step that runs out of memory there.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from accelerate.state import AcceleratorState
from recorded_graph import RecordedGraph
from tiny_steps import batch, run, same, settings, trained, weights

from boxwright.data.loader import Batch
from boxwright.ops.outside_graphs import splits
from boxwright.training.graph_step import GraphStep
from boxwright.training.static_batch import padded
from boxwright.training.step import EagerStep

WIDTHS = ((32,) * 13, (32,) * 5 + (48,) * 4 + (32, 48, 32, 32))
"""Of the images of each process, step by step."""
RESUMED_AT = 6
OF_DDP = 3
"""Steps that torch's DDP takes for comparison."""


class Unlucky:
    """The meeting of a step, after which two things go wrong."""

    def __init__(self, step: EagerStep, capture: RecordedGraph) -> None:
        assert step.gradient_mean is not None
        self.meet, self.capture, self.left = step.gradient_mean, capture, ["capture", "memory"]

    def __call__(self) -> None:
        self.meet()
        if splits and self.capture.recorded == 1 and "capture" in self.left:
            self.left.remove("capture")
            raise RuntimeError("something waits for the device")
        if not splits and self.left == ["memory"] and self.capture.replayed == 2:
            self.left.remove("memory")
            raise torch.OutOfMemoryError("not a byte is left")


def print_of(tensors: list[torch.Tensor]) -> list[float]:
    """A fingerprint."""
    return [float(one.detach().double().abs().sum()) for one in tensors]


def statistics(step: EagerStep) -> list[float]:
    """Of the running means of BatchNorm."""
    return [float(value.sum()) for name, value in step.state.model.named_buffers() if name.endswith("running_mean")]


def taken(rank: int) -> dict[str, Any]:
    """What this process found."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    given = [batch(9 * n + rank, (32, w), (n + 2 * rank) % 5 * (1 + rank)) for n, w in enumerate(WIDTHS[rank])]
    wide = [padded(one, 16) for one in given]
    found: dict[str, Any] = {}

    eager, ddp = trained("improved", meets_once=True), trained("improved")
    losses = []
    for step in (ddp, eager):
        losses.append(run(step, wide[:1]))
        found[f"statistics of {'DDP' if step is ddp else 'ours'}"] = statistics(step)
        losses[-1] += run(step, wide[1:OF_DDP], first=1)
    found["as DDP"] = losses[0] == losses[1] and all(
        torch.allclose(one, other, rtol=1e-5, atol=1e-7)
        for one, other in zip(ddp.state.model.parameters(), eager.state.model.parameters(), strict=True)
    )
    expected = losses[1] + run(eager, wide[OF_DDP:], first=OF_DDP)

    other, capture, lines = trained("improved", meets_once=True), RecordedGraph(), []  # type: Any, Any, list[str]
    graphs = GraphStep(other, capture, lines.append, multiple=16)
    if rank == 1:
        other.gradient_mean = Unlucky(other, capture)
    losses = run(graphs, given[:RESUMED_AT])
    saved = copy.deepcopy(other.state.training_dict())
    losses += run(graphs, given[RESUMED_AT:], first=RESUMED_AT)
    found |= {"same losses": losses == expected, "same weights": same(eager, other), "lines": lines}
    found |= {"recorded": capture.recorded, "replayed": capture.replayed, "splits": capture.splits}
    found["weights"] = print_of(weights(other))

    resumed, capture = trained("improved", meets_once=True), RecordedGraph()
    resumed.state.load(saved, 5)
    run(GraphStep(resumed, capture, multiple=16), given[RESUMED_AT:], first=RESUMED_AT)
    found |= {"resumed": same(eager, resumed), "replayed after that": capture.replayed}
    return found | overflowing(rank, wide)


def overflowing(rank: int, given: list[Batch]) -> dict[str, Any]:
    """With float16's scaler: the gradient of one process overflows in the second of three steps."""
    step: Any = trained("improved", meets_once=True)
    AcceleratorState._shared_state["_mixed_precision"] = "fp16"
    step.accelerator.native_amp, step.accelerator.scaler = True, torch.amp.GradScaler("cpu", 1024.0)
    step.accelerator._optimizers.clear()
    step._optimizer = step.accelerator.prepare_optimizer(step.state.optimizer)
    weight, meet = next(step.state.model.parameters()), step.gradient_mean

    def overflows() -> None:
        weight.grad[0].fill_(torch.inf)
        meet()

    moved = []
    for number in range(3):
        before = weight.detach().clone()
        step.gradient_mean = overflows if number == rank == 1 else meet
        step([given[number]], settings(number))
        moved.append(not torch.equal(before, weight.detach()))
    return {"moved": moved, "scale": step.accelerator.scaler.get_scale(), "after overflow": print_of(weights(step))}
