"""`boxwright.build`: the short way to a detector's network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwright.models import MODELS, DetectionModel
from boxwright.recipes import load_recipe


def build(name: str | Path, overrides: Sequence[str] = (), *, num_classes: int) -> DetectionModel:
    """A detector with random weights, as an `nn.Module` to train or to read.

    `name` is that of a detector ("fcos", "faster_rcnn": its recipe for one's own data), of a recipe, or of a YAML file;
    `overrides` are settings of the recipe. Nothing is fetched: pretrained weights of a recipe are for `train`.

    >>> model = build("fcos", ["model.fpn.channels=32"], num_classes=3)
    >>> sorted(name for name, _ in model.named_children())
    ['backbone', 'fpn', 'head']

    Raises ValueError where there is no such detector or setting, or less than one class.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    recipe = load_recipe(str(name).replace("_", "-") if name in MODELS else name, overrides)
    return recipe.build_model(num_classes)
