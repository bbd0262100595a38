"""Config dataclasses of detectors: made from plain data, and changed; also where one detector holds another.

A detector that holds another one (a mask model) has a field with the whole config of the other. In a recipe the fields
of both stand side by side, so that a setting is called the same with and without masks.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeVar, get_type_hints

import torch
from torch import Tensor, nn

Config = TypeVar("Config")


def empty_state(build: type[nn.Module], config: Any) -> dict[str, Tensor]:
    """The state dict of a detector that is never filled: names, shapes and types, mostly without memory."""
    try:
        with torch.device("meta"):
            return build(config).state_dict()
    except NotImplementedError:  # torchvision's RegNets compute their widths with tensors
        return build(config).state_dict()


class Held(NamedTuple):
    """The field of a config that is the config of another detector, and its class."""

    field: str
    config: type[Any]


def held_config(config: type[Any]) -> Held | None:
    """The detector that this config's detector holds, known by its own number of classes; None where it holds none."""
    for name, hint in get_type_hints(config).items():
        if dataclasses.is_dataclass(hint) and "num_classes" in {field.name for field in dataclasses.fields(hint)}:
            assert isinstance(hint, type)
            return Held(name, hint)
    return None


def config_of(config: type[Config], values: dict[str, Any]) -> Config:
    """A config from plain data: the sections within it as dicts, the fields of a held detector beside its own."""
    hints, held = get_type_hints(config), held_config(config)
    own = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    parts: dict[str, Any] = {}
    if held is not None:
        below = {name: value for name, value in values.items() if name not in own or name == held.field}
        parts[held.field] = config_of(held.config, below)
        values = {name: value for name, value in values.items() if name in own}
    for name, value in values.items():
        section = dataclasses.is_dataclass(hints.get(name)) and isinstance(value, dict)
        parts[name] = config_of(hints[name], value) if section else value
    return config(**parts)


def with_values(config: Config, **values: Any) -> Config:
    """The same config with other values for some fields of its own or of the detector that it holds."""
    held = held_config(type(config))
    if held is not None:
        own = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
        below = {name: values.pop(name) for name in list(values) if name not in own}
        values[held.field] = with_values(getattr(config, held.field), **below)
    return dataclasses.replace(config, **values)  # type: ignore[type-var]
