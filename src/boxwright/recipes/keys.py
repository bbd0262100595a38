"""What every key of a recipe means: its type, its default and its explanation, read from the schema itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from boxwright.models import MODELS
from boxwright.recipes.schema import Recipe

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_PLAIN = {int: "whole number", float: "number", bool: "true | false", str: "text", Any: "anything"}


class Key(NamedTuple):
    """One setting: its dotted key, what values it takes, its default, and what it is for ("" where the key says it)."""

    key: str
    type: str
    default: Any
    text: str


class _Setting(NamedTuple):
    """A field of a section: its type with bounds, its default, and a config of that type whose values are defaults."""

    annotation: Any
    bounds: list[Any]
    default: Any


def recipe_keys(model: str) -> list[Key]:
    """Every key that a recipe for this detector may set, in the order of the schema.

    >>> next(key for key in recipe_keys("fcos") if key.key == "data.batch_size")
    Key(key='data.batch_size', type='whole number >= 1', default=16, text='Images per process and step.')
    """
    return list(_keys_of(Recipe, None, "", model))


def _keys_of(section: type[Any], given: Any, prefix: str, model: str) -> Iterator[Key]:
    """The keys of a section; `given` is a config whose values are the defaults."""
    texts = _texts(section.__name__)
    for name, (annotation, bounds, default) in _settings(section, given).items():
        if prefix == "" and name == "model":
            yield from _keys_of(MODELS[model].config, None, "model.", model)
        elif isinstance(annotation, type) and (
            issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
        ):
            yield from _keys_of(annotation, default, f"{prefix}{name}.", model)
        else:
            yield Key(prefix + name, _type_text(annotation, bounds), default, texts.get(name, ""))


def _settings(section: type[Any], given: Any) -> dict[str, _Setting]:
    """The fields of a section, which is a pydantic model or a config dataclass."""
    if issubclass(section, BaseModel):
        return {
            name: _Setting(field.annotation, field.metadata, None if field.is_required() else field.default)
            for name, field in section.model_fields.items()
        }
    hints = get_type_hints(section)
    return {
        field.name: _Setting(hints[field.name], [], field.default if given is None else getattr(given, field.name))
        for field in dataclasses.fields(section)
    }


def _texts(section: str) -> dict[str, str]:
    """The explanation of each field of a section."""
    fields = _sections()[section]["properties"]
    return {name: " ".join(field.get("description", "").split()) for name, field in fields.items()}


@cache
def _sections() -> dict[str, Any]:
    """The schema of every section, by the name of its class."""
    schema = Recipe.model_json_schema()
    sections: dict[str, Any] = schema["$defs"]
    return {**sections, Recipe.__name__: schema}


def _type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """The values that an annotation stands for, in a person's words, with its bounds."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        flat = [bound for entry in parts[1:] for bound in getattr(entry, "metadata", [entry])]
        return _type_text(parts[0], [*flat, *metadata])
    if origin is Literal:
        text = " | ".join(map(str, parts))
    elif origin in (Union, UnionType):
        known = [part for part in parts if part is not NoneType]
        return " | ".join(
            [*(_type_text(part, metadata) for part in known), *(["null"] if len(known) < len(parts) else [])]
        )
    elif origin is tuple:
        inner = [_type_text(part) for part in parts if part is not Ellipsis]
        text = f"[{', '.join(inner)}{', ...' if Ellipsis in parts else ''}]"
    else:
        text = _PLAIN.get(annotation, str(annotation))
    bounds = {name: getattr(entry, name) for entry in metadata for name in _BOUNDS if hasattr(entry, name)}
    if set(bounds) == {"ge", "le"}:
        return f"{text} in [{bounds['ge']:g}, {bounds['le']:g}]"
    return " ".join([text, *(f"{_BOUNDS[name]} {value:g}" for name, value in bounds.items())])
