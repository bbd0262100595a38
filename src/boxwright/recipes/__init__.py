"""Recipes: named, complete descriptions of a run, as YAML with `base:` inheritance and dotted overrides.

`load_recipe("fcos-small", ["optim.lr=0.01"])` reads a shipped recipe (or a YAML file), lays it over its base, applies
the overrides, and checks everything; all mistakes are told at once, each with the nearest known key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from boxwright.models import MODELS
from boxwright.models.config import held_config
from boxwright.reading.yaml_text import parse_yaml, read_yaml
from boxwright.recipes.schema import Recipe, model_section

FOLDER = Path(__file__).parent
LONGEST_NAME = 1000
SHOWN = 120
"""Characters of a wrong value in a sentence."""
ALIASES = {
    "fcos": "fcos-small",
    "retinanet": "retinanet-small",
    "rpn": "rpn-small",
    "fast-rcnn": "fast-rcnn-small",
    "faster-rcnn": "faster-rcnn-small",
    "mask-rcnn": "mask-rcnn-small",
    "fcos-mask": "fcos-mask-small",
}
"""Short names of the recipes that a user's own data should start from."""


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by its name, short alias or YAML path, with overrides such as `optim.lr=0.01`.

    Raises ValueError with every mistake in it, FileNotFoundError when there is no such recipe.
    """
    path = _find(str(name))
    data = _with_base(path, ())
    if any(override.startswith("model.backbone=") for override in overrides):
        _forget_widths(data)
    for override in overrides:
        _apply(data, override)
    data["name"] = path.stem
    return check_recipe(data, str(path.stem if path.parent == FOLDER else path))


def check_recipe(data: dict[str, Any], where: str) -> Recipe:
    """A recipe from plain data (a parsed YAML file, or a checkpoint); `where` names it in messages."""
    if not isinstance(data, dict):
        raise ValueError(f"recipe {where}: expected settings by name, got {type(data).__name__}")
    data = dict(data)
    model = data.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    mistakes: list[str] = []
    if isinstance(model, dict) and isinstance(name, str) and name in MODELS:
        section = model_section(name)
        try:
            data["model"] = section.model_validate(model)
        except ValidationError as error:
            mistakes += _sentences(error, section, ("model",))
            data["model"] = None
    else:
        near = difflib.get_close_matches(_short(name), MODELS, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else ""
        mistakes.append(f"model.name: expected one of {', '.join(MODELS)}, got {_short(name)}{hint}")
        data["model"] = None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        mistakes += _sentences(error, Recipe, ())
    if mistakes:
        raise ValueError(f"recipe {where}: " + "; ".join(mistakes))
    try:
        recipe.model_config_of(num_classes=len(getattr(recipe.model, "class_channels", None) or (0,)))
    except ValueError as error:
        raise ValueError(f"recipe {where}: model.{error}") from error
    return recipe


def check_stored_recipe(data: dict[str, Any], where: str) -> Recipe:
    """The recipe that a file of ours holds; a setting that did not exist when it was written is as things were then."""
    section = data.get("data") if isinstance(data, dict) else None
    if isinstance(section, dict) and "value_range" not in section:
        data = data | {"data": section | {"value_range": "type"}}
    v = data.get("validation")
    if isinstance(v, dict) and "max_pictures" in v:
        data = data | {"validation": {("max_images" if k == "max_pictures" else k): x for k, x in v.items()}}
    return check_recipe(data, where)


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data that `check_recipe` reads back."""
    data = recipe.model_dump(mode="json")
    data["model"] = recipe.model.model_dump(mode="json")
    return data


def _find(name: str) -> Path:
    name = ALIASES.get(name, name)
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


def _with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's settings laid over those of its `base:`, which is a recipe's name or a path beside the file."""
    if path.resolve() in [other.resolve() for other in seen]:
        raise ValueError(f"recipe {path}: its base leads back to itself ({' -> '.join(p.stem for p in (*seen, path))})")
    try:
        data = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"recipe {path}: not YAML that is read here ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"recipe {path}: expected settings by name, got {type(data).__name__}")
    base = data.pop("base", None)
    if base is None:
        return data
    try:
        below = _base_file(path, base)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"recipe {path}: base: {error}") from error
    whole = _with_base(below, (*seen, path))
    if not _keeps_model(data.get("model"), whole.get("model")):
        del whole["model"]
    elif isinstance(data.get("model"), dict) and "backbone" in data["model"]:
        _forget_widths(whole)
    return _overlay(whole, data)


def _base_file(path: Path, base: Any) -> Path:
    """The file that a recipe lies over: one beside it, or a recipe by its name."""
    if not isinstance(base, str) or not base or len(base) > LONGEST_NAME or "\0" in base:
        raise ValueError(f"expected a recipe's name or a file beside this one, got {_short(base)}")
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
    held = held_config(MODELS[name].config) if name in MODELS else None
    return name == other or (held is not None and other in MODELS and held.config is MODELS[other].config)


def _forget_widths(data: dict[str, Any]) -> None:
    """Who names a backbone means that one as it is, and not with the widths of the one before."""
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("backbone_variant"), dict):
        variant = {key: value for key, value in model["backbone_variant"].items() if key != "widths"}
        data["model"] = {**model, "backbone_variant": variant}


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if nested else value
    return merged


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one dotted key, as in `optim.lr=0.01`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override {override!r}: expected key=value, as in optim.lr=0.01")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"override {_short(override)}: the value is not YAML that is read here ({error})") from error
    if isinstance(value, str):
        value = _number(value)
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
        place["epochs"] = None


def _number(text: str) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text


def _sentences(error: ValidationError, section: type[BaseModel], prefix: tuple[str, ...]) -> Iterable[str]:
    """One clause for each mistake: where, what, and the nearest known key for a typo."""
    for detail in error.errors():
        location = (*prefix, *(str(part) for part in detail["loc"]))
        where = ".".join(location)
        if detail["type"] == "extra_forbidden":
            known = _keys(section, location[len(prefix) : -1])
            near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
            yield f"{where}: unknown key" + (f", did you mean {near[0]}?" if near else f" (known: {', '.join(known)})")
        elif detail["type"] == "invalid_key":  # YAML reads an unquoted `on`, `yes` or `3` as no text
            yield f"{where}: expected a key that is text, got {_short(detail['input'])}"
        elif detail["type"] == "missing":
            yield f"{where}: missing"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            yield f"{where}: {message[0].lower()}{message[1:]}, got {_short(detail['input'])}" if where else message


def _short(value: Any) -> str:
    """A value as a sentence shows it, however long it is."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return repr(text) if isinstance(value, str) else text


def _keys(section: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    for part in path:
        field = section.model_fields.get(part)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
