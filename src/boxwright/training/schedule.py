"""How long a run is, how far it has come, and the learning rate there, scaled linearly (Goyal et al. 2017).

Everything that happens at a part of a run (the learning rate, the end of mosaics, validation, rising scales) is a
function of the fraction of the run that is behind it. A run with a time budget changes its length while it goes on: the
fraction that is behind it stays, and the steps that are left divide the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from boxwright.recipes.schema import Recipe, Schedule, Validation
from boxwright.wording import counted

EPSILON = 1e-9
"""Of a step: a part of a run that ends at a whole step ends there, however its fraction was rounded."""


@dataclass(frozen=True, slots=True)
class ScaledSchedule:
    """The numbers of a run after scaling to its real batch: steps, warm-up and learning rate."""

    steps: int
    warmup_steps: int
    lr: float
    batch: int
    """Images a step, over all processes and accumulated batches."""
    sentence: str
    """What the scaling rule did, for the log."""


def scaled(recipe: Recipe, num_images: int, world: int, minutes: float | None = None) -> ScaledSchedule:
    """The recipe's learning rate, steps and warm-up for the batch that this run really has.

    k times the reference batch: k times the learning rate, 1/k of the steps. Epochs are counted, not scaled; the bounds
    of their steps are scaled as steps are.

    Milestones are parts of the run, so they move along. With a budget of `minutes` the recipe's steps say nothing.
    """
    optim, schedule = recipe.optim, recipe.schedule
    batch = recipe.data.batch_size * optim.accumulate * world
    factor = batch / optim.reference_batch
    if schedule.epochs is not None:
        steps = max(1, math.ceil(schedule.epochs * num_images / batch))
        if schedule.step_bounds is not None:
            least, most = (max(1, round(bound / factor)) for bound in schedule.step_bounds)
            steps = min(max(steps, least), most)
    else:
        assert schedule.steps is not None
        steps = max(1, round(schedule.steps / factor))
    warmup = min(round(schedule.warmup_steps / factor), max(1, steps // 3))
    lr = optim.lr * factor
    length = "" if minutes is not None else f"{counted(steps, 'step')}, "
    sentence = f"batch {batch}, lr {lr:.4g}, {length}warm-up {warmup}"
    if factor != 1:
        meant = f", {counted(schedule.steps, 'step')}" if schedule.steps is not None and minutes is None else ""
        reference = f"{factor:.4g} x the reference batch {optim.reference_batch}, lr {optim.lr:.4g}{meant}"
        sentence += f" (linear scaling rule: {reference})"
    return ScaledSchedule(steps, warmup, lr, batch, sentence)


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What is different from step to step."""

    lr: float
    """Learning rate; groups of parameters with a factor of their own get that share of it."""
    seed: int
    """Of everything random within the network (stochastic depth, sampled regions)."""
    scale: float = 1.0
    """Multi-scale training: the factor of both sides of the images."""
    hold_statistics: bool = False
    """BatchNorm normalises as it will in use, by its running statistics, and leaves them as they are."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """The length of a run as it is planned now, and which fraction of its schedule is behind each step.

    At step `start` the fraction `done` was behind; from there the steps up to `steps` divide the rest evenly. The
    learning rate rises for `warmup` steps; of its way down `decayed` was behind at step `start`, where that is later.
    `checks` validations divide evenly what lies behind the fraction `checked`; None: as many as the recipe says.
    """

    steps: int
    warmup: int = 0
    start: int = 0
    done: float = 0.0
    decayed: float = 0.0
    checked: float = 0.0
    checks: int | None = None

    def fraction(self, step: int) -> float:
        """The part of the run, 0 to 1, that is behind before this step (counted from 0)."""
        return self.done + (1 - self.done) * min(1.0, (step - self.start) / max(1, self.steps - self.start))

    def position(self, fraction: float) -> float:
        """The step before which this part of the run is behind."""
        if fraction <= self.done:
            return float(self.start)
        return self.start + (fraction - self.done) / (1 - self.done) * (self.steps - self.start)

    def decay(self, step: int) -> float:
        """The part of the learning rate's decay, 0 to 1, that is behind before this step."""
        start = max(self.start, self.warmup)
        part = (step - start) / max(1, self.steps - start)
        return self.decayed + (1 - self.decayed) * min(1.0, max(0.0, part))

    def replanned(self, step: int, steps: int, warmup: int) -> Horizon:
        """The same run after `step` steps, now of `steps` steps; warm-up takes `warmup` of them unless it is over."""
        warmed, decayed = (max(step, warmup), 0.0) if step < self.warmup else (self.warmup, self.decay(step))
        return replace(self, steps=steps, warmup=warmed, start=step, done=self.fraction(step), decayed=decayed)

    def validated(self, step: int, checks: int) -> Horizon:
        """The same run after a validation at `step`, with so many still to come."""
        return replace(self, checked=self.fraction(step), checks=checks)


def lr_factor(step: int, horizon: Horizon, schedule: Schedule) -> float:
    """What the learning rate is multiplied by at `step`: linear warm-up, then multistep or cosine."""
    if step < horizon.warmup:
        return schedule.warmup_start + (1 - schedule.warmup_start) * step / horizon.warmup
    if schedule.kind == "multistep":
        passed = sum(step >= round(horizon.position(part)) for part in schedule.milestones)
        return float(schedule.gamma**passed)
    progress = horizon.decay(step)
    return schedule.final_factor + (1 - schedule.final_factor) * (1 + math.cos(math.pi * progress)) / 2


def validation_due(step: int, horizon: Horizon, validation: Validation) -> bool:
    """Whether the run is validated after this step, counted from 1: evenly spaced, and always at its end."""
    if validation.every is not None:
        return step % validation.every == 0 or step == horizon.steps
    return validations_left(step, horizon, validation) < validations_left(step - 1, horizon, validation)


def validations_left(step: int, horizon: Horizon, validation: Validation) -> int:
    """How many of evenly spaced validations come after this step, counted from 1, as the run is planned now."""
    checks = min(validation.times, horizon.steps) if horizon.checks is None else horizon.checks
    part = (horizon.fraction(step) - horizon.checked) / max(EPSILON, 1 - horizon.checked)
    return checks - math.floor(part * checks + EPSILON)


def rising(step: int, horizon: Horizon, count: int) -> int:
    """Which of `count` equal parts of the run a step lies in, from 0."""
    return min(count - 1, math.floor(horizon.fraction(step) * count + EPSILON))
