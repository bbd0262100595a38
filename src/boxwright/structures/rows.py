"""Which rows of a record an index names: the same rules for detections, ground truth and batches of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

Rows = slice | Tensor | Sequence[int] | Sequence[bool]
"""Several rows: a slice, flags (N,) or numbers (M,), as a tensor is indexed."""


def rows_of(index: int | Rows, count: int, what: str) -> int | Tensor:
    """The row that a whole number names, counted from 0, or a tensor of flags (count,) or of numbers (M,) for several.

    A number may be a tensor or array without dimensions, such as `scores.argmax()`; negative ones count from the end.
    IndexError for a number that there is not and for an index of another kind, such as uint8, which could be flags as
    well as numbers; `what` says in it what is indexed.

    >>> rows_of(-1, 3, "images"), rows_of(slice(1, None), 3, "images").tolist()
    (2, [1, 2])
    """
    if isinstance(index, slice):
        return torch.tensor(range(count)[index], dtype=torch.int64)
    rows = torch.as_tensor(index)
    rows = rows.long() if not rows.numel() and rows.dtype != torch.bool else rows
    flags = rows.dtype == torch.bool
    if flags and tuple(rows.shape) == (count,):
        return rows
    if flags or rows.dim() > 1 or rows.dtype not in (torch.int64, torch.int32, torch.int16):
        got = f"{rows.dtype} of shape {tuple(rows.shape)}"
        raise IndexError(f"{what}: expected a number, a slice, {count} flags or some numbers, got {got}")
    if rows.numel() and not -count <= int(rows.min()) <= int(rows.max()) < count:
        wrong = next(row for row in rows.flatten().tolist() if not -count <= row < count)
        raise IndexError(f"{what}: no number {wrong}, there are {count}")
    return range(count)[int(rows)] if rows.dim() == 0 else rows.long()


def has_field(record: Any, name: object) -> bool:
    """Whether a record has a field, and it is filled: what `"masks" in found` asks.

    Raises TypeError for anything but the name of a field, so that `"dog" in found` is not taken for an answer.
    """
    names = [field.name for field in fields(record)]
    if name not in names:
        raise TypeError(f"`in` asks for a field ({', '.join(names)}), got {name!r}")
    return getattr(record, str(name)) is not None
