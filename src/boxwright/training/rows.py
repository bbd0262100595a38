"""The rows of numbers that a run leaves: their columns, in `results.jsonl`, `results.csv` and wherever else they go.

`train/NAME` is a loss in training, `val/NAME` one in validation. The least that a loss can be stands beside it under
its name with `_floor`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from boxwright.training.step import StepLosses
from boxwright.training.validate import ValidationResult

Row = dict[str, Any]
"""Numbers by column, None where one is undefined; "step" is always there."""
_FLOOR = "_floor"


def floor_column(loss: str) -> str:
    """The column of what a loss cannot fall below.

    >>> floor_column("train/centerness")
    'train/centerness_floor'
    """
    return loss + _FLOOR


def is_floor(column: str, columns: Collection[str]) -> bool:
    """Whether a column holds what the loss in another of the columns cannot fall below.

    >>> [is_floor(name, ("box", "box_floor", "ground_floor")) for name in ("box", "box_floor", "ground_floor")]
    [False, True, False]
    """
    return column.endswith(_FLOOR) and column.removesuffix(_FLOOR) in columns


def train_losses(row: Mapping[str, Any]) -> dict[str, float]:
    """The losses in training that a row holds, without floors."""
    return {
        name.removeprefix("train/"): value
        for name, value in row.items()
        if name.startswith("train/") and not is_floor(name, row)
    }


def loss_columns(losses: StepLosses) -> dict[str, Tensor]:
    """A step's losses by column, the total first, without `train/`."""
    floors = {floor_column(name): value for name, value in losses.floors.items()}
    return {"loss": losses.total, **losses.losses, **floors}


def step_row(step: int, lr: float, losses: Mapping[str, Tensor], images_per_second: float, waiting: float) -> Row:
    """What is logged every so many steps; `waiting` is the share of the time spent waiting for images."""
    row: Row = {"step": step, "lr": lr} | {f"train/{name}": float(value) for name, value in losses.items()}
    return row | {"images_per_second": images_per_second, "waiting_for_data": waiting}


def validation_row(
    result: ValidationResult, losses: Mapping[str, float], *, step: int, epoch: float, lr: float, seconds: float
) -> Row:
    """What is logged of a validation; `losses` are the means in training since the one before."""
    inputs = result.inputs
    found = {"loss": sum(inputs.losses.values()), **inputs.losses}
    found |= {floor_column(name): value for name, value in inputs.floors.items()}
    row: Row = {"step": step, "epoch": epoch} | {f"train/{name}": value for name, value in losses.items()}
    row |= {f"val/{name}": value for name, value in found.items()}
    row |= {"val/AP": result.coco.ap, "val/AP50": result.coco.ap50, "val/AP75": result.coco.ap75}
    if result.segm is not None:
        row |= {"val/segm_AP": result.segm.ap, "val/segm_AP50": result.segm.ap50}
    return row | {"lr": lr, "seconds": round(seconds, 2)}
