"""Our own files: weights, recipe, classes and everything a run needs to go on, as plain tensors and containers.

A checkpoint is read with `weights_only=True`: it holds nothing that could run. `weights` are the ones to use (the EMA
where there is one); `training` is what resume needs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright.models import MODELS
from boxwright.recipes import check_stored_recipe, dump_recipe
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes

FORMAT = "boxwright checkpoint"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained detector: recipe, classes, weights to use, default score threshold, and the state of its training."""

    recipe: Recipe
    classes: Classes
    weights: dict[str, Tensor]
    score_threshold: float | None = None
    """The score of the best F1 on the validation pictures: what `predict` shows by default."""
    metrics: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    """The library and architecture that it was converted from, and what is kept for the way back."""

    def build(self) -> Any:
        """The detector with these weights, in evaluation mode."""
        # the weights are here: nothing is fetched
        config = self.recipe.model_copy(update={"model": self.recipe.model.model_copy(update=_NO_DOWNLOAD)})
        model = MODELS[self.recipe.model.name].build(config.model_config_of(len(self.classes)))
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit their recipe ({' '.join(str(error).split())[:200]})") from error
        return model.eval()


_NO_DOWNLOAD = {"backbone_weights": None}


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint so that a crash or a full disk leaves the old file whole."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": dump_recipe(checkpoint.recipe),
        "classes": {"names": list(checkpoint.classes.names), "ids": list(checkpoint.classes.ids)},
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

    Raises FileNotFoundError, or ValueError for a file that is not one of ours.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "weights" / "best.pt").exists():
            raise ValueError(f"{path} is a folder without weights/best.pt; give a checkpoint or a run folder")
        path = path / "weights" / "best.pt"
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # on a damaged file torch raises anything from struct.error to IndexError
        raise ValueError(f"{path} is not a boxwright checkpoint (not a file of plain tensors, or damaged)") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{path} is not a boxwright checkpoint: it does not say what it is")
    version = data.get("version")
    if version != VERSION:
        raise ValueError(f"{path}: checkpoint version {version}, this boxwright reads {VERSION}; upgrade it")
    missing = {"recipe", "classes", "weights", "score_threshold", "metrics", "training"} - set(data)
    if missing:
        raise ValueError(f"{path}: a boxwright checkpoint without {', '.join(sorted(missing))}; it was changed or cut")
    return Checkpoint(
        recipe=check_stored_recipe(data["recipe"], str(path)),
        classes=Classes(tuple(data["classes"]["names"]), tuple(data["classes"]["ids"])),
        weights=data["weights"],
        score_threshold=data["score_threshold"],
        metrics=data["metrics"],
        training=data["training"],
        origin=data.get("origin"),
    )
