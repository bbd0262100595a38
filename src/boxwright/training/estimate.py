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
from boxwright.training.memory import check_fits
from boxwright.training.optim import WeightAverage, build_optimizer
from boxwright.training.prepare import image_sets, open_checked, open_proposals, worker_count
from boxwright.training.run import overfit_overrides
from boxwright.training.schedule import Horizon, scaled
from boxwright.training.start import open_start
from boxwright.training.state import Progress, RunSettings, TrainState
from boxwright.training.step import EagerStep, TrainStep
from boxwright.training.timing import now, typical
from boxwright.training.validate import validate
from boxwright.wording import counted

LEAST_STEPS = 8
"""Steps that are counted at least."""


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
    """Bytes: the most that was allocated on a GPU, else the largest the process has been."""

    @property
    def seconds(self) -> float:
        """The whole run."""
        return self.steps * self.step_seconds + self.validations * self.validation_seconds

    def sentence(self) -> str:
        """All of it in one line."""
        rate = self.batch / self.step_seconds
        return (
            f"{duration(self.seconds)}: {counted(self.steps, 'step')} of {counted(self.batch, 'image')} at "
            f"{self.step_seconds:.3g} s "
            f"({rate:.3g} images/s, {self.waiting:.0%} of it waiting for data), {self.validations} validations of "
            f"{duration(self.validation_seconds)} each; memory {self.memory / 2**30:.2g} GiB"
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
    start = open_start(recipe, weights, overrides)
    settings = start.recipe
    accelerator, precision = choose_accelerator(device, settings.precision)
    where = accelerator.device
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
    if settings.compile:
        compile_parts(model)
    progress = Progress(Horizon(warm_steps(settings) + counted_steps(settings)), fixed=False)  # every scale in turn
    state = TrainState(model, build_optimizer(model, settings.optim), average, accelerator.scaler, progress)
    run = RunSettings(
        settings, numbers, seed, None, now(), [record.path for record in train_set.records], len(val_set)
    )  # fmt: skip
    step = EagerStep(state, accelerator, precision, settings.optim.clip_norm)
    workers = worker_count(settings.data.workers, where, train_set.cached_bytes > 0)
    batches = training_batches(run, progress, train_set, aspects, workers, accelerator)
    step_seconds, waiting = _time_steps(run, progress, step, batches, accelerator)
    detector = Detector(Checkpoint(settings, opened.classes, model.state_dict()), where, precision=precision)
    validation = _time_validation(detector, val_set, settings.validation.max_images)
    steps = numbers.steps
    if minutes is not None:
        steps = max(1, int(settings.validation.steps_within(minutes * 60, step_seconds, validation)))
    memory = largest_process_size()
    if where.type == "cuda":
        memory = torch.cuda.max_memory_allocated(where)
    return Estimate(steps, numbers.batch, step_seconds, waiting, settings.validation.count(steps), validation, memory)


def largest_process_size() -> int:
    """Bytes of memory that this process had at most; on Windows, which does not keep it, those that it has now."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().rss)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def warm_steps(recipe: Recipe) -> int:
    """Steps that are taken first and not counted: with multi-scale training one of each scale."""
    return max(3, len(recipe.data.train_scales))


def counted_steps(recipe: Recipe) -> int:
    """Steps that are counted: with multi-scale training three of each scale."""
    return max(LEAST_STEPS, 3 * len(recipe.data.train_scales))


def _time_steps(
    run: RunSettings, progress: Progress, step: TrainStep, batches: Iterator[list[Batch]], accelerator: Accelerator
) -> tuple[float, float]:
    """Seconds of a step, the mean over the scales of the recipe, and the share spent waiting for images."""
    scales, warm = len(run.recipe.data.train_scales) or 1, warm_steps(run.recipe)
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
    part = min(2 * detector.evaluation_batch, total)
    seconds = 0.0
    for _ in range(2):  # the first one makes a device ready
        start = time.perf_counter()
        validate(detector, images, limit=part)
        seconds = time.perf_counter() - start
    return seconds * total / part
