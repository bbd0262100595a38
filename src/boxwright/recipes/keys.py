"""What every key of a recipe means: its type, its default and its explanation, read from the schema itself."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from boxwright.models import MODELS
from boxwright.models.config import held_config
from boxwright.recipes.schema import Recipe

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_PLAIN = {int: "whole number", float: "number", bool: "true | false", str: "text", Any: "anything"}


class Key(NamedTuple):
    """One setting: its dotted key, what values it takes, its default, and what it is for ("" where the key says it)."""

    key: str
    type: str
    default: Any
    text: str


def recipe_keys(model: str) -> list[Key]:
    """Every key that a recipe for this detector may set, in the order of the schema.

    >>> next(key for key in recipe_keys("fcos") if key.key == "data.batch_size")
    Key(key='data.batch_size', type='whole number >= 1', default=16, text='Images a process and step.')
    """
    return list(_section_keys(Recipe, "", model))


def _section_keys(section: type[BaseModel], prefix: str, model: str) -> Iterator[Key]:
    texts = _field_texts(section)
    for name, field in section.model_fields.items():
        below = field.annotation
        if prefix == "" and name == "model":
            yield from _model_keys(model)
        elif isinstance(below, type) and issubclass(below, BaseModel):
            yield from _section_keys(below, f"{prefix}{name}.", model)
        else:
            default = None if field.is_required() else field.default
            yield Key(prefix + name, _type_text(field.annotation, field.metadata), default, texts.get(name, ""))


def _model_keys(model: str) -> Iterator[Key]:
    """The section `model`; its explanations stand in the detector's config dataclass."""
    yield Key("model.name", model, model, "Which detector.")
    yield from _config_keys(MODELS[model].config, None, "model.")


def _config_keys(config: type[Any], given: Any, prefix: str) -> Iterator[Key]:
    """The fields of a config dataclass; `given` is an instance whose values are the defaults."""
    texts, hints, held = _field_texts(config), get_type_hints(config), held_config(config)
    for field in dataclasses.fields(config):
        if held and field.name == held.field:
            yield from _config_keys(held.config, None, prefix)
            continue
        default = field.default if given is None else getattr(given, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _config_keys(type(default), default, f"{prefix}{field.name}.")
        elif field.name != "num_classes":
            yield Key(prefix + field.name, _type_text(hints[field.name]), default, texts.get(field.name, ""))


def _field_texts(cls: type[Any]) -> dict[str, str]:
    """The string below each field of a class, which Python itself does not keep."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            value = below.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                texts[field.target.id] = " ".join(value.value.split())
    return texts


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
