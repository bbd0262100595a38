"""Going on with a run: what it was asked for, and what may be given beside `--resume`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from boxwright.checkpoint import Checkpoint, load_checkpoint
from boxwright.training.run_folder import newest_run
from boxwright.training.state import Progress, refused_if_broken
from boxwright.wording import counted


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the user asked for; saved with the run, so that resume needs nothing else."""

    data: str
    classes: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    overfit: int | None = None
    minutes: float | None = None
    device: str = "auto"
    seed: int = 0
    weights: str | None = None
    proposals: str | None = None
    num_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class ResumedRun:
    """A run that is not finished, as its last checkpoint has it."""

    path: Path
    """The checkpoint."""
    checkpoint: Checkpoint
    arguments: Arguments
    precision: Literal["fp32", "bf16", "fp16"]
    training: dict[str, Any]
    """What `TrainState.training_dict` gave."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.path.parent.parent


def refuse_beside_resume(given: Sequence[str]) -> None:
    """ValueError that names what was given beside `resume`, if anything: it would do nothing."""
    if given:
        raise ValueError(
            f"--resume takes all settings from the run, so {', '.join(given)} would have no effect: leave that out, or "
            "start a new run with --weights"
        )


def open_run(
    path: Path,
    runs: Path,
    name: str | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    num_gpus: int | None = None,
) -> ResumedRun:
    """Open a run folder, one of its checkpoints, or the "latest" run below `runs` (of this `name`).

    `data` and `device` take the place of what the run began with, `num_gpus` only where that is not known. Raises
    FileNotFoundError, or ValueError where the run is finished, its checkpoint holds nothing to go on with, or it began
    with another number of processes.
    """
    if str(path) == "latest":
        path = newest_run(runs, name)
    last = path if path.is_file() else path / "weights" / "last.pt"
    if not last.exists():
        raise FileNotFoundError(f"{path}: nothing to resume, there is no {last}")
    checkpoint = load_checkpoint(last)
    training = checkpoint.training
    if training is None:
        raise ValueError(f"{last} holds weights only; start a new run from it with --weights")
    try:
        with refused_if_broken():
            progress = Progress.of(training["progress"])
            asked: Arguments = TypeAdapter(Arguments).validate_python(training["arguments"])
            precision: Any = TypeAdapter(Literal["fp32", "bf16", "fp16"]).validate_python(training["precision"])
    except ValueError as error:
        raise broken(last, error) from error
    run = ResumedRun(last, checkpoint, asked, precision, training)
    if progress.finished and (run.folder / "metrics.json").exists():
        raise ValueError(
            f"{run.folder} is finished ({counted(progress.step, 'step')}); to train on from it start a new run "
            f"with --weights {last}"
        )
    if data is not None:  # the data may have moved
        asked = replace(asked, data=str(Path(data).resolve()))
    if device is not None:  # the arithmetic stays that of the run
        asked = replace(asked, device=device)
    if None not in (num_gpus, asked.num_gpus) and num_gpus != asked.num_gpus:
        raise ValueError(
            f"{run.folder} was begun with num_gpus {asked.num_gpus}, and its learning rate is made for them: expected "
            f"that number or none, got {num_gpus}"
        )
    asked = replace(asked, num_gpus=asked.num_gpus or num_gpus)
    if not Path(asked.data).exists():
        raise FileNotFoundError(
            f"{asked.data}: the data of {run.folder} is not there; say where it is with --data FOLDER"
        )
    return replace(run, arguments=asked)


def broken(path: Path, error: ValueError) -> ValueError:
    """The sentence for a checkpoint whose weights are whole, and whose state of training is not."""
    return ValueError(f"{path}: {error}; it cannot be resumed, but a new run can start from it with --weights {path}")
