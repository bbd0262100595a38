"""The one training loop: a step, its numbers, a measurement now and then, and a checkpoint that resumes exactly.

Everything random in step n is a function of (seed, n): the images, their augmentation, and the network's own chance
(stochastic depth). So a checkpoint needs no generator states, and a resumed run repeats an uninterrupted one bit for
bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from statistics import mean
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Batch, make_loader
from boxwright.data.sampler import AHEAD, StepSampler, draw_seed
from boxwright.nn.norm import BATCH_NORMS
from boxwright.recipes.schema import Recipe
from boxwright.runtime.precision import autocast
from boxwright.training.budget import (
    Pace,
    checks_within,
    first_plan,
    steps_left,
    until_next_plan,
    validation_seconds,
)
from boxwright.training.optim import WeightAverage, apply_lr
from boxwright.training.scales import batch_scale, scale_batch, scale_index
from boxwright.training.schedule import Horizon, Plan, lr_factor, validation_due, validations_left
from boxwright.training.timing import Timer, now
from boxwright.training.validate import Measured

ENDLESS = 1 << 40
LOG_EVERY = 20
"""Steps between log rows; on a GPU numbers are fetched only then."""
SAVE_SECONDS = 120.0
"""At most this much work is lost when the machine dies."""


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    horizon: Horizon
    """The length of the run; provisional until `fixed`."""
    fixed: bool
    """Whether the length is known: with a time budget after the first few steps, from which on it may change."""
    step: int = 0
    seconds: float = 0.0
    """Since the call of `train`, over all processes that went on with the run."""
    waited: float = 0.0
    """Of the seconds, those in which nothing was done but wait for images."""
    best_ap: float = -1.0
    best_step: int = 0
    since_best: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Losses added up since the last measurement, over `counted` steps."""
    counted: int = 0
    unmeasured: bool = False
    """Whether a measurement after this step failed, and comes first when the run goes on."""
    finished: bool = False
    pace: Pace = field(default_factory=Pace)
    """With a time budget: what steps cost."""
    mosaic_stops: list[tuple[int, int]] = field(default_factory=list)
    """With a time budget: for each of the last plans the step after which it was made, and where mosaics end in it."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, as planned now."""
        return self.horizon.steps

    @property
    def planned(self) -> Horizon | None:
        """The length of the run, where it is known."""
        return self.horizon if self.fixed else None

    def mosaics(self, step: int, until: float) -> bool:
        """Whether the images of a step may be mosaics, by the last plan that the loader can know of by then."""
        if not self.pace.relative:
            return not self.fixed or step < math.floor(self.horizon.position(until))
        known = [stop for made, stop in self.mosaic_stops if made + AHEAD <= step]
        return not known or step < known[-1]


@dataclass(frozen=True)
class Job:
    """All that a run is made of, ready to go."""

    recipe: Recipe
    plan: Plan
    seed: int
    minutes: float | None
    started: float
    """When `train` was called, on the clock of `timing.now`."""
    accelerator: Accelerator
    precision: str
    model: Any
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    images: DetectionDataset
    aspects: list[float]
    workers: int
    measure: Callable[[Any], Measured]
    """Validate a model."""
    validation_images: int
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
    before = progress.seconds - job.started
    timer = Timer()
    together = job.accelerator.num_processes > 1 and job.accelerator.device.type != "cpu"
    if progress.step == 0:
        job.save(progress)  # there is something to resume from the first step on
    if progress.unmeasured:
        _measure(job, progress)
        job.save(progress)
    saved_at = now()
    timer.restart()
    over = progress.fixed and progress.step >= progress.steps
    for batches in () if over else timer.fetched(grouped_batches(job, progress)):
        losses = training_step(job, wrapped, optimizer, batches, progress)
        _check_finite(job, losses, batches, progress)
        progress.step += 1
        lap = timer.lap()
        progress.waited += timer.waits[-1]
        losses = _of_all_processes(job, losses)
        _count(progress, losses)
        if progress.step % LOG_EVERY == 0:
            row = {"step": progress.step, "lr": _lr(job, progress.step - 1, progress)}
            rate = job.plan.batch / mean(timer.laps)
            row |= {f"train/{k}": float(v) for k, v in losses.items()} | {"images_per_second": rate}
            row["waiting_for_data"] = sum(timer.waits) / sum(timer.laps)
            job.on_row(row)
            job.on_progress(progress, row)
        progress.seconds = before + now()
        due = progress.fixed and validation_due(progress.step, progress.horizon, job.recipe.validation)
        if due:
            _measure(job, progress)
            progress.pace.validation = before + now() - progress.seconds
            progress.seconds = before + now()
        if job.minutes is not None:
            keep_time(job, progress, lap, again=due)
        # processes on GPUs agree now and then only: it makes them wait
        stopping = (not together or progress.step % LOG_EVERY == 0) and job.stop_wanted()
        if due or stopping or now() - saved_at > SAVE_SECONDS:
            job.save(progress)
            saved_at = now()
        if stopping:
            return progress
        if progress.fixed and progress.step >= progress.steps:
            break
        timer.restart()  # validating and saving is no step
    progress.finished = True
    job.save(progress)
    return progress


def keep_time(job: Job, progress: Progress, lap: float, *, again: bool) -> None:
    """Count a step that took `lap` seconds and, where it is time (or `again` says so), plan the length anew."""
    assert job.minutes is not None
    pace, scales = progress.pace, len(job.recipe.data.train_scales) or 1
    if progress.fixed and not pace.relative:  # begun by version 0.1, which fixed the length for good
        return
    scale, waited = scale_index(job.recipe.data, job.seed, progress.step - 1, progress.planned), 0.0
    plan = again or progress.step >= (pace.next_plan if progress.fixed else first_plan(scales))
    if job.accelerator.device.type == "cuda" and (plan or not progress.fixed):
        start = now()
        torch.cuda.synchronize(job.accelerator.device)
        waited = now() - start
    if progress.fixed:
        pace.take(lap + waited, scale)
    else:
        pace.first.append((scale, lap + waited))
    if not plan or (progress.fixed and progress.step >= progress.steps):
        return
    if not progress.fixed:
        pace.learn_scales(scales)
    _plan_length(job, progress, job.minutes * 60 - progress.seconds - waited, validated=again)
    stop = math.floor(progress.horizon.position(job.recipe.data.augment.mosaic_until))
    passed = [number for number, (made, _) in enumerate(progress.mosaic_stops) if made + AHEAD <= progress.step]
    progress.mosaic_stops = [*progress.mosaic_stops[max(passed, default=0) :], (progress.step, stop)]
    pace.next_plan = until_next_plan(progress.step, progress.steps)
    pace.close_block()


def _plan_length(job: Job, progress: Progress, seconds: float, *, validated: bool) -> None:
    """Give the run as many steps as fit into `seconds` after this one, and fewer validations where they do not fit."""
    pace, step, validation = progress.pace, progress.step, job.recipe.validation
    world = job.accelerator.num_processes
    images = -(-min(validation.max_images or job.validation_images, job.validation_images) // world)
    batch = job.plan.batch // world
    horizon = progress.horizon if progress.fixed else Horizon(progress.steps)
    checks = validations_left(step, horizon, validation) if progress.fixed else validation.times
    if validated or not progress.fixed:
        checks = checks_within(checks, seconds, validation_seconds(pace, batch, images))
    more = steps_left(job.recipe, pace, horizon, step, checks, seconds, batch, images)
    own = torch.tensor([[step + max(1, int(more)), checks]], device=job.accelerator.device)
    steps, checks = job.accelerator.gather(own).amin(0).tolist()  # the slowest process decides for all
    warmup = min(job.plan.warmup_steps, max(1, steps // 4))
    if not progress.fixed:
        progress.horizon, progress.fixed = Horizon(steps, warmup, checks=checks), True
        return
    if validated:
        horizon = horizon.validated(step, checks)
    progress.horizon = horizon.replanned(step, steps, warmup)


def grouped_batches(job: Job, progress: Progress) -> Iterator[list[Batch]]:
    """The batches of each step from where the run stands: one, or as many as are accumulated.

    With a time budget there is no end of them.
    """
    accumulate, until = job.recipe.optim.accumulate, job.recipe.data.augment.mosaic_until
    stop = progress.steps if job.minutes is None else ENDLESS
    sampler = StepSampler(
        job.aspects, job.recipe.data.batch_size, seed=job.seed, start=progress.step * accumulate,
        stop=stop * accumulate, mosaic=lambda batch: progress.mosaics(batch // accumulate, until),
        rank=job.accelerator.process_index, world=job.accelerator.num_processes,
    )  # fmt: skip
    loader = make_loader(
        job.images, sampler, workers=job.workers, pin=job.accelerator.device.type == "cuda"
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
    scale = batch_scale(job.recipe.data, job.seed, step, progress.planned)
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
    if progress.fixed and progress.step >= progress.horizon.position(job.recipe.schedule.hold_statistics_from):
        for module in job.model.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()


def _lr(job: Job, step: int, progress: Progress) -> float:
    horizon = progress.horizon
    if not progress.fixed:  # a budget's first steps do not depend on its length
        scales = len(job.recipe.data.train_scales) or 1
        horizon = Horizon(horizon.steps, max(job.plan.warmup_steps, first_plan(scales)))
    return job.plan.lr * lr_factor(step, horizon, job.recipe.schedule)


def _check_finite(job: Job, losses: dict[str, Tensor], batches: list[Batch], progress: Progress) -> None:
    """Stop at a loss that is no number, and name the images; on a GPU it is looked at with the log only."""
    on_gpu = job.accelerator.device.type != "cpu"
    if on_gpu and (progress.step + 1) % LOG_EVERY:
        return
    if bool(torch.isfinite(losses["loss"])):
        return
    broken = {name: float(value) for name, value in losses.items() if not bool(torch.isfinite(value))}
    names = [str(job.images.records[index].path) for batch in batches for index in batch.indices]
    since = f" or in the {LOG_EVERY - 1} steps before" if on_gpu else ""
    raise FloatingPointError(
        f"the loss is not a number at step {progress.step}{since} ({broken}); images of this step: "
        f"{', '.join(names)}. The last checkpoint is from before; a lower optim.lr or optim.clip_norm=10 often helps"
    )


def _count(progress: Progress, losses: dict[str, Tensor]) -> None:
    """Add the losses up for the next measurement; tensors stay on the device until then."""
    for name, value in losses.items():
        number: Any = float(value) if value.device.type == "cpu" else value
        progress.sums[name] = progress.sums.get(name, 0.0) + number
    progress.counted += 1


def _of_all_processes(job: Job, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of the whole batch: the mean over processes, which divide theirs by the positives of the mean process.

    After each step and not for a row only: what is added up for the next row is then the same in every process, and a
    checkpoint, which one of them writes, holds it for all.
    """
    if job.accelerator.num_processes == 1:
        return losses
    means: Tensor = job.accelerator.reduce(torch.stack([value.float() for value in losses.values()]), "mean")
    return dict(zip(losses, means.unbind(), strict=True))


def _measure(job: Job, progress: Progress) -> None:
    """Validate, say and save; the last step is this one where patience is over."""
    model = job.average.model if job.average is not None else job.model
    if job.accelerator.num_processes > 1:  # BatchNorm's statistics are each process's own; the first one's are saved
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
    try:
        measured = job.measure(model)
    except (ValueError, OSError):  # a damaged image
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
    row: dict[str, Any] = {"step": progress.step, "epoch": progress.step * job.plan.batch / len(job.images)}
    row |= {f"train/{name}": float(value) / progress.counted for name, value in progress.sums.items()}
    validation = {name: value for name, value in measured.evaluated.losses.items()}
    total = sum(value for name, value in validation.items() if not name.endswith("_floor"))
    row |= {f"val/{name}": value for name, value in {"loss": total, **validation}.items()}
    row |= {"val/AP": measured.coco.ap, "val/AP50": measured.coco.ap50, "val/AP75": measured.coco.ap75}
    if measured.segm is not None:
        row |= {"val/segm_AP": measured.segm.ap, "val/segm_AP50": measured.segm.ap50}
    row |= {"lr": _lr(job, progress.step - 1, progress)}
    progress.sums, progress.counted = {}, 0
    row["seconds"] = round(progress.seconds, 2)
    job.on_row(row)
    job.on_measured(measured, progress, best)
    patience = job.recipe.validation.patience
    if patience is not None and progress.since_best >= patience:
        progress.horizon = replace(progress.horizon, steps=progress.step)


def progress_state(progress: Progress) -> dict[str, Any]:
    """The progress as plain data for a checkpoint."""
    state = asdict(progress)
    state["sums"] = {name: float(value) for name, value in progress.sums.items()}
    return state


def progress_of(state: dict[str, Any], plan: Plan) -> Progress:
    """The progress that `progress_state` wrote, or version 0.1 (which knew one length for the whole run)."""
    state = dict(state)
    if "horizon" not in state:
        steps = state.pop("steps")
        return Progress(Horizon(steps, min(plan.warmup_steps, max(1, steps // 4))), **state)
    horizon, pace = Horizon(**state.pop("horizon")), Pace(**state.pop("pace"))
    return Progress(horizon, pace=pace, **state)
