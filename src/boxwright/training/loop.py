"""The one training loop: a step, its numbers, a measurement now and then, and a checkpoint that resumes exactly.

Everything random in step n is a function of (seed, n): the pictures, their augmentation, and the network's own chance
(stochastic depth). So a checkpoint needs no generator states, and a resumed run repeats an uninterrupted one bit for
bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from boxwright.data.loader import Batch, PictureSet, StepSampler, draw_seed, make_loader
from boxwright.nn.norm import BATCH_NORMS
from boxwright.nn.precision import autocast
from boxwright.recipes.schema import Data, Recipe
from boxwright.structures import ImageBatch, Targets
from boxwright.training.optim import Plan, WeightAverage, apply_lr, lr_factor
from boxwright.training.timing import Timer, typical
from boxwright.training.validate import Measured

MEASURED_STEPS = 24
"""With a time budget: steps that are timed before the length of the run is fixed."""
LOG_EVERY = 20
"""Steps between log rows; on a GPU numbers are fetched only then."""
SAVE_SECONDS = 120.0
"""At most this much work is lost when the machine dies."""


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    steps: int
    """Optimiser steps of the whole run; provisional until `fixed`."""
    fixed: bool
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Of the seconds, those in which nothing was done but wait for pictures."""
    best_ap: float = -1.0
    best_step: int = 0
    since_best: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Losses added up since the last measurement, over `counted` steps."""
    counted: int = 0
    unmeasured: bool = False
    """Whether a measurement after this step failed, and comes first when the run goes on."""
    finished: bool = False


@dataclass(frozen=True)
class Job:
    """All that a run is made of, ready to go."""

    recipe: Recipe
    plan: Plan
    seed: int
    minutes: float | None
    accelerator: Accelerator
    precision: str
    model: Any
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    pictures: PictureSet
    aspects: list[float]
    workers: int
    measure: Callable[[Any], Measured]
    """Validate a model."""
    validation_pictures: int
    on_row: Callable[[dict[str, Any]], None]
    on_measured: Callable[[Measured, Progress, bool], None]
    """Called with a measurement, where the run stands, and whether it is the best so far."""
    on_progress: Callable[[Progress, dict[str, float]], None]
    save: Callable[[Progress], None]
    """Write the checkpoint `last` (main process)."""
    stop_wanted: Callable[[], bool]


def fit(job: Job, progress: Progress) -> Progress:
    """Train until the end, until patience or the user stops it; `progress` may come from a checkpoint."""
    torch.manual_seed(draw_seed(job.seed, progress.step))
    wrapped, optimizer = job.accelerator.prepare(job.model, job.optimizer)
    wrapped.train()
    timer = Timer()
    together = job.accelerator.num_processes > 1 and job.accelerator.device.type != "cpu"
    if progress.step == 0:
        job.save(progress)  # there is something to resume from the first step on
    if progress.unmeasured:
        _measure(job, progress)
    saved_at = time.monotonic()
    while progress.step < progress.steps or not progress.fixed:
        stop = progress.steps if progress.fixed else progress.step + MEASURED_STEPS
        for batches in timer.fetched(grouped_batches(job, progress, stop)):
            losses = training_step(job, wrapped, optimizer, batches, progress)
            _check_finite(job, losses, batches, progress)
            progress.step += 1
            progress.seconds += timer.lap()
            progress.waited += timer.waits[-1]
            _count(progress, losses)
            if progress.step % LOG_EVERY == 0:
                row = {"step": progress.step, "lr": _lr(job, progress.step - 1, progress)}
                numbers = _of_all_processes(job, losses)
                rate = job.plan.batch / mean(timer.laps)
                row |= {f"train/{k}": v for k, v in numbers.items()} | {"pictures_per_second": rate}
                row["waiting_for_data"] = sum(timer.waits) / sum(timer.laps)
                job.on_row(row)
                job.on_progress(progress, row)
            if progress.fixed and job.recipe.validation.due(progress.step, progress.steps):
                _measure(job, progress)
                saved_at = time.monotonic()
                timer.restart()
            # processes on GPUs agree now and then only: it makes them wait
            stopping = (not together or progress.step % LOG_EVERY == 0) and job.stop_wanted()
            if stopping or time.monotonic() - saved_at > SAVE_SECONDS:
                job.save(progress)
                saved_at = time.monotonic()
            if stopping:
                return progress
            if progress.fixed and progress.step >= progress.steps:
                break
        if not progress.fixed:
            _fix_length(job, progress, timer)
    progress.finished = True
    job.save(progress)
    return progress


def grouped_batches(job: Job, progress: Progress, stop: int) -> Iterator[list[Batch]]:
    """The batches of each step from where the run stands: one, or as many as are accumulated."""
    accumulate = job.recipe.optim.accumulate
    mosaic_part = job.recipe.data.augment.mosaic_until
    mosaic_stop = math.floor(progress.steps * mosaic_part) if progress.fixed else stop
    sampler = StepSampler(
        job.aspects, job.recipe.data.batch_size, seed=job.seed, start=progress.step * accumulate,
        stop=stop * accumulate, mosaic_stop=mosaic_stop * accumulate,
        rank=job.accelerator.process_index, world=job.accelerator.num_processes,
    )  # fmt: skip
    loader = make_loader(
        job.pictures, sampler, workers=job.workers, pin=job.accelerator.device.type == "cuda"
    )  # fmt: skip
    group: list[Batch] = []
    for batch in loader:
        group.append(batch)
        if len(group) == accumulate:
            yield group
            group = []


def training_step(
    job: Job, wrapped: Any, optimizer: Any, batches: list[Batch], progress: Progress
) -> dict[str, Tensor]:  # fmt: skip
    """One optimiser step; gives the detached losses, their total as "loss"."""
    accelerator, step = job.accelerator, progress.step
    apply_lr(optimizer, _lr(job, step, progress))
    torch.manual_seed(draw_seed(job.seed, (step << 20) + 1 + accelerator.process_index))
    scale = batch_scale(job.recipe.data, job.seed, step, progress)
    _hold_statistics(job, progress)
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        images = batch.images.to(accelerator.device, non_blocking=True)
        targets = batch.targets.to(accelerator.device, non_blocking=True)
        proposals = batch.proposals
        if proposals is not None:
            proposals = proposals.to(accelerator.device, non_blocking=True)
        if scale != 1.0:
            height, width = images.pixels.shape[-2:]
            images, targets = scale_batch(images, targets, scale)
            if proposals is not None:
                proposals = proposals.scaled(images.pixels.shape[-1] / width, images.pixels.shape[-2] / height)
        last = number == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(wrapped):
            with autocast(accelerator.device, job.precision):
                outputs = wrapped(images, targets, proposals)
            losses = job.model.loss(outputs, targets)
            total = torch.stack([value for name, value in losses.items() if not name.endswith("_floor")]).sum()
            accelerator.backward(total / len(batches))
        for name, value in {"loss": total, **losses}.items():
            sums[name] = sums.get(name, 0.0) + value.detach() / len(batches)
    if job.recipe.optim.clip_norm is not None:
        accelerator.clip_grad_norm_(job.model.parameters(), job.recipe.optim.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if job.average is not None:
        job.average.update(job.model)
    return sums


def _hold_statistics(job: Job, progress: Progress) -> None:
    """In the last part of a run BatchNorm normalises as it will in use, by its running statistics."""
    if progress.fixed and progress.step >= progress.steps * job.recipe.schedule.hold_statistics_from:
        for module in job.model.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()


def batch_scale(data: Data, seed: int, step: int, progress: Progress) -> float:
    """The multi-scale factor of a step, the same on every process."""
    if not data.train_scales:
        return 1.0
    if not progress.fixed:  # every factor in turn, to learn what each costs
        return data.train_scales[step % len(data.train_scales)]
    if data.scale_order == "random":
        return data.train_scales[draw_seed(seed + 1, step) % len(data.train_scales)]
    return data.train_scales[step * len(data.train_scales) // progress.steps]


def scale_batch(images: ImageBatch, targets: Targets, factor: float) -> tuple[ImageBatch, Targets]:
    """The whole batch at another size, on the device: pixels, sizes, boxes and masks."""
    height, width = (max(32, round(side * factor)) for side in images.pixels.shape[-2:])
    sides = (width / images.pixels.shape[-1], height / images.pixels.shape[-2])
    # filled on the device: a tensor made on the host would make a GPU wait
    factors = torch.stack([torch.full((), side, device=images.pixels.device) for side in sides])  # x, y
    pixels = F.interpolate(images.pixels.float(), size=(height, width), mode="bilinear", antialias=True)
    pixels = pixels.round().clamp(0, 255).to(torch.uint8) if images.pixels.dtype == torch.uint8 else pixels
    sizes = (images.sizes_hw * factors.flip(0)).round().long()
    scaled = ImageBatch(pixels, sizes, images.original_hw, images.scale_xy * factors, images.offset_xy * factors)
    return scaled, targets.scaled(factors)


def _lr(job: Job, step: int, progress: Progress) -> float:
    warmup = max(job.plan.warmup_steps, MEASURED_STEPS)  # a budget's first steps do not depend on its length
    if progress.fixed:
        warmup = min(job.plan.warmup_steps, max(1, progress.steps // 4))
    return job.plan.lr * lr_factor(step, progress.steps, warmup, job.recipe.schedule)


def _check_finite(job: Job, losses: dict[str, Tensor], batches: list[Batch], progress: Progress) -> None:
    """Stop at a loss that is no number, and name the pictures; on a GPU it is looked at with the log only."""
    on_gpu = job.accelerator.device.type != "cpu"
    if on_gpu and (progress.step + 1) % LOG_EVERY:
        return
    if bool(torch.isfinite(losses["loss"])):
        return
    broken = {name: float(value) for name, value in losses.items() if not bool(torch.isfinite(value))}
    names = [str(job.pictures.records[index].path) for batch in batches for index in batch.indices]
    since = f" or in the {LOG_EVERY - 1} steps before" if on_gpu else ""
    raise FloatingPointError(
        f"the loss is not a number at step {progress.step}{since} ({broken}); pictures of this step: "
        f"{', '.join(names)}. The last checkpoint is from before; a lower optim.lr or optim.clip_norm=10 often helps"
    )


def _count(progress: Progress, losses: dict[str, Tensor]) -> None:
    """Add the losses up for the next measurement; tensors stay on the device until then."""
    for name, value in losses.items():
        number: Any = float(value) if value.device.type == "cpu" else value
        progress.sums[name] = progress.sums.get(name, 0.0) + number
    progress.counted += 1


def _of_all_processes(job: Job, sums: dict[str, Any]) -> dict[str, float]:
    """Losses of the whole batch: the mean over processes, which divide theirs by the positives of the mean process."""
    numbers = {name: float(value) for name, value in sums.items()}
    if job.accelerator.num_processes == 1:
        return numbers
    own = torch.tensor(list(numbers.values()), dtype=torch.float64, device=job.accelerator.device)
    return dict(zip(numbers, job.accelerator.reduce(own, "mean").tolist(), strict=True))


def _measure(job: Job, progress: Progress) -> None:
    """Validate, say and save; the last step is this one where patience is over."""
    start = time.monotonic()
    model = job.average.model if job.average is not None else job.model
    if job.accelerator.num_processes > 1:  # BatchNorm's statistics are each process's own; the first one's are saved
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    try:
        measured = job.measure(model)
    except (ValueError, OSError):  # a damaged picture
        progress.unmeasured = True
        with suppress(ValueError, OSError, FloatingPointError):
            job.save(progress)
        raise
    progress.unmeasured = False
    ap = measured.ap or 0.0
    best = ap > progress.best_ap
    if best:
        progress.best_ap, progress.best_step, progress.since_best = ap, progress.step, 0
    else:
        progress.since_best += 1
    row: dict[str, Any] = {"step": progress.step, "epoch": progress.step * job.plan.batch / len(job.pictures)}
    sums = _of_all_processes(job, progress.sums)
    row |= {f"train/{name}": value / progress.counted for name, value in sums.items()}
    validation = {name: value for name, value in measured.losses.items()}
    total = sum(value for name, value in validation.items() if not name.endswith("_floor"))
    row |= {f"val/{name}": value for name, value in {"loss": total, **validation}.items()}
    row |= {"val/AP": measured.coco.ap, "val/AP50": measured.coco.ap50, "val/AP75": measured.coco.ap75}
    if measured.segm is not None:
        row |= {"val/segm_AP": measured.segm.ap, "val/segm_AP50": measured.segm.ap50}
    row |= {"lr": _lr(job, progress.step - 1, progress)}
    progress.sums, progress.counted = {}, 0
    progress.seconds += time.monotonic() - start
    row["seconds"] = round(progress.seconds, 2)
    job.on_row(row)
    job.on_measured(measured, progress, best)
    patience = job.recipe.validation.patience
    if patience is not None and progress.since_best >= patience:
        progress.steps = progress.step
    job.save(progress)


def _fix_length(job: Job, progress: Progress, timer: Timer) -> None:
    """With a time budget: how many steps still fit, measurements counted in, decided once and saved."""
    assert job.minutes is not None
    scales = job.recipe.data.train_scales or (1.0,)
    steps = range(progress.step - len(timer.laps), progress.step)
    laps = list(zip(steps, timer.laps, strict=True))[-len(timer.laps) * 3 // 4 :]  # not the first: memory, workers
    costs = [typical([lap for step, lap in laps if scales[step % len(scales)] == scale]) for scale in scales]
    step_seconds = sum(costs) / len(costs)
    forward = 0.4 * max(costs) / job.plan.batch * job.validation_pictures
    left = job.minutes * 60 - progress.seconds
    more = job.recipe.validation.steps_within(left, step_seconds, forward)
    count = torch.tensor(progress.step + max(1.0, more), device=job.accelerator.device)
    progress.steps = int(job.accelerator.gather(count).min())  # the slowest process decides for all
    progress.fixed = True
    job.save(progress)


def progress_state(progress: Progress) -> dict[str, Any]:
    """The progress as plain data for a checkpoint."""
    state = asdict(progress)
    state["sums"] = {name: float(value) for name, value in progress.sums.items()}
    return state
