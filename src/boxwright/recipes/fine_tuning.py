"""The recipe of a run that starts from a trained detector: that one's network, and the settings of one YAML file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from boxwright.recipes import base_settings, dump_recipe, overlaid, overridden
from boxwright.recipes.schema import Recipe

SETTINGS = "base-finetune-detector"
"""The base that holds all that does not come from the trained detector."""
HIGHEST_THRESHOLD = 0.05
"""Validation needs weak detections too; torchvision's FCOS, for one, reports from 0.2 on."""


def fine_tuning_recipe(trained: Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe for new data that builds the same network, with overrides such as `optim.lr=0.0001`.

    From the trained detector's recipe come its model, the size of images and how detections are chosen; the rest is in
    `SETTINGS`. Output channels that were no class are left out: a new head has one for each class.
    """
    settings = base_settings(SETTINGS)
    old = dump_recipe(trained)
    model, wanted = old["model"], settings.pop("model")["backbone"]
    backbone = {**model["backbone"], "weights": None}
    if backbone["norm"] in ("bn", "sync_bn"):
        backbone["norm"] = wanted["norm"]
    backbone["frozen_stages"] = max(backbone["frozen_stages"], wanted["frozen_stages"])
    compat = {key: None if key == "class_channels" else value for key, value in model["compat"].items()}
    threshold = min(old["detect"]["score_threshold"], HIGHEST_THRESHOLD)
    name = _name(trained.name)
    from_it = {
        "name": name,
        "model": {**model, "backbone": backbone, "compat": compat},
        # what is resized goes with how: tiles, where it was trained on those
        "data": {name: old["data"][name] for name in ("resize", "tiles")},
        "detect": {**old["detect"], "score_threshold": threshold},
    }
    return overridden(overlaid(settings, from_it), overrides, name)


def _name(trained: str) -> str:
    """What the run will be called: the detector's name as one word.

    >>> _name("torchvision/fcos_resnet50_fpn"), _name("fcos-small"), _name("fcos-small-tuned")
    ('fcos_resnet50_fpn-tuned', 'fcos-small-tuned', 'fcos-small-tuned')
    """
    word = re.sub(r"[^\w.-]+", "-", trained.rpartition("/")[2]).strip("-") or "detector"
    return f"{word.removesuffix('-tuned')}-tuned"
