"""Boxes brought from their images onto the canvases of a batch: shifted, scaled, mirrored, clipped and filtered.

Every operation is that of `data.transforms.place_ground_truth`, in float32 and in the same order, each rounded by
itself. So the result is the same to the last digit, and a box at a threshold is treated alike. Nothing here waits for
the device. Lengths are pixels. Shape legend: B = canvases, G = boxes of each.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.ops.assign import gather_rows


class Move(NamedTuple):
    """One step of boxes: clipped to the range low to high, then (boxes - origin) * scale + corner, along x and y.

    A box is left out whose sides are under `least_side` afterwards. So is one, unless it is ignored, of whose area less
    than the share `least_visibility` is in the range, or, if `centred` is 1, whose centre is not inside of the range. A
    negative scale mirrors. The defaults change nothing.
    """

    low_x: float = -inf
    low_y: float = -inf
    high_x: float = inf
    high_y: float = inf
    origin_x: float = 0.0
    origin_y: float = 0.0
    scale_x: float = 1.0
    scale_y: float = 1.0
    corner_x: float = 0.0
    corner_y: float = 0.0
    least_side: float = 0.0
    least_visibility: float = 0.0
    centred: float = 0.0


def move_boxes(boxes: Tensor, ignore: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (..., 4) after one move each (..., 13), as `Move` has them, and which of them are left (...).

    >>> half = torch.tensor([Move(0, 0, 10, 10, 0, 0, 0.5, 0.5, 0, 0, least_side=1, least_visibility=0.5)])
    >>> moved, left = move_boxes(torch.tensor([[4.0, 4, 14, 8], [8, 0, 13, 9]]), torch.zeros(2) > 0, half)
    >>> moved.tolist(), left.tolist()
    ([[2.0, 2.0, 5.0, 4.0], [4.0, 0.0, 5.0, 4.5]], [True, False])
    """
    pairs = moves[..., :10].reshape(*moves.shape[:-1], 5, 1, 2)
    low, high, origin, scale, corner = pairs.unbind(-3)  # (..., 1, 2) each: x and y
    least_side, least_visibility, centred = moves[..., 10:].unbind(-1)
    own = boxes.reshape(*boxes.shape[:-1], 2, 2)  # (..., 2, 2): both corners, x and y
    seen = own.clamp(low, high)
    one, other = ((seen - origin) * scale + corner).unbind(-2)
    moved = torch.stack([one.minimum(other), one.maximum(other)], dim=-2)

    visible = _sides(seen).prod(-1) >= least_visibility * _sides(own).prod(-1)
    centre = (own[..., 0, :] + own[..., 1, :]) / 2
    inside = ((centre > low[..., 0, :]) & (centre < high[..., 0, :])).all(-1) | (centred == 0)
    large = (_sides(moved) >= least_side[..., None]).all(-1)
    return moved.flatten(-2), large & (visible & inside | ignore)


def _sides(ends: Tensor) -> Tensor:
    """Width and height (..., 2) of boxes given as two corners (..., 2, 2)."""
    return ends[..., 1, :] - ends[..., 0, :]


def to_the_front(left: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
    """`left` (B, G), and rows (B, G, ...) with those that are left before all others, in their order; others are zeros.

    >>> [part.tolist() for part in to_the_front(torch.tensor([[False, True, True]]), torch.tensor([[7, 8, 9]]))]
    [[[True, True, False]], [[8, 9, 0]]]
    """
    order = (~left).to(torch.uint8).argsort(dim=1, stable=True)
    first = left.gather(1, order)
    order = torch.where(first, order, -1)
    return first, *(gather_rows(part, order) for part in rows)
