"""Where the rows of a run go besides its folder: TensorBoard, Weights & Biases, MLflow, trackio, through accelerate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers

from boxwright.writing import writing

PROJECT = "boxwright"


def check_trackers(names: Sequence[str]) -> None:
    """ValueError where a tracker is not installed; TensorBoard, the default, is left out then."""
    missing = set(names) - _installed() - {"tensorboard"}
    if missing:
        raise ValueError(f"trackers: {min(missing)} is not installed; pip install {min(missing)}")


def _installed() -> set[str]:
    return {str(getattr(name, "value", name)) for name in get_available_trackers()}


class Trackers:
    """The trackers of a run; leaving the context writes out what they still hold.

    TensorBoard writes into the run folder. `after` is the last step that was logged before the run was resumed.
    """

    def __init__(self, names: Sequence[str], accelerator: Accelerator, folder: Path, *, after: int = 0) -> None:
        self.accelerator, self.folder = accelerator, folder
        chosen: list[Any] = [name for name in names if name in _installed()]
        options = {
            "wandb": {"name": folder.name, "dir": str(folder)},
            "mlflow": {"run_name": folder.name, "logging_dir": str(folder)},
            "trackio": {"name": folder.name},
        }
        with self._writing():
            if "tensorboard" in chosen:  # RUN/tensorboard: accelerate would put the project's name below it
                board = TensorBoardTracker("tensorboard", str(folder), purge_step=after + 1)
                chosen[chosen.index("tensorboard")] = board
            accelerator.log_with = chosen  # now that there is a folder: it was made after the accelerator
            accelerator.init_trackers(PROJECT, init_kwargs=options)

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass a row on, but for what is undefined in it."""
        numbers = {key: value for key, value in row.items() if isinstance(value, (int, float)) and key != "step"}
        with self._writing():
            self.accelerator.log(numbers, step=row["step"])

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._writing():
                for tracker in self.accelerator.trackers:  # `end_training` would also part the processes
                    tracker.finish()
        except OSError:
            if kind is None:  # else the error that ended the run is the one to be told
                raise

    def _writing(self) -> AbstractContextManager[Path]:
        return writing(self.folder / "tensorboard", whole=False)
