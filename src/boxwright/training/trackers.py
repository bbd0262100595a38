"""Where the rows of a run go besides its folder: TensorBoard, Weights & Biases, MLflow, trackio, through accelerate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers

from boxwright.recipes import dump_recipe
from boxwright.recipes.schema import Recipe
from boxwright.writing import writing

PROJECT = "boxwright"
IDENTITIES = "trackers.json"
"""In the run folder: what W&B and MLflow call the run, so that a resumed run goes on in theirs."""
REMEDIES = {
    "wandb": "log in with `wandb login`, or set WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a server, or install all of mlflow",
    "trackio": "try `python -c 'import trackio'`",
}


def check_trackers(names: Sequence[str]) -> None:
    """ValueError where a tracker is not installed; TensorBoard, the default, is left out then."""
    missing = set(names) - _installed() - {"tensorboard"}
    if missing:
        name = min(missing)
        if find_spec(name) is not None:
            raise ValueError(f"trackers: this version of accelerate does not know {name}; pip install -U accelerate")
        raise ValueError(f"trackers: {name} is not installed; pip install {name}")


def _installed() -> set[str]:
    return {str(getattr(name, "value", name)) for name in get_available_trackers()}


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The keys of a recipe with dots, as `KEY=VALUE` names them; what is no number, text or flag as text."""

    def flat(value: Any, prefix: str) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {name: one for key, inner in value.items() for name, one in flat(inner, f"{prefix}{key}.").items()}
        return {prefix[:-1]: value if isinstance(value, (int, float, str)) else json.dumps(value)}

    return flat(dump_recipe(recipe), "")


class Trackers:
    """The trackers of a run; leaving the context writes out what they still hold.

    TensorBoard writes into the run folder. `after` is the last step that was logged before the run was resumed. A
    tracker that cannot start is a ValueError; one that fails later is logged, and the run goes on without it.
    """

    def __init__(
        self, recipe: Recipe, accelerator: Accelerator, folder: Path, *, log: Callable[[str], None], after: int = 0
    ) -> None:
        self.folder, self.log_line = folder, log
        self.started: dict[str, Any] = {}
        self._identities = self._read_identities() if after else {}
        for name in recipe.trackers:
            if name in _installed():
                self.started[name] = self._start(name, accelerator, recipe, after)
        accelerator.trackers = list(self.started.values())
        if self._identities:
            with writing(folder / IDENTITIES) as file:
                file.write_text(json.dumps(self._identities), encoding="utf-8")

    def _start(self, name: str, accelerator: Accelerator, recipe: Recipe, after: int) -> Any:
        if name == "tensorboard":  # RUN/tensorboard: accelerate would put the project's name below it
            with self._writing():
                board = TensorBoardTracker("tensorboard", str(self.folder), purge_step=after + 1)
                # now that there is a folder: it was made after the accelerator
                accelerator.trackers, accelerator.log_with = [], [board]
                accelerator.init_trackers(PROJECT)
                return accelerator.trackers[0]
        known = self._identities.get(name)
        options: dict[str, dict[str, Any]] = {
            "wandb": {"name": self.folder.name, "dir": str(self.folder)}
            | ({"id": known, "resume": "allow"} if known else {}),
            "mlflow": {"run_name": self.folder.name} | ({"run_id": known} if known else {}),
            "trackio": {"name": self.folder.name} | ({"resume": "allow"} if after else {}),
        }
        try:
            accelerator.trackers, accelerator.log_with = [], [name]
            accelerator.init_trackers(PROJECT, config=settings_of(recipe), init_kwargs=options)
            (tracker,) = accelerator.trackers
        except Exception as error:  # whatever the tracker's own client raises
            raise ValueError(
                f"trackers: {name} could not start ({_reason(error)}); {REMEDIES[name]}, or leave it out of trackers"
            ) from error
        run = tracker.tracker
        identity = {"wandb": lambda: run.id, "mlflow": lambda: run.info.run_id}.get(name)
        if identity is not None:
            self._identities[name] = str(identity())
        return tracker

    def _read_identities(self) -> dict[str, str]:
        try:
            found = json.loads((self.folder / IDENTITIES).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none, or damaged: the trackers begin a run of their own
            return {}
        return {str(name): str(one) for name, one in found.items()} if isinstance(found, dict) else {}

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass a row on, but for what is undefined in it."""
        numbers = {key: value for key, value in row.items() if isinstance(value, (int, float)) and key != "step"}
        for name, tracker in list(self.started.items()):
            self._tell(name, partial(tracker.log, numbers, step=row["step"]))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            for name, tracker in list(self.started.items()):  # `end_training` would also part the processes
                self._tell(name, tracker.finish)
        except OSError:
            if kind is None:  # else the error that ended the run is the one to be told
                raise

    def _tell(self, name: str, call: Callable[[], Any]) -> None:
        """Call a tracker. TensorBoard's errors are those of the run folder; another tracker is given up."""
        if name == "tensorboard":
            with self._writing():
                call()
            return
        try:
            call()
        except Exception as error:  # such as a server that is gone: no reason to lose hours of training
            del self.started[name]
            self.log_line(
                f"trackers: {name} failed and gets no more numbers ({_reason(error)}); "
                f"{self.folder / 'results.jsonl'} has them all"
            )

    def _writing(self) -> AbstractContextManager[Path]:
        return writing(self.folder / "tensorboard", whole=False)


def _reason(error: BaseException) -> str:
    """The first line of an error, not too long for a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
