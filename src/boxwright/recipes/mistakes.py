"""What is wrong with a recipe, in words: one clause for each mistake, with the nearest known key for a typo."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_type_hints

from pydantic import BaseModel, ValidationError

from boxwright.models import MODELS
from boxwright.recipes.schema import Recipe

SHOWN = 120
"""Characters of a wrong value in a sentence."""


def sentences(error: ValidationError, model: str | None) -> Iterable[str]:
    """One clause for each mistake in a recipe for this detector: where, what was expected, what was there."""
    for detail in error.errors():
        location = [str(part) for part in detail["loc"]]
        if location[:1] == ["model"] and location[1:2] == [model]:  # the union tells which of its members it took
            del location[1]
        where, kind = ".".join(location), detail["type"]
        if kind in ("extra_forbidden", "unexpected_keyword_argument"):
            known = _keys(location[:-1], model)
            below = [name for name in known if "." not in name]
            near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
            yield f"{where}: unknown key" + (f", did you mean {near[0]}?" if near else f" (known: {', '.join(below)})")
        elif kind == "invalid_key":  # YAML reads an unquoted `on`, `yes` or `3` as no text
            yield f"{where}: expected a key that is text, got {short(detail['input'])}"
        elif kind == "missing":
            yield f"{where}: missing"
        else:
            message = detail["msg"].removeprefix("Value error, ")
            if kind == "dataclass_type":
                message = "expected settings by name"
            if kind == "value_error" and re.match(r"[a-z_0-9., ]+: ", message):  # it names the setting itself
                yield f"{where}.{message}" if where else message
            else:
                yield f"{where}: {message[0].lower()}{message[1:]}, got {short(detail['input'])}" if where else message


def short(value: Any) -> str:
    """A value as a sentence shows it, however long it is."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return repr(text) if isinstance(value, str) else text


def _keys(path: Sequence[str], model: Any) -> list[str]:
    """The names of the settings of a section, and the dotted ones of the sections within it."""
    section: Any = Recipe
    for part in path:
        section = _below(section, model).get(part)
    found = []
    for name, kind in _below(section, model).items():
        found += [name, *(f"{name}.{key}" for key in _below(kind, model))]
    return found


def _below(section: Any, model: Any) -> dict[str, Any]:
    """The type of each setting of a section; none of what is no section."""
    if not isinstance(section, type):
        return {}
    if issubclass(section, BaseModel):
        kinds = {name: field.annotation for name, field in section.model_fields.items()}
        return kinds if section is not Recipe else {**kinds, "model": MODELS[model].config if model in MODELS else None}
    return get_type_hints(section) if dataclasses.is_dataclass(section) else {}
