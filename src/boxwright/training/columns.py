"""The columns of a run's rows, in `results.jsonl`, `results.csv` and wherever else they go.

`train/NAME` is a loss in training, `val/NAME` one in validation. The least that a loss can be stands beside it under
its name with `FLOOR`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Row = dict[str, Any]
"""Numbers by column, None where one is undefined; "step" is always there."""
FLOOR = "_floor"


def is_floor(column: str, columns: Collection[str]) -> bool:
    """Whether a column holds what the loss in another of the columns cannot fall below.

    >>> [is_floor(name, ("box", "box_floor", "ground_floor")) for name in ("box", "box_floor", "ground_floor")]
    [False, True, False]
    """
    return column.endswith(FLOOR) and column.removesuffix(FLOOR) in columns


def train_losses(row: Mapping[str, Any]) -> dict[str, float]:
    """The losses in training that a row holds, without floors.

    >>> train_losses({"step": 9, "train/loss": 0.5, "train/loss_floor": 0.2, "val/loss": 0.7})
    {'loss': 0.5}
    """
    return {
        name.removeprefix("train/"): value
        for name, value in row.items()
        if name.startswith("train/") and not is_floor(name, row)
    }
