"""Recipes: named, complete descriptions of a run, as YAML with `base:` inheritance and dotted overrides.

`load_recipe("fcos-small", ["optim.lr=0.01"])` reads a shipped recipe (or a YAML file), lays it over its base, applies
the overrides, and checks everything; all mistakes are told at once, each with the nearest known key. Recipes and
overrides of version 1 are read too (`version1.py`), with a warning that names the new keys.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from boxwright.models import MODELS, ModelConfig
from boxwright.reading.yaml_text import parse_yaml, read_yaml
from boxwright.recipes import version1
from boxwright.recipes.choice import ALIASES, AUTO, choose, this_machine
from boxwright.recipes.compat import SWITCHES, switch_settings
from boxwright.recipes.mistakes import sentences, short
from boxwright.recipes.schema import Recipe
from boxwright.weights.bundled import BUNDLED, fits_bundled

_LOG = logging.getLogger("boxwright.recipes")
FOLDER = Path(__file__).parent
LONGEST_NAME = 1000
BASE = "base-"
"""How files begin that recipes lie over and that are none themselves: they name no detector."""
_DEFAULT = {"name": next(iter(MODELS))}


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith(BASE))


def is_recipe(name: str) -> bool:
    """Whether this names a recipe, and not a checkpoint: a recipe of the package, a short name, or a YAML file."""
    return name.endswith((".yaml", ".yml", AUTO)) or name in ALIASES or name in recipe_names()


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by its name, short alias or YAML path, with overrides such as `optim.lr=0.01`.

    `fcos@auto` is the recipe of that detector for the machine that this runs on (`recipes.choice`).

    Raises ValueError with every mistake in it, FileNotFoundError when there is no such recipe.
    """
    path = _find(str(name))
    notes: list[str] = []
    data = _with_base(path, (), notes) | {"name": path.stem}
    return overridden(data, overrides, str(path.stem if path.parent == FOLDER else path), notes)


def base_settings(name: str) -> dict[str, Any]:
    """The settings of a base of the package (`base-finetune`), which names no detector, laid over its own base."""
    return _with_base(FOLDER / f"{name}.yaml", (), [])


def overridden(
    data: dict[str, Any], overrides: Sequence[str], where: str, notes: Sequence[str] = ()
) -> Recipe:  # fmt: skip
    """A recipe from plain data with overrides such as `optim.lr=0.01`; `where` names it in messages.

    `notes` are what was translated from version 1 so far.
    """
    name, notes = data["name"], list(notes)
    settings = [setting for override in overrides for setting in _parsed(override, notes)]
    for key, value in settings:
        if _names_backbone(key, value):
            _forget_network(data, value)
        if key == "compat":
            data = overlaid(data, _of_switch(value, data, where))
    for key, value in settings:
        _apply(data, key, value)
    data["name"] = name
    if notes:
        _LOG.warning("recipe %s: old names of settings were understood: %s", where, "; ".join(dict.fromkeys(notes)))
    return check_recipe(data, where)


def check_recipe(data: dict[str, Any], where: str) -> Recipe:
    """A recipe from plain data (a parsed YAML file, or a checkpoint); `where` names it in messages."""
    if not isinstance(data, dict):
        raise ValueError(f"recipe {where}: expected settings by name, got {type(data).__name__}")
    mistakes: list[str] = []
    model = data.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    if not isinstance(model, dict) or not isinstance(name, str) or name not in MODELS:
        near = difflib.get_close_matches(short(name), MODELS, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else ""
        mistakes.append(f"model.name: expected one of {', '.join(MODELS)}, got {short(name)}{hint}")
        data = {**data, "model": _DEFAULT}
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        mistakes += sentences(error, name if isinstance(name, str) else None)
    if mistakes:
        raise ValueError(f"recipe {where}: " + "; ".join(mistakes))
    return recipe


def check_model(data: dict[str, Any], where: str = "model") -> ModelConfig:
    """The config of a detector from plain data, the section `model` of a recipe; errors as from `check_recipe`."""
    return check_recipe({"model": data, "schedule": {"steps": 1}}, where).model


def check_stored_recipe(data: dict[str, Any], where: str) -> Recipe:
    """The recipe that a file of ours holds, also one of version 0.1.

    A setting that did not exist when it was written is as things were then.
    """
    section = data.get("data") if isinstance(data, dict) else None
    if isinstance(section, dict) and "value_range" not in section:
        data = data | {"data": section | {"value_range": "type"}}
    try:
        data = version1.today(data, []) if isinstance(data, dict) else data
    except ValueError as error:
        raise ValueError(f"recipe {where}: {error}") from error
    return check_recipe(data, where)


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data that `check_recipe` reads back."""
    return recipe.model_dump(mode="json")


def _find(name: str) -> Path:
    name = choose(name, this_machine()).recipe if name.endswith(AUTO) else ALIASES.get(name, name)
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise FileNotFoundError(f"recipe {name}: no such file")
        return Path(name)
    if name not in recipe_names():
        if "=" in name:
            raise ValueError(f"no recipe {name!r}: the recipe's name comes before its settings, as in fcos {name}")
        near = difflib.get_close_matches(name, [*recipe_names(), *ALIASES], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no recipe {name!r}{hint} (`boxwright recipes` lists them; or give a YAML file)")
    return FOLDER / f"{name}.yaml"


def _with_base(path: Path, seen: tuple[Path, ...], notes: list[str]) -> dict[str, Any]:
    """The file's settings laid over those of its `base:`, which is a recipe's name or a path beside the file.

    What was translated from version 1 is noted.
    """
    if path.resolve() in [other.resolve() for other in seen]:
        raise ValueError(f"recipe {path}: its base leads back to itself ({' -> '.join(p.stem for p in (*seen, path))})")
    try:
        data = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"recipe {path}: not YAML that is read here ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"recipe {path}: expected settings by name, got {type(data).__name__}")
    base = data.pop("base", None)
    try:
        data = version1.today(data, notes)
    except ValueError as error:
        raise ValueError(f"recipe {path}: {error}") from error
    if base is None:
        return overlaid(_of_switch(data.get("compat"), data, str(path)), data)
    try:
        below = _base_file(path, base)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"recipe {path}: base: {error}") from error
    whole = _with_base(below, (*seen, path), notes)
    model = data.get("model")
    if not _keeps_model(model, whole.get("model")):
        del whole["model"]
    elif isinstance(model, dict) and isinstance(model.get("backbone"), dict) and "name" in model["backbone"]:
        _forget_network(whole, model["backbone"]["name"])
    switched = _of_switch(data.get("compat"), overlaid(whole, data), str(path))
    return overlaid(overlaid(whole, switched), data)


def _of_switch(library: Any, data: dict[str, Any], where: str) -> dict[str, Any]:
    """What `compat` stands for with the detector of these settings; what is written beside it lies over that."""
    if library not in SWITCHES:  # the schema refuses what is neither one nor null
        return {}
    plain = check_recipe({key: value for key, value in data.items() if key != "compat"}, where)
    try:
        return switch_settings(library, dump_recipe(plain)["model"], plain.data.resize.mode)
    except ValueError as error:
        raise ValueError(f"recipe {where}: compat: {error}") from error


def _base_file(path: Path, base: Any) -> Path:
    """The file that a recipe lies over: one beside it, a recipe by its name, or a base of the package."""
    if not isinstance(base, str) or not base or len(base) > LONGEST_NAME or "\0" in base:
        raise ValueError(f"expected a recipe's name or a file beside this one, got {short(base)}")
    if base.startswith(BASE) and (FOLDER / f"{base}.yaml").is_file():
        return FOLDER / f"{base}.yaml"
    beside = path.parent / base
    return beside if beside.is_file() else _find(base)


def _keeps_model(model: Any, below: Any) -> bool:
    """Whether the settings of the base's detector hold for a recipe's own too: not for another one, with other keys.

    But for one that holds the base's.
    """
    if not isinstance(model, dict) or not isinstance(below, dict):
        return True
    name, other = model.get("name", below.get("name")), below.get("name")
    if not isinstance(name, str) or not isinstance(other, str):  # which is told when everything is checked
        return True
    return name == other or (name in MODELS and MODELS[name].holds == other)


def _names_backbone(key: str, value: Any) -> bool:
    return key == "model.backbone.name" or (key == "model.backbone" and isinstance(value, str))


def _forget_network(data: dict[str, Any], name: Any) -> None:
    """Who names a backbone means that one as it is: not with the widths of the one before, nor with weights of its own.

    Weights that only one network has (and the pixels that they expect) go when another is named.
    """
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("backbone"), dict):
        left_out = {"widths"}
        if model["backbone"].get("weights") == BUNDLED and not fits_bundled(str(name)):
            left_out |= {"weights", "pixel_mean", "pixel_std"}
        backbone = {key: value for key, value in model["backbone"].items() if key not in left_out}
        data["model"] = {**model, "backbone": backbone}


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Settings laid over others, section by section."""
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlaid(merged[key], value) if nested else value
    return merged


def _parsed(override: str, notes: list[str]) -> list[tuple[str, Any]]:
    """Today's keys and their values of one override such as `optim.lr=0.01`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override {override!r}: expected key=value, as in optim.lr=0.01")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"override {short(override)}: the value is not YAML that is read here ({error})") from error
    if isinstance(value, str):
        value = _number(value)
    return list(version1.override_today(key, value, notes).items())


def _apply(data: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key; a backbone's name stands for the section with that name in it."""
    if _names_backbone(key, value):
        key = "model.backbone.name"
    *path, last = key.split(".")
    place = data
    for part in path:
        below = place.get(part)
        place[part] = below = dict(below) if isinstance(below, dict) else {}
        place = below
    place[last] = value
    if key == "schedule.epochs" and value is not None:  # the one length replaces the other
        place["steps"] = None
    if key == "schedule.steps" and value is not None:
        place["epochs"] = place["step_bounds"] = None


def _number(text: str) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text
