"""Which part of a file is the state dict of its network, whatever its trainer stored beside it or added to its names.

A trainer saves more than weights: its optimiser, its arguments, its own classes. None of those is built; what is not
plain data is known by name only (`pickles.Foreign`), and is an error only among the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwright.weights.pickles import foreign_names, name_of_foreign

SECTIONS = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model_weights",
    "net",
    "network",
    "module",
    "detector",
    "weights",
)
"""What trainers call the weights of a network in their files; the first that is there is taken."""
AVERAGES = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_weights")
"""What trainers call the running mean of the same weights, with which they validate: it is taken where it is whole."""
_AROUND = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpoints add to names."""
_COUNTERS = ("n_averaged",)
"""Counters that torch's averages of weights keep beside them."""
_MOST_LEVELS = 5


def section_of(data: Any) -> Any:
    """The part of a file's content that holds the weights: all of it, or what it holds under a name for weights.

    Where a running mean lies beside them, with the same entries, that is the part.
    """
    plain = _plain_section(data)
    key = average_of(data)
    return plain if key is None else _plain_section(data[key])


def average_of(data: Any) -> str | None:
    """The name of the running mean that a file holds beside its weights, or instead of them; None if none is whole."""
    if not _mapping(data):
        return None
    plain = _plain_section(data)
    wanted = set() if plain is data else _names(plain)
    for key in AVERAGES:
        found = _names(_plain_section(data[key])) if _leads_to_weights(data.get(key)) else set()
        if found and found >= wanted:
            return key
    return None


def _names(section: Any) -> set[str]:
    """What the entries of a section will be called; counters apart, of which a mean has others."""
    if not _mapping(section):
        return set()
    names = {_plain_name(str(name)) for name, value in section.items() if _is_weight(value)}
    return {name for name in names if not name.endswith("num_batches_tracked") and name not in _COUNTERS}


def _plain_section(data: Any) -> Any:
    for _ in range(_MOST_LEVELS):
        inner = next((data[key] for key in SECTIONS if _is_section(data.get(key))), None) if _mapping(data) else None
        if inner is None and _mapping(data) and not any(_is_weight(value) for value in data.values()):
            others = [value for value in data.values() if _leads_to_weights(value)]
            inner = others[0] if len(others) == 1 else None
        if inner is None:
            break
        data = inner
    return data


def state_of(data: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a file's content: arrays as tensors, without what DDP, FSDP and torch.compile add to names.

    >>> list(state_of({"model_state_dict": {"module._orig_mod.fc.bias": torch.ones(2)}, "loss": torch.ones(1)}))
    ['fc.bias']
    """
    state: dict[str, Tensor] = {}
    for name, value in section_of(data).items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))  # a copy: the one from the file may be read-only
        if isinstance(value, Tensor) and str(name) not in _COUNTERS:
            plain = _plain_name(str(name))
            if plain in state:
                raise ValueError(f"two entries are called {plain} without what was put around their names")
            state[plain] = value.float() if value.is_floating_point() else value
    return state


def foreign_weight(data: Any) -> str | None:
    """The name of an object among the weights that is not plain data; None where there is none."""
    if (whole := name_of_foreign(data)) is not None:
        return whole
    section = section_of(data)
    if section is data and _mapping(data):
        named = [name_of_foreign(data.get(key)) for key in SECTIONS]
        if any(named) or not any(_is_weight(value) for value in data.values()):
            return next((name for name in (*named, *foreign_names(data)) if name), None)
        among = [
            value for key, value in data.items() if "." in str(key)
        ]  # a name without a dot is no weight of a network
        return next(iter(foreign_names(among)), None)
    return next(iter(foreign_names(section)), None)


def foreign_parts(data: Mapping[str, Any]) -> list[str]:
    """Parts beside the weights that were not built: the name of each, and of the classes it holds."""
    section = section_of(data)
    found = []
    average, plain = average_of(data), next((name for name in SECTIONS if _is_section(data.get(name))), None)
    if average is not None and plain is not None:
        found.append(f"{plain} (its running mean {average} is taken)")
    for key, value in data.items():
        if value is not section and (names := foreign_names([value])) and not _within(section, value):
            found.append(f"{str(key)[:60]} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    return found


def parts_of(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """For each first word of the names ("model." of a LightningModule): the word, and its entries without it."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        first, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(f"{first}.", {})[rest] = value
    yield from ((word, group) for word, group in groups.items() if len(group) > 1)


def check_finite(state: Mapping[str, Any], where: str) -> None:
    """Raise ValueError where weights are NaN or infinite."""
    wrong = [
        name
        for name, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(
            f"{where}: weights that are not finite numbers (NaN or infinite) in {wrong[0]}{more}: its training has "
            "failed; take a checkpoint from before that"
        )


def _plain_name(name: str) -> str:
    for around in _AROUND:
        name = name.replace(around, "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_weight(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _is_section(value: Any) -> bool:
    return _mapping(value) and any(_is_weight(entry) or _mapping(entry) for entry in value.values())


def _leads_to_weights(value: Any, levels: int = 3) -> bool:
    """Whether this is a state dict under a name of its own, or holds one under names for weights."""
    if not _mapping(value):
        return False
    if any(_is_weight(entry) for name, entry in value.items() if "." in str(name)):
        return True
    return levels > 0 and any(_leads_to_weights(value.get(key), levels - 1) for key in SECTIONS)


def _within(section: Any, value: Any) -> bool:
    """Whether this part holds the weights: then foreign objects in it are reported elsewhere."""
    return _mapping(value) and section_of(value) is section
