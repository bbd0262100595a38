"""Code of the user's own that a run calls on the way: before and after the run, each step and each validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes
from boxwright.training.state import TrainState
from boxwright.training.validate import ValidationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """What a hook sees of the run that calls it."""

    recipe: Recipe
    classes: Classes
    folder: Path
    """The run folder; processes other than the main one write nothing, and have an empty path in a new run."""
    state: TrainState
    """Model, optimizer, running mean of the weights, and where the run stands."""
    device: torch.device
    is_main: bool
    """Whether this process is the one that logs and writes; the only one, where there is one."""
    log: Callable[[str], None]
    """Write a line to standard error and the log of the run; processes other than the main one write none."""
    stop: Callable[[], None]
    """Ask for an end after this step, as Ctrl-C does: the run saves, and can be resumed."""

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.state.progress.step

    @property
    def steps(self) -> int:
        """Steps of the whole run, as planned now."""
        return self.state.progress.steps

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.state.progress.finished

    @property
    def model(self) -> nn.Module:
        """The detector that is trained."""
        return self.state.model  # type: ignore[no-any-return]

    @property
    def model_in_use(self) -> nn.Module:
        """The detector that is validated and saved: the running mean where the recipe has one (`ema_decay`)."""
        return self.state.model_in_use


class Hook:
    """What a run calls on the way. A class of your own below this one overrides what it needs; the rest does nothing.

    Every process of a run has its own copy, and calls it at the same moments. An error in a hook ends the run, with the
    name of the hook in its message. What a hook keeps is not saved with a run: it begins anew when a run is resumed.
    """

    def before_run(self, run: TrainingRun) -> None:
        """Everything is ready for the first step, or for the first one after a resume."""

    def after_run(self, run: TrainingRun) -> None:
        """The run is over: finished and its report written, stopped, or ended by an error."""

    def before_step(self, run: TrainingRun) -> None:
        """The batch of the next step is there."""

    def after_step(self, run: TrainingRun, losses: Mapping[str, Tensor]) -> None:
        """A step is done, and counted in `run.step`.

        `losses` are detached scalars, means over the images of all processes: their total as "loss", and each by its
        name. On a GPU reading one (`float(...)`) waits for the step, so do not read them in every step.
        """

    def before_validation(self, run: TrainingRun) -> None:
        """`run.model_in_use` is about to be validated."""

    def after_validation(self, run: TrainingRun, result: ValidationResult, best: bool) -> None:
        """A validation is done, its row written and, where it is the best so far, `weights/best.pt` saved."""


MOMENTS = tuple(name for name in vars(Hook) if not name.startswith("_"))


def check_hooks(hooks: Sequence[Hook]) -> None:
    """ValueError for what is no hook, and for a method that would never be called because its name is misspelled."""
    for hook in hooks:
        if not isinstance(hook, Hook):
            made = f"the class {hook.__name__}, give {hook.__name__}()" if isinstance(hook, type) else repr(hook)
            raise ValueError(f"hooks: expected objects of classes below boxwright.Hook, got {made}")
        for name in dir(hook):
            named = name.startswith(("before_", "after_")) and callable(getattr(hook, name))
            if named and name not in MOMENTS:
                near = get_close_matches(name, MOMENTS, n=1)
                meant = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(MOMENTS)}"
                raise ValueError(f"hooks: {type(hook).__name__}.{name} would never be called; {meant}")


class Hooks:
    """The hooks of a run, called in their order; the run itself is entered as a context."""

    def __init__(self, hooks: Sequence[Hook], run: TrainingRun) -> None:
        self.hooks, self.run = hooks, run
        self._begun = 0

    def __enter__(self) -> Hooks:
        for hook in self.hooks:
            self._call(hook, "before_run")
            self._begun += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for hook in self.hooks[: self._begun]:
            try:
                self._call(hook, "after_run")
            except ValueError as other:
                if error is None:
                    raise
                self.run.log(str(other))  # the error that ended the run is the one to be told

    def before_step(self) -> None:
        """See `Hook`."""
        self._call_all("before_step")

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        """See `Hook`."""
        self._call_all("after_step", losses)

    def before_validation(self) -> None:
        """See `Hook`."""
        self._call_all("before_validation")

    def after_validation(self, result: ValidationResult, best: bool) -> None:
        """See `Hook`."""
        self._call_all("after_validation", result, best)

    def _call_all(self, moment: str, *values: Any) -> None:
        for hook in self.hooks:
            self._call(hook, moment, *values)

    def _call(self, hook: Hook, moment: str, *values: Any) -> None:
        """Raises ValueError with the hook's name for whatever goes wrong in it."""
        try:
            getattr(hook, moment)(self.run, *values)
        except Exception as error:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ValueError(
                f"hook {type(hook).__name__}.{moment} failed at step {self.run.step} of {self.run.steps}: {what}"
            ) from error
