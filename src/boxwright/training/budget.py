"""A run that ends on time: its length is planned anew while it goes on, from the pace that it really has.

A machine starts slowly (first kernels, first pages), shares its cores, and gets faster and slower. So the length of a
run is no more than a plan: after the first steps it is made, and again after each twentieth of what is left, which
comes ever sooner towards the end. What a plan decides is only the steps that are still to come (`schedule.Horizon`).

The clock counts everything from the call of `train` on: opening and checking the data, steps, validations, checkpoints,
and, as an allowance, the report at the end. Processes plan together, at the same steps, for the slowest of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from boxwright.recipes.schema import Recipe
from boxwright.training.schedule import Horizon

PACE_STEPS = 12
"""The pace is that of the last so many steps, or of all since the last plan, whichever are more."""
REPLAN_PART = 0.05
"""Of the steps that are left: after so many the length is planned again."""
SLOW_PART = 1 / 3
"""Of the steps before the first plan: they are slower than the others and do not count."""
VALIDATION_COST = 0.4
"""Of a training step, for each image: what a validation is reckoned at before the first one was timed."""
VALIDATION_PART = 1 / 3
"""Of the time that is left: validations take no more than this; else there are fewer of them."""


def first_plan(num_scales: int) -> int:
    """The steps before the first plan: with multi-scale training three of each scale."""
    return max(4, 3 * num_scales)


@dataclass
class Pace:
    """What steps and validations have cost so far; saved with the run, so that it is planned on when it is resumed."""

    first: list[tuple[int, float]] = field(default_factory=list)
    """The steps before the first plan: index of the scale, seconds."""
    relative: list[float] = field(default_factory=list)
    """Seconds of a step at each training scale, as measured before the first plan: their ratios are what counts."""
    blocks: list[list[float]] = field(default_factory=list)
    """The last stretches between two plans: seconds, their cost by `relative`, and the number of steps."""
    validation: float | None = None
    """Seconds of the last validation."""
    report: float = 0.0
    """Seconds that the report at the end is given."""
    next_plan: int = 0
    """The step after which the length is planned again."""

    def take(self, seconds: float, scale: int) -> None:
        """Count a step at the scale of this index."""
        block = self.blocks[-1]
        block[0] += seconds
        block[1] += self.relative[scale]
        block[2] += 1

    def learn_scales(self, num_scales: int) -> None:
        """Take the first steps as the cost of each scale."""
        counted = self.first[math.floor(len(self.first) * SLOW_PART) :]
        for scale in range(num_scales):
            own = [lap for index, lap in counted if index == scale] or [lap for _, lap in counted]
            self.relative.append(max(1e-9, sum(own) / len(own)))
        total = sum(lap for _, lap in counted)
        self.blocks = [[total, sum(self.relative[index] for index, _ in counted), len(counted)]]

    def slowness(self) -> float:
        """How many times as long as by `relative` steps take now."""
        recent = self._recent()
        return sum(block[0] for block in recent) / max(1e-9, sum(block[1] for block in recent))

    def close_block(self) -> None:
        """Let the next step begin a new stretch; what is too long ago to count is forgotten."""
        self.blocks = [*self._recent(), [0.0, 0.0, 0]]

    def _recent(self) -> list[list[float]]:
        steps = 0.0
        for number, block in enumerate(reversed(self.blocks), start=1):
            steps += block[2]
            if steps >= PACE_STEPS:
                return self.blocks[-number:]
        return self.blocks


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
    validation = validation_seconds(pace, batch, images)
    seconds -= pace.report
    every = recipe.validation.every
    if every is not None:
        return (seconds - validation) / (cost + validation / every)
    return (seconds - max(1, checks) * validation) / cost


def validation_seconds(pace: Pace, batch: int, images: int) -> float:
    """What the last validation took; before the first one, what it is reckoned at from the cost of a step."""
    if pace.validation is not None:
        return pace.validation
    return VALIDATION_COST * pace.slowness() * max(pace.relative) / batch * images


def checks_within(wanted: int, seconds: float, validation: float) -> int:
    """How many of the wanted validations there is time for, if a validation takes so long: at least the last one."""
    return max(1, min(wanted, math.floor(VALIDATION_PART * seconds / max(1e-9, validation))))


def until_next_plan(step: int, steps: int) -> int:
    """The step after which a run of `steps` that has come to `step` is planned again."""
    return step + max(1, min(step, round(REPLAN_PART * (steps - step))))
