"""How long a run would take, from a few timed steps; nothing is kept of them and nothing is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator

from boxwright.checkpoint import Checkpoint
from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Batch
from boxwright.inference.predictor import Detector
from boxwright.recipes.schema import Recipe
from boxwright.runtime.precision import compile_parts
from boxwright.training.accelerator import choose_accelerator
from boxwright.training.batches import training_batches
from boxwright.training.fine_tune import load_weights
from boxwright.training.graph_step import SEEN_BEFORE, GraphStep
from boxwright.training.memory import check_fits
from boxwright.training.on_device import batch_source
from boxwright.training.optim import WeightAverage, build_optimizer
from boxwright.training.prepare import image_sets, open_checked, open_proposals
from boxwright.training.run import overfit_overrides
from boxwright.training.schedule import Horizon, scaled
from boxwright.training.speed import (
    EXPECTED_GAIN,
    CompilingStep,
    check_speed,
    compile_cost,
    compiles_at_once,
    may_compile,
    pays,
    shapes_multiple,
    training_step,
)
from boxwright.training.start import open_start
from boxwright.training.state import Progress, RunSettings, TrainState
from boxwright.training.step import EagerStep, TrainStep
from boxwright.training.timing import now, typical
from boxwright.training.validate import validate
from boxwright.wording import counted

LEAST_STEPS = 8
"""Steps that are counted at least."""
CAPTURED_AFTER = 3 * (SEEN_BEFORE + 1)
"""Steps of each scale after which most shapes of batches are captured: images upright or not, few objects or many."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would cost on this machine. Seconds are of one process."""

    steps: int
    batch: int
    """Images a step, over all processes."""
    step_seconds: float
    waiting: float
    """Share of a step that goes into waiting for images."""
    validations: int
    validation_seconds: float
    """Of one validation, on all the images of the split that it uses."""
    memory: int
    """Bytes: the most that was held on a GPU, else the largest the process has been."""
    compiling: float = 0.0
    """Seconds that compiling parts of the network on the way is expected to take; 0 where the run would not."""

    @property
    def seconds(self) -> float:
        """The whole run."""
        step = self.step_seconds * (1 - EXPECTED_GAIN) if self.compiling else self.step_seconds
        return self.compiling + self.steps * step + self.validations * self.validation_seconds

    def sentence(self) -> str:
        """All of it in one line."""
        rate = self.batch / self.step_seconds
        compiled = ""
        if self.compiling:
            compiled = (
                f"; it would compile parts of the network, expected to take {duration(self.compiling)} and to save "
                f"{EXPECTED_GAIN:.0%} of each step"
            )
        return (
            f"{duration(self.seconds)}: {counted(self.steps, 'step')} of {counted(self.batch, 'image')} at "
            f"{self.step_seconds:.3g} s "
            f"({rate:.3g} images/s, {self.waiting:.0%} of it waiting for data), {self.validations} validations of "
            f"{duration(self.validation_seconds)} each; memory {self.memory / 2**30:.2g} GiB{compiled}"
        )


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(42), duration(750), duration(8000)
    ('42 s', '12.5 minutes', '2.2 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def estimate(
    recipe: str | None,
    data: str | Path,
    *,
    overrides: Sequence[str] = (),
    classes: str | None = None,
    train_split: str = "train",
    val_split: str = "val",
    weights: str | Path | None = None,
    overfit: int | None = None,
    minutes: float | None = None,
    device: str = "auto",
    seed: int = 0,
    proposals: str | Path | None = None,
) -> Estimate:
    """Time a few steps and one batch of validation of the run that `train` with these arguments would start.

    With a time budget (`minutes`) the number of steps is what fits into it.
    """
    if overfit is not None:
        overrides = [*overfit_overrides(overfit), *overrides]
    start = open_start(recipe, weights, overrides, device)
    settings = start.recipe
    accelerator, precision = choose_accelerator(device, settings.precision)
    where = accelerator.device
    check_speed(settings, where)
    opened = open_checked(
        data, classes=classes, train_split=train_split, val_split=val_split, overfit=overfit, recipe=settings,
        log=lambda _: None,
    )  # fmt: skip
    settings = opened.settled(settings)
    stored = open_proposals(None if proposals is None else str(proposals), settings, opened)
    torch.manual_seed(seed)
    # how fast a network is does not depend on its weights
    model = settings.build_model(len(opened.classes)).to(where, memory_format=torch.channels_last)
    assert isinstance(model, torch.nn.Module)
    if start.checkpoint is not None:  # its weights change nothing but what would be refused
        load_weights(model, opened.classes, start.checkpoint, str(start.source))
    numbers = scaled(settings, len(opened.train), accelerator.num_processes)
    train_set, val_set, aspects = image_sets(settings, opened, augment=overfit is None, proposals=stored)
    check_fits(model, train_set, settings, precision, where)
    average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
    if compiles_at_once(settings):
        compile_parts(model)
    progress = Progress(Horizon(0), fixed=False)  # every scale in turn
    state = TrainState(model, build_optimizer(model, settings.optim), average, accelerator.scaler, progress)
    run = RunSettings(
        settings, numbers, seed, None, now(), [record.path for record in train_set.records], len(val_set)
    )  # fmt: skip
    # how long the run is, is not told: nothing is compiled on the way
    step = training_step(state, accelerator, precision, settings, multiple=shapes_multiple(train_set, settings))
    warm = warm_steps(settings, captured=not isinstance(step, EagerStep))
    progress.horizon = Horizon(warm + counted_steps(settings))
    source = batch_source(settings.data, train_set, where, lambda _: None, graphs=settings.speed != "eager")
    batches = training_batches(run, progress, source, aspects, accelerator)
    step_seconds, waiting = _time_steps(run, progress, step, batches, accelerator, warm)
    detector = Detector(Checkpoint(settings, opened.classes, model.state_dict()), where, precision=precision)
    validation = _time_validation(detector, val_set, settings.validation.max_images)
    steps = numbers.steps
    if minutes is not None:
        steps = max(1, int(settings.validation.steps_within(minutes * 60, step_seconds, validation)))
    memory = largest_process_size()
    if where.type == "cuda":  # reserved: what graphs hold is not allocated
        memory = torch.cuda.max_memory_reserved(where)
    shapes = step.num_shapes if isinstance(step, GraphStep | CompilingStep) else 0
    compiles = may_compile(settings, where, accelerator.num_processes) and pays(step_seconds, steps, shapes)
    compiling = compile_cost(shapes) if compiles else 0.0
    return Estimate(
        steps, numbers.batch, step_seconds, waiting, settings.validation.count(steps), validation, memory, compiling
    )


def largest_process_size() -> int:
    """Bytes of memory that this process had at most; on Windows, which does not keep it, those that it has now."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().rss)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def warm_steps(recipe: Recipe, *, captured: bool = False) -> int:
    """Steps that are taken first and not counted: with multi-scale training one of each scale.

    Where steps are captured, so many of each that most of its shapes are.
    """
    return CAPTURED_AFTER * max(1, len(recipe.data.train_scales)) if captured else max(3, len(recipe.data.train_scales))


def counted_steps(recipe: Recipe) -> int:
    """Steps that are counted: with multi-scale training three of each scale."""
    return max(LEAST_STEPS, 3 * len(recipe.data.train_scales))


def _time_steps(
    run: RunSettings, progress: Progress, step: TrainStep, batches: Iterator[list[Batch]], accelerator: Accelerator,
    warm: int,
) -> tuple[float, float]:  # fmt: skip
    """Seconds of a step after `warm` of them, the mean over the scales, and the share spent waiting for images."""
    scales = len(run.recipe.data.train_scales) or 1
    waits: list[float] = []
    costs: list[float] = []
    while progress.step < progress.steps:
        start = time.perf_counter()
        group = next(batches)
        loaded = time.perf_counter()
        step(group, run.step(progress, accelerator.process_index))
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        waits.append(loaded - start)
        costs.append(time.perf_counter() - start)
        progress.step += 1
    each = [typical(costs[first::scales]) for first in range(warm, warm + scales)]
    return sum(each) / len(each), sum(waits[warm:]) / sum(costs[warm:])


def _time_validation(detector: Detector, images: DetectionDataset, limit: int | None) -> float:
    """Seconds of one validation, from a few batches of it."""
    total = min(len(images), limit or len(images))
    tiles = 1 if images.tiling is None else images.tiling.count(images.original_hw(0))
    part = min(max(1, 2 * detector.evaluation_batch // tiles), total)
    seconds = 0.0
    for _ in range(2):  # the first one makes a device ready
        start = time.perf_counter()
        validate(detector, images, limit=part)
        seconds = time.perf_counter() - start
    return seconds * total / part
