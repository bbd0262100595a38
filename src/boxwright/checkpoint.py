"""Our own files: weights, recipe, classes and everything a run needs to go on, as plain tensors and containers.

A checkpoint holds nothing that could run (torch reads it with `weights_only=True`), and what is in it is compared with
its checksums when it is read. `weights` are the ones to use (the EMA where there is one); `training` is what resume
needs.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright.models import DetectionModel
from boxwright.reading.archives import DamagedError, check_archive
from boxwright.recipes import check_stored_recipe
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes
from boxwright.weights.pickles import foreign_names
from boxwright.weights.state_dicts import check_finite
from boxwright.weights.torch_files import read_torch_file

FORMAT = "boxwright checkpoint"
VERSION = 1


class NotOursError(ValueError):
    """A file that is no checkpoint of ours; it may be one of another library."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained detector: recipe, classes, weights to use, default score threshold, and the state of its training."""

    recipe: Recipe
    classes: Classes
    weights: dict[str, Tensor]
    score_threshold: float | None = None
    """The score of the best F1 on the validation images: what `predict` shows by default."""
    metrics: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    """The library and architecture that it was converted from, and what is kept for the way back."""

    def build(self) -> DetectionModel:
        """The detector with these weights, in evaluation mode."""
        model = self.recipe.build_model(len(self.classes))
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit their recipe ({' '.join(str(error).split())[:200]})") from error
        return model.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint so that a crash or a full disk leaves the old file whole."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": checkpoint.recipe.model_dump(mode="json"),
        "classes": checkpoint.classes.as_dict(),
        "weights": checkpoint.weights,
        "score_threshold": checkpoint.score_threshold,
        "metrics": checkpoint.metrics,
        "training": checkpoint.training,
        "origin": checkpoint.origin,
    }
    partial = path.with_name(path.name + ".partial")
    try:
        torch.save(data, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        why = f"{error}" if isinstance(error, OSError) else f"is the disk full? ({error})"  # torch's writer cannot say
        raise OSError(f"could not write {path}: {why}; the file that was there before is unchanged") from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; of a run folder its weights/best.pt.

    Raises FileNotFoundError, NotOursError (a ValueError) for a file that is not one of ours, DamagedError (another) for
    one that is cut or has other bytes in it than were written, and ValueError for one that is otherwise wrong.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "weights" / "best.pt").exists():
            raise ValueError(f"{path} is a folder without weights/best.pt; give a checkpoint or a run folder")
        path = path / "weights" / "best.pt"
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    try:
        if not path.stat().st_size:
            raise DamagedError("it is empty")
        data = read_torch_file(path)
    except DamagedError as error:
        raise DamagedError(
            f"{path} is not a boxwright checkpoint, or it is damaged: {error}; {_instead(path)}"
        ) from error
    except ValueError as error:
        raise NotOursError(f"{path} is not a boxwright checkpoint (not a file of plain tensors, or damaged)") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise NotOursError(f"{path} is not a boxwright checkpoint: it does not say what it is")
    if names := foreign_names(data):
        raise NotOursError(
            f"{path} is not a boxwright checkpoint: it asks for {names[0]}, and ours hold plain data only"
        )
    version = data.get("version")
    if version != VERSION:
        raise ValueError(f"{path}: checkpoint version {version!s:.40}, this boxwright reads {VERSION}; upgrade it")
    missing = {"recipe", "classes", "weights", "score_threshold", "metrics", "training"} - set(data)
    if missing:
        raise ValueError(f"{path}: a boxwright checkpoint without {', '.join(sorted(missing))}; it was changed or cut")
    return _checked(data, path)


def _checked(data: dict[str, Any], path: Path) -> Checkpoint:
    """A checkpoint from the content of a file, whose every part is what it is to be."""
    listed: dict[str, Any] = data["classes"] if isinstance(data["classes"], dict) else {}
    names, ids = listed.get("names", ()), listed.get("ids", ())
    score = data["score_threshold"]
    good = {
        "classes": _all(names, str) and _all(ids, int),
        "weights": isinstance(data["weights"], dict) and _all(list(data["weights"]), str)
        and _all(list(data["weights"].values()), Tensor),
        "score_threshold": score is None or (isinstance(score, (int, float)) and 0 <= score <= 1),
        **{key: data.get(key) is None or isinstance(data[key], dict) for key in ("metrics", "training", "origin")},
    }  # fmt: skip
    wrong = [key for key, fine in good.items() if not fine]
    if wrong:
        raise ValueError(f"{path}: a boxwright checkpoint whose {', '.join(wrong)} is not what is written there: "
                         "it was changed by another program")  # fmt: skip
    check_finite(data["weights"], str(path))
    try:
        classes = Classes.from_dict(listed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Checkpoint(
        recipe=check_stored_recipe(data["recipe"], str(path)),
        classes=classes,
        weights=data["weights"],
        score_threshold=score,
        metrics=data["metrics"],
        training=data["training"],
        origin=data.get("origin"),
    )


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _instead(path: Path) -> str:
    """What to take for a damaged checkpoint: the other one of its run, where that is whole."""
    other = path.with_name({"last.pt": "best.pt", "best.pt": "last.pt"}.get(path.name, path.name))
    if other != path and other.is_file():
        with suppress(ValueError, OSError):
            check_archive(other)
            return f"take {other} instead, for --resume too"
    return "take another copy of it, or make it again"
