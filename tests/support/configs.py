"""Configs of detectors from dotted settings, which lie over each other as plain dicts do, and those of recipes."""

import dataclasses
from typing import Any

from boxwright.models import MODELS
from boxwright.recipes import check_model, dump_recipe, load_recipe


def config_of(name: str, settings: dict[str, Any]) -> Any:
    """A config from settings such as `{"fpn.channels": 16, "head.norm": "gn"}`; later ones lie over earlier ones."""
    model: dict[str, Any] = {"name": name}
    for key, value in settings.items():
        *path, last = key.split(".")
        place = model
        for part in path:
            place = place.setdefault(part, {})
        place[last] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    return check_model(model)


def built(name: str, num_classes: int, settings: dict[str, Any]) -> Any:
    """A detector with random weights."""
    return MODELS[name].build(config_of(name, settings), num_classes)


def dotted(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def settings_of(recipe: str, *overrides: str) -> dict[str, Any]:
    """The dotted settings of a recipe's detector, with random weights."""
    model = dump_recipe(load_recipe(recipe, [*overrides, "model.backbone.weights=null"]))["model"]
    return {key: value for key, value in dotted(model).items() if key != "name"}


BASELINE = settings_of("fcos-r50-fpn-1x")
COURSE = settings_of("fcos-regnetx400mf-224", "model.fpn.channels=64", "model.head.stem_channels=[64, 64]")
TWO_STAGE_COURSE = settings_of("faster-rcnn-regnetx400mf-224", "model.fpn.channels=64")
