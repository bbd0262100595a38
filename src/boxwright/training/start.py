"""What a new run starts from: its recipe, and the trained detector whose weights it takes, if any."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from boxwright.checkpoint import Checkpoint
from boxwright.inference.loading import open_checkpoint
from boxwright.recipes import load_recipe
from boxwright.recipes.choice import settled, this_machine
from boxwright.recipes.fine_tuning import fine_tuning_recipe
from boxwright.recipes.schema import Recipe
from boxwright.runtime.devices import device_called
from boxwright.training.starting_weights import starting_sentences
from boxwright.weights.download import is_remote, source_name
from boxwright.writing import printable

DEFAULT_RECIPE = "fcos"
OF_THE_WEIGHTS = ("pixel_mean", "pixel_std", "stride_in_1x1", "norm_eps")
"""Settings of a backbone without which its weights compute something else."""


class Start(NamedTuple):
    """A run before its data is opened."""

    recipe: Recipe
    source: str | None = None
    """What the weights are called: a path, a name of the zoo, a URL."""
    checkpoint: Checkpoint | None = None
    notes: tuple[str, ...] = ()
    """What was decided, for the log."""

    @property
    def origin(self) -> dict[str, Any] | None:
        """Where the weights come from and under which licence, as a checkpoint of the run keeps it."""
        if self.checkpoint is None:
            return None
        return {"started_from": self.source, "licence": (self.checkpoint.origin or {}).get("licence")}


def open_start(
    recipe: str | None, weights: str | Path | None, overrides: Sequence[str] = (), device: str = "auto"
) -> Start:
    """The recipe and the weights that `train` was given, for a run on a device.

    Without weights the recipe is `recipe` or the default. With weights and without a recipe it is the fine-tuning
    recipe of their detector; with both, the recipe's backbone takes their colours and strides where it is the same.
    """
    machine = this_machine(device_called(device))
    if weights is None:
        name, note = settled(recipe or DEFAULT_RECIPE, machine)
        chosen = load_recipe(name, overrides)
        return Start(chosen, notes=(*([] if note is None else [note]), *starting_sentences(chosen)))
    source = source_of(weights)
    checkpoint = open_checkpoint(source)
    origin = checkpoint.origin or {}
    notes = [f"weights: licence {origin['licence']}"] if origin.get("licence") else []
    if origin.get("notes"):
        notes.append(printable(f"weights: assumed {'; '.join(origin['notes'])}"))
    if recipe is None:
        chosen = fine_tuning_recipe(checkpoint.recipe, overrides)
        notes.insert(0, f"recipe: the network of {source}, the settings for fine-tuning")
        return Start(chosen, source, checkpoint, tuple(notes))
    name, note = settled(recipe, machine)
    notes = notes if note is None else [note, *notes]
    chosen, taken = with_backbone_of(load_recipe(name, overrides), checkpoint.recipe, overrides)
    if taken:
        notes.append(f"weights: the backbone has their {', '.join(taken)}, not the recipe's")
    return Start(chosen, source, checkpoint, tuple(notes))


def source_of(weights: str | Path) -> str:
    """A path as an absolute one, since a run may be resumed from another folder; names and URLs as they are."""
    name = source_name(weights)
    return name if is_remote(name) else str(Path(weights).resolve())


def with_backbone_of(recipe: Recipe, trained: Recipe, overrides: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """The recipe with those settings of the trained backbone that its weights need, and which of them were others.

    Only where both name the same network, and not what an override asks for.
    """
    own, theirs = recipe.model.backbone, trained.model.backbone
    asked = {override.partition("=")[0].strip() for override in overrides}
    changes = {
        key: getattr(theirs, key)
        for key in OF_THE_WEIGHTS
        if own.name == theirs.name and getattr(own, key) != getattr(theirs, key)
        and f"model.backbone.{key}" not in asked
    }  # fmt: skip
    if not changes:
        return recipe, []
    backbone = dataclasses.replace(own, **changes)
    model: Any = dataclasses.replace(recipe.model, backbone=backbone)  # type: ignore[type-var]
    return recipe.model_copy(update={"model": model}), list(changes)
