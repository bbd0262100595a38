"""What a run was asked for, and what that means for each of its steps: learning rate, image scale, random seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwright.data.sampler import draw_seed
from boxwright.recipes.schema import Recipe
from boxwright.training.pace import first_plan
from boxwright.training.scales import batch_scale
from boxwright.training.schedule import Horizon, ScaledSchedule, lr_factor
from boxwright.training.state import Progress
from boxwright.training.step import StepSettings


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What stays the same from the first step of a run to its last."""

    recipe: Recipe
    scaled: ScaledSchedule
    """Steps, warm-up and learning rate for the batch that the run really has."""
    seed: int
    minutes: float | None
    """The time budget, if there is one."""
    started: float
    """When `train` was called, on the clock of `timing.now`."""
    image_paths: Sequence[Path]
    """Of the training images."""
    validation_images: int
    """How many images the validation split has."""

    def lr(self, step: int, progress: Progress) -> float:
        """The learning rate of a step, counted from 0."""
        horizon = progress.horizon
        if not progress.fixed:  # the first steps of a run with a budget do not depend on its length
            scales = len(self.recipe.data.train_scales) or 1
            horizon = Horizon(horizon.steps, max(self.scaled.warmup_steps, first_plan(scales)))
        return self.scaled.lr * lr_factor(step, horizon, self.recipe.schedule)

    def step(self, progress: Progress, process: int) -> StepSettings:
        """The settings of the next step in a process."""
        step, recipe = progress.step, self.recipe
        held_from = progress.horizon.position(recipe.schedule.hold_statistics_from)
        return StepSettings(
            lr=self.lr(step, progress),
            scale=batch_scale(recipe.data, self.seed, step, progress.planned),
            seed=draw_seed(self.seed, (step << 20) + 1 + process),
            hold_statistics=progress.fixed and step >= held_from,
        )
