"""From the names and layouts of one library to those of ours, and back, by a table; nothing is left out in silence.

A table has rows (ours, theirs): a regular expression for the beginning of our names, and what theirs begin with. It is
read from our side, so that each of our tensors asks for exactly one entry of the file: what it asks for in vain is
missing, and what nobody asks for is unused. Either refuses the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.structures import Classes
from boxwright.wording import counted

Rows = Sequence[tuple[str, str]]
OWN = ("mean_positives",)
"""What our state dict holds and no other library's does: the running mean of a loss's normaliser."""


class Change(NamedTuple):
    """A tensor of ours that is not simply one of theirs by another name: how to make it, and how to make theirs."""

    ours: str
    theirs: tuple[str, ...]
    read: Callable[[list[Tensor]], Tensor]
    write: Callable[[Tensor], list[Tensor]]
    unread: int = 0
    """Leading rows of theirs that no part of their library reads (those of background); kept for the way back."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one library writes one kind of detector: the table, the tensors that change, and what may be left over."""

    family: str
    rows: Rows
    changes: tuple[Change, ...] = ()
    dropped: tuple[str, ...] = ()
    """Regular expressions of entries that hold nothing learnt: anchors, pixel means, counters."""

    def their_names(self, ours: str) -> tuple[str, ...]:
        """The entries of their file that a tensor of ours is made of; none where the table has no row for it."""
        for change in self.changes:
            if change.ours == ours:
                return change.theirs
        for pattern, beginning in self.rows:
            if match := re.match(pattern, ours):
                return (match.expand(beginning) + ours[match.end() :],)
        return ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a file was found to be: the recipe of the same detector here, its classes, and the layout of its weights."""

    architecture: str
    """In the library's own words, such as `fcos_resnet50_fpn`."""
    model: dict[str, Any]
    """The section `model` of the recipe."""
    layout: Layout
    classes: Classes
    resize: dict[str, Any]
    detect: dict[str, Any]
    notes: tuple[str, ...] = ()
    """What the file does not say and was taken as usual."""
    kept: Mapping[str, Tensor] = field(default_factory=dict)


def take_weights(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], layout: Layout, where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our state dict from theirs, and what we have no use for; `wanted` are our names, shapes and defaults.

    Raises ValueError with every entry that is missing, that nobody asked for, or whose shape is another.
    """
    weights, used, missing, wrong, kept = {}, set(), [], [], {}
    for name, default in wanted.items():
        theirs = layout.their_names(name)
        used |= set(theirs)
        absent = [key for key in theirs if key not in state]
        if not theirs or absent:
            if name.rsplit(".", 1)[-1] in (*OWN, "num_batches_tracked"):
                weights[name] = default.clone()
            else:
                missing += absent or [f"(for {name})"]
            continue
        change = next((change for change in layout.changes if change.ours == name), None)
        tensors = [state[key] for key in theirs]
        if change and change.unread:
            kept[theirs[0]] = tensors[0][: change.unread].clone()
        try:
            value = change.read(tensors) if change else tensors[0]
        except (RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"{where}: {', '.join(theirs)}: {' '.join(str(error).split())[:120]}") from error
        if value.shape != default.shape:
            wrong.append(f"{theirs[0]} {tuple(tensors[0].shape)} (expected {tuple(default.shape)})")
        weights[name] = value.to(default.dtype).contiguous()
    counters = {key: value for key, value in state.items() if key.endswith("num_batches_tracked") and key not in used}
    unused = [key for key in state if key not in used and not _matches(layout.dropped, key)]
    problems = [*_listed("missing", missing), *_listed("unused", unused), *_listed("of another shape", wrong)]
    if problems:
        raise ValueError(f"{where}: taken for {layout.family}, but {'; '.join(problems)}")
    return weights, {**kept, **counters}


def give_weights(
    weights: Mapping[str, Tensor], layout: Layout, kept: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Their state dict from ours: exactly the entries that `take_weights` was given, but for those without content."""
    state: dict[str, Tensor] = {}
    kept = dict(kept or {})
    for name, value in weights.items():
        theirs = layout.their_names(name)
        if not theirs:
            if name.rsplit(".", 1)[-1] not in OWN:
                raise ValueError(f"{layout.family} has no place for {name}")
            continue
        change = next((change for change in layout.changes if change.ours == name), None)
        for key, tensor in zip(theirs, change.write(value) if change else [value], strict=True):
            if change and change.unread:
                unread = kept.pop(key, tensor.new_zeros(change.unread, *tensor.shape[1:]))
                tensor = torch.cat([unread, tensor])
            state[key] = tensor.detach().clone().contiguous()
    return {**state, **{key: value.clone() for key, value in kept.items()}}


def flipped(ours: str, theirs: str) -> Change:
    """The first convolution of a network that was fed BGR, for RGB."""
    return Change(ours, (theirs,), lambda found: found[0].flip(1), lambda value: [value.flip(1)])


def reordered(ours: str, theirs: str, order: Tensor) -> Change:
    """Rows in another order: our row k is their row order[k]."""
    back = order.argsort()
    return Change(ours, (theirs,), lambda found: _rows(found[0], order), lambda value: [_rows(value, back)])


def _rows(value: Tensor, order: Tensor) -> Tensor:
    if len(value) != len(order):
        raise ValueError(f"expected {counted(len(order), 'row')}, got {len(value)}")
    return value[order]


def without_first(ours: str, theirs: str, count: int) -> Change:
    """All rows but the first `count`, which nobody reads."""
    return Change(ours, (theirs,), lambda found: found[0][count:], lambda value: [value], count)


def joined(ours: str, theirs: Iterable[str], shape: tuple[int, ...] = (1,)) -> Change:
    """One tensor from several of one number each, which have this shape."""
    names = tuple(theirs)
    return Change(
        ours, names, lambda found: torch.cat([t.reshape(1) for t in found]),
        lambda value: [number.reshape(shape) for number in value],
    )  # fmt: skip


def _matches(patterns: Iterable[str], key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def _listed(what: str, names: Sequence[str], shown: int = 4) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return [f"{counted(len(names), 'entry')} {what}: {', '.join(names[:shown])}{more}"]
