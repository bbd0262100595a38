"""The state of a training run: what it was asked for, how far it has come, and what is trained.

`TrainState` saves itself to the `training` part of a checkpoint and loads itself from there. What version 0.1 wrote is
brought to today's layout in one place, `_todays`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from boxwright.data.sampler import AHEAD, draw_seed
from boxwright.recipes.schema import Recipe
from boxwright.training.optim import WeightAverage, plain_state
from boxwright.training.pace import Pace, first_plan
from boxwright.training.scales import batch_scale
from boxwright.training.schedule import Horizon, ScaledSchedule, StepSettings, lr_factor


@dataclass
class Progress:
    """Where a run stands."""

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
    """Validations since the best one."""
    sums: dict[str, float] = field(default_factory=dict)
    """Losses added up since the last validation, over `counted` steps."""
    counted: int = 0
    validation_failed: bool = False
    """Whether the validation after this step failed: it comes first when the run goes on."""
    finished: bool = False
    pace: Pace = field(default_factory=Pace)
    """With a time budget: what steps cost."""
    mosaic_stops: list[tuple[int, int]] = field(default_factory=list)
    """With a time budget: for each of the last plans the step after which it was made, and where mosaics end in it."""

    @classmethod
    def at_start(cls, scaled: ScaledSchedule, *, fixed: bool) -> Progress:
        """Before the first step; without `fixed` the length is still to be planned."""
        return cls(Horizon(scaled.steps, min(scaled.warmup_steps, max(1, scaled.steps // 4))), fixed)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run, as planned now."""
        return self.horizon.steps

    @property
    def planned(self) -> Horizon | None:
        """The length of the run, where it is known."""
        return self.horizon if self.fixed else None

    @property
    def over(self) -> bool:
        """Whether no step is left."""
        return self.fixed and self.step >= self.steps

    def mosaics(self, step: int, until: float) -> bool:
        """Whether the images of a step may be mosaics, by the last plan that the loader can know of by then."""
        if not self.pace.relative:
            return not self.fixed or step < math.floor(self.horizon.position(until))
        known = [stop for made, stop in self.mosaic_stops if made + AHEAD <= step]
        return not known or step < known[-1]

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add the losses of a step to the sums; on a GPU they stay there until they are read."""
        for name, value in losses.items():
            number: Any = float(value) if value.device.type == "cpu" else value
            self.sums[name] = self.sums.get(name, 0.0) + number
        self.counted += 1

    def mean_losses(self) -> dict[str, float]:
        """Means of the losses since the last validation; the sums begin anew."""
        means = {name: float(value) / self.counted for name, value in self.sums.items()}
        self.sums, self.counted = {}, 0
        return means

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return asdict(self) | {"sums": {name: float(value) for name, value in self.sums.items()}}

    @classmethod
    def of(cls, saved: Any, warmup_steps: int = 0) -> Progress:
        """What `as_dict` gave, or version 0.1 wrote; ValueError where it is something else.

        `warmup_steps` are those of the run's `ScaledSchedule`, which version 0.1 did not save.
        """
        if not isinstance(saved, dict):
            raise ValueError("progress is no table")
        progress: Progress = TypeAdapter(cls).validate_python(_todays(saved, warmup_steps))
        return progress


def _todays(saved: dict[str, Any], warmup_steps: int) -> dict[str, Any]:
    """Saved progress in today's layout.

    Version 0.1 called a failed validation `unmeasured`; at first it knew one length, `steps`, for the whole run.
    """
    saved = dict(saved)
    if "unmeasured" in saved:
        saved["validation_failed"] = saved.pop("unmeasured")
    if "horizon" not in saved and isinstance(saved.get("steps"), int):
        steps = saved.pop("steps")
        saved["horizon"] = {"steps": steps, "warmup": min(warmup_steps, max(1, steps // 4))}
    return saved


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
            scale=batch_scale(recipe.data, self.seed, step, progress.planned) if recipe.data.train_scales else 1.0,
            seed=draw_seed(self.seed, (step << 20) + 1 + process),
            hold_statistics=progress.fixed and step >= held_from,
        )


@dataclass
class TrainState:
    """Everything that training changes."""

    model: Any
    """A `DetectionModel` that is an `nn.Module`."""
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    """The running mean of the weights, if the recipe has one."""
    scaler: torch.amp.GradScaler | None
    """Of gradients in float16."""
    progress: Progress

    @property
    def model_in_use(self) -> nn.Module:
        """The model whose weights are validated and used: the average where there is one."""
        used: nn.Module = self.model if self.average is None else self.average.model
        return used

    def training_dict(self) -> dict[str, Any]:
        """Plain data for the `training` part of a checkpoint. FloatingPointError where a weight is not finite."""
        trained, used = self.model.state_dict(), self.model_in_use.state_dict()
        floats = [t for part in (used, trained) for t in part.values() if t.is_floating_point()]
        if not bool(torch.stack([torch.isfinite(t).all() for t in floats]).all()):
            raise FloatingPointError(f"weights are not finite any more at step {self.progress.step}")
        return {
            "progress": self.progress.as_dict(),
            "model": trained,
            "average": {} if self.average is None else self.average.state_dict(),
            "average_updates": 0 if self.average is None else self.average.updates,
            "optimizer": plain_state(self.optimizer),
            "scaler": {} if self.scaler is None else self.scaler.state_dict(),
        }

    def load(self, training: dict[str, Any], warmup_steps: int) -> None:
        """Go back to where `training_dict` was called; ValueError where it was not written so."""
        with refused_if_broken():
            self.progress = Progress.of(training["progress"], warmup_steps)
            self.model.load_state_dict(training["model"])
            self.optimizer.load_state_dict(training["optimizer"])
            for parameter, slots in self.optimizer.state.items():
                if wrong := [name for name, slot in slots.items() if _misfits(slot, parameter)]:
                    raise ValueError(f"the optimizer's {wrong[0]} has another shape than its weight")
            if self.average is not None:
                self.average.model.load_state_dict(training["average"])
                self.average.updates = int(training["average_updates"])
            if self.scaler is not None and training["scaler"]:
                self.scaler.load_state_dict(training["scaler"])


def _misfits(slot: Any, parameter: Tensor) -> bool:
    """Whether a tensor that an optimizer keeps for a weight has another shape; a single number fits any."""
    return isinstance(slot, Tensor) and slot.dim() > 0 and slot.shape != parameter.shape


@contextmanager
def refused_if_broken() -> Iterator[None]:
    """Make one sentence of whatever is found while a damaged `training` part is read."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ValueError(f"the state of its training is damaged or incomplete ({reason})") from error
