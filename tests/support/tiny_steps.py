"""Training steps of tiny detectors on tiny batches, eager ones and others, and whether they come to the same."""

from collections.abc import Callable
from typing import Any

import tiny_detectors
import torch
from accelerate import Accelerator

from boxwright.data.loader import Batch
from boxwright.recipes.schema import Optim
from boxwright.structures import GroundTruth, ImageBatch, Proposals, Targets
from boxwright.training.optim import WeightAverage, build_optimizer
from boxwright.training.schedule import Horizon, StepSettings
from boxwright.training.state import Progress, TrainState
from boxwright.training.step import EagerStep

SIZES = [(32, 32), (32, 48), (26, 44)]


def batch(seed: int, size: tuple[int, int], boxes: int, *, proposals: bool = False, masks: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(2)]
    ground_truths = []
    for count in (boxes, boxes // 2):
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] - 20.0, size[0] - 20.0])
        corners = torch.cat([corners, corners + 6 + 12 * torch.rand(count, 2, generator=generator)], 1)
        labels = torch.randint(0, 3, (count,), generator=generator)
        of = tiny_detectors.ground_truth if masks else GroundTruth.of
        ground_truths.append(of(corners.round() if masks else corners, labels))
    stored = Proposals.of([one.boxes + 2 for one in ground_truths]) if proposals else None
    return Batch(ImageBatch.of(images), Targets.of(ground_truths), (0, 1), stored)


def trained(name: str, kind: str = "adamw", *, meets_once: bool = False) -> EagerStep:
    torch.manual_seed(0)
    model = tiny_detectors.build(name, tiny_detectors.QUICK)
    optimizer = build_optimizer(model, Optim(kind=kind, lr=1e-3))
    for group in optimizer.param_groups:  # as on a GPU
        group.update(fused=True, foreach=False)
    state = TrainState(model, optimizer, WeightAverage(model, 0.9), None, Progress(Horizon(50, 5), True))
    return EagerStep(state, Accelerator(cpu=True), "fp32", clip_norm=1.0, meets_once=meets_once)


def settings(number: int) -> StepSettings:
    """A rate that float32 holds exactly, as it is read on a GPU."""
    return StepSettings(lr=(1 + number % 7) / 1024, seed=number, hold_statistics=number > 40)


def weights(step: EagerStep) -> list[torch.Tensor]:
    state = step.state
    assert state.average is not None
    slots = [slot for slots in state.optimizer.state.values() for slot in slots.values() if torch.is_tensor(slot)]
    return [*state.model.state_dict().values(), *state.average.model.state_dict().values(), *slots]


def same(one: EagerStep, other: EagerStep) -> bool:
    pairs = list(zip(weights(one), weights(other), strict=True))
    return all(torch.equal(a.detach().cpu(), b.detach().cpu()) for a, b in pairs)


def run(step: Callable[..., Any], batches: list[Batch], first: int = 0) -> list[Any]:
    """Take steps, and give their losses."""
    found = []
    for number, one in enumerate(batches, start=first):
        taken = step([one], settings(number))
        found.append([value.item() for value in (taken.total, *taken.losses.values(), *taken.floors.values())])
    return found


def changing(count: int, *, proposals: bool = False) -> list[Batch]:
    """Batches of three sizes and one to twelve boxes."""
    return [batch(n, SIZES[n * n % 3], 1 + n % 12, proposals=proposals) for n in range(count)]
