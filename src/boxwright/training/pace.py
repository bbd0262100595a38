"""What steps and validations cost, as measured while a run with a time budget goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

PACE_STEPS = 12
"""The pace is that of the last so many steps, or of all since the last plan, whichever are more."""
SLOW_PART = 1 / 3
"""Of the steps before the first plan: they are slower than the others and do not count."""
VALIDATION_COST = 0.4
"""Of a training step, for each image: the estimated cost of a validation before the first one was timed."""


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
    """Seconds that are kept for the report at the end."""
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

    def validation_seconds(self, batch: int, images: int) -> float:
        """Seconds of the last validation; before the first one an estimate from the cost of a step."""
        if self.validation is not None:
            return self.validation
        return VALIDATION_COST * self.slowness() * max(self.relative) / batch * images

    def _recent(self) -> list[list[float]]:
        steps = 0.0
        for number, block in enumerate(reversed(self.blocks), start=1):
            steps += block[2]
            if steps >= PACE_STEPS:
                return self.blocks[-number:]
        return self.blocks
