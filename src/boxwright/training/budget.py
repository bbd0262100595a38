"""A run that ends on time: its length is planned anew while it goes on, from the pace that it really has.

A machine starts slowly (first kernels, first pages), shares its cores, and gets faster and slower. So the length of a
run is no more than a plan: after the first steps it is made, and again after each twentieth of what is left, which
comes ever sooner towards the end. What a plan decides is only the steps that are still to come (`schedule.Horizon`).

The clock counts everything from the call of `train` on: opening and checking the data, steps, validations, checkpoints,
and, as an allowance, the report at the end. Processes plan together, at the same steps, for the slowest of them.
"""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator

from boxwright.data.sampler import AHEAD
from boxwright.recipes.schema import Recipe
from boxwright.training.pace import Pace, first_plan
from boxwright.training.scales import scale_index
from boxwright.training.schedule import Horizon, validations_left
from boxwright.training.state import Progress, RunSettings
from boxwright.training.timing import now

REPLAN_PART = 0.05
"""Of the steps that are left: after so many the length is planned again."""
VALIDATION_PART = 1 / 3
"""Of the time that is left: validations take no more than this; else there are fewer of them."""


def keep_time(run: RunSettings, progress: Progress, accelerator: Accelerator, lap: float, *, validated: bool) -> None:
    """Count a step that took `lap` seconds and, where it is time or the step was `validated`, plan the length anew."""
    assert run.minutes is not None
    pace, data = progress.pace, run.recipe.data
    scales = len(data.train_scales) or 1
    if progress.fixed and not pace.relative:  # begun by version 0.1, which fixed the length for good
        return
    scale, waited = scale_index(data, run.seed, progress.step - 1, progress.planned), 0.0
    plan = validated or progress.step >= (pace.next_plan if progress.fixed else first_plan(scales))
    if accelerator.device.type == "cuda" and (plan or not progress.fixed):
        start = now()
        torch.cuda.synchronize(accelerator.device)
        waited = now() - start
    if progress.fixed:
        pace.take(lap + waited, scale)
    else:
        pace.first.append((scale, lap + waited))
    if not plan or progress.over:
        return
    if not progress.fixed:
        pace.learn_scales(scales)
    seconds = run.minutes * 60 - progress.seconds - waited
    progress.horizon = _planned(run, progress, accelerator, seconds, validated=validated)
    progress.fixed = True
    stop = math.floor(progress.horizon.position(data.augment.mosaic_until))
    passed = [number for number, (made, _) in enumerate(progress.mosaic_stops) if made + AHEAD <= progress.step]
    progress.mosaic_stops = [*progress.mosaic_stops[max(passed, default=0) :], (progress.step, stop)]
    pace.next_plan = until_next_plan(progress.step, progress.steps)
    pace.close_block()


def _planned(
    run: RunSettings, progress: Progress, accelerator: Accelerator, seconds: float, *, validated: bool
) -> Horizon:
    """As many more steps as fit into `seconds` after this one, and fewer validations where they do not fit."""
    pace, step, validation = progress.pace, progress.step, run.recipe.validation
    world = accelerator.num_processes
    images = -(-min(validation.max_images or run.validation_images, run.validation_images) // world)
    batch = run.scaled.batch // world
    horizon = progress.horizon if progress.fixed else Horizon(progress.steps)
    checks = validations_left(step, horizon, validation) if progress.fixed else validation.times
    if validated or not progress.fixed:
        checks = checks_within(checks, seconds, pace.validation_seconds(batch, images))
    more = steps_left(run.recipe, pace, horizon, step, checks, seconds, batch, images)
    own = torch.tensor([[step + max(1, int(more)), checks]], device=accelerator.device)
    steps, checks = accelerator.gather(own).amin(0).tolist()  # the slowest process decides for all
    warmup = min(run.scaled.warmup_steps, max(1, steps // 4))
    if not progress.fixed:
        return Horizon(steps, warmup, checks=checks)
    if validated:
        horizon = horizon.validated(step, checks)
    return horizon.replanned(step, steps, warmup)


def steps_left(
    recipe: Recipe, pace: Pace, horizon: Horizon, step: int, checks: int, seconds: float, batch: int, images: int
) -> float:
    """How many more steps fit into `seconds` after this one, validations and report taken off.

    `checks` is how many validations are still to come, `batch` images a step, `images` how many a validation has; both
    of one process.
    """
    slowness, scales = pace.slowness(), len(pace.relative)
    done = horizon.fraction(step)
    shares = [1.0 / scales] * scales
    if recipe.data.train_scales and recipe.data.scale_order == "rising":
        shares = [max(0.0, (index + 1) / scales - max(index / scales, done)) for index in range(scales)]
    total = sum(shares)
    mean = pace.relative[-1] if total <= 0 else sum(
        share * cost for share, cost in zip(shares, pace.relative, strict=True)) / total  # fmt: skip
    cost = slowness * mean
    validation = pace.validation_seconds(batch, images)
    seconds -= pace.report
    every = recipe.validation.every
    if every is not None:
        return (seconds - validation) / (cost + validation / every)
    return (seconds - max(1, checks) * validation) / cost


def checks_within(wanted: int, seconds: float, validation: float) -> int:
    """How many of the wanted validations there is time for, if a validation takes so long: at least the last one."""
    return max(1, min(wanted, math.floor(VALIDATION_PART * seconds / max(1e-9, validation))))


def until_next_plan(step: int, steps: int) -> int:
    """The step after which a run of `steps` that has come to `step` is planned again."""
    return step + max(1, min(step, round(REPLAN_PART * (steps - step))))
