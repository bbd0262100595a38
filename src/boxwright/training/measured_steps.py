"""How fast a recipe trains on this machine: seconds an iteration, images a second, peak memory.

Batches are synthetic and lie on the device already, so this is the training step alone; `train --estimate` times a run
with its own images, loading and validation too.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.data.loader import Batch
from boxwright.models import MODELS
from boxwright.ops.image import resize_plan
from boxwright.recipes.schema import Recipe
from boxwright.runtime.precision import compile_parts
from boxwright.structures import CroppedMask, GroundTruth, ImageBatch, Proposals, Targets
from boxwright.training.accelerator import choose_accelerator
from boxwright.training.estimate import counted_steps, largest_process_size, warm_steps
from boxwright.training.optim import WeightAverage, build_optimizer
from boxwright.training.schedule import Horizon, StepSettings
from boxwright.training.speed import check_speed, compiles_at_once, training_step
from boxwright.training.state import Progress, TrainState
from boxwright.training.step import EagerStep
from boxwright.training.timing import typical

PHOTOGRAPH = (480, 640)
"""Pixels: the size of an image before it is resized, a usual one of COCO."""
OBJECTS = 7
"""Of an image, as many as COCO's have in the mean."""
PROPOSALS = 1000
"""Of an image, for detectors that take stored ones."""


class TrainingSpeed(NamedTuple):
    """What training steps of a recipe take; seconds are the mean over its training scales."""

    seconds_per_iteration: float
    images_per_second: float
    memory_gb: float
    """GiB: the most that was reserved on a GPU, else the largest that the process has been."""
    batch: int
    """Images an iteration: `data.batch_size` times `optim.accumulate`."""
    height: int
    width: int
    """Pixels of an image at network size, before `data.train_scales`."""
    precision: str
    device: str


def training_speed(recipe: Recipe, *, device: str = "auto", num_classes: int = 80, steps: int = 0) -> TrainingSpeed:
    """Time `steps` training steps of a recipe (if 0, three of each scale, and 8 at least) after some that warm up.

    Raises ValueError for a device that there is not, and where the recipe cannot run on it.
    """
    accelerator, precision = choose_accelerator(device, recipe.precision)
    where = accelerator.device
    check_speed(recipe, where)
    classes = 1 if MODELS[recipe.model.name].one_class else num_classes
    torch.manual_seed(0)
    model = recipe.build_model(classes).to(where, memory_format=torch.channels_last)
    assert isinstance(model, torch.nn.Module)
    average = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay else None
    if compiles_at_once(recipe):
        compile_parts(model)
    progress = Progress(Horizon(1), fixed=True)
    state = TrainState(model, build_optimizer(model, recipe.optim), average, accelerator.scaler, progress)
    step = training_step(state, accelerator, precision, recipe)  # nothing is compiled on the way: the run has no length
    size = resize_plan(PHOTOGRAPH, recipe.data.resize.training_rule()).size_hw
    group = [synthetic_batch(recipe, classes, size).to(where) for _ in range(recipe.optim.accumulate)]
    scales = recipe.data.train_scales or (1.0,)
    warm = warm_steps(recipe, captured=not isinstance(step, EagerStep))
    costs: list[float] = []
    for number in range(warm + (steps or counted_steps(recipe))):
        start = time.perf_counter()
        step(group, StepSettings(lr=1e-6, scale=scales[number % len(scales)], seed=number, hold_statistics=False))
        if where.type == "cuda":
            torch.cuda.synchronize()
        if number >= warm:
            costs.append(time.perf_counter() - start)
    each = [typical(costs[first :: len(scales)]) for first in range(min(len(scales), len(costs)))]
    seconds, batch = sum(each) / len(each), recipe.data.batch_size * recipe.optim.accumulate
    memory = torch.cuda.max_memory_reserved(where) if where.type == "cuda" else largest_process_size()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    return TrainingSpeed(seconds, batch / seconds, memory / 2**30, batch, *size, precision, name)


def synthetic_batch(recipe: Recipe, num_classes: int, size_hw: tuple[int, int]) -> Batch:
    """A batch of noise at network size with random objects, and the masks, keypoints, labels or proposals it needs."""
    generator = torch.Generator().manual_seed(0)
    count = recipe.data.batch_size
    pixels = torch.randint(0, 256, (count, 3, *size_hw), generator=generator, dtype=torch.uint8)
    ground_truths = []
    for _ in range(count):
        boxes = _boxes(OBJECTS, size_hw, generator)
        labels = torch.randint(0, num_classes, (OBJECTS,), generator=generator)
        masks = [_filled(box) for box in boxes.tolist()] if recipe.needs_masks else None
        points = _points(boxes, recipe.num_keypoints, generator) if recipe.num_keypoints else None
        semantic = None
        if recipe.needs_semantic:
            semantic = torch.randint(0, 2, size_hw, generator=generator, dtype=torch.uint8)
        ground_truths.append(GroundTruth.of(boxes, labels, masks=masks, keypoints=points, semantic=semantic))
    stored = None
    if MODELS[recipe.model.name].needs_proposals:
        stored = Proposals.of([_boxes(PROPOSALS, size_hw, generator) for _ in range(count)])
    return Batch(ImageBatch.of(list(pixels)), Targets.of(ground_truths), tuple(range(count)), stored)


def _boxes(count: int, size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Boxes (count, 4) of sides between a twentieth and a half of the image, anywhere in it."""
    limits = torch.tensor([size_hw[1], size_hw[0]], dtype=torch.float32)
    sides = limits * (0.05 + 0.45 * torch.rand(count, 2, generator=generator))
    corners = (limits - sides) * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1)


def _points(boxes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Visible keypoints (N, count, 3) anywhere in boxes (N, 4)."""
    corner, sides = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    points = corner + sides * torch.rand(len(boxes), count, 2, generator=generator)
    return torch.cat([points, torch.full((len(boxes), count, 1), 2.0)], dim=2)


def _filled(box: list[float]) -> CroppedMask:
    """The mask of an object that fills its box."""
    x1, y1, x2, y2 = (round(value) for value in box)
    return CroppedMask(x1, y1, torch.ones(max(1, y2 - y1), max(1, x2 - x1), dtype=torch.bool))
