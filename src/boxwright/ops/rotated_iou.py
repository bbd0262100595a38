"""Overlap of rotated boxes: the exact area that two rectangles share, for every pair.

Seen from the first box, which then is upright, a column x of the second box is the interval from its lower to its upper
edge, and what the first box sees of it has the length clamp(upper) - clamp(lower). So the shared area is a sum over
the four edges of the second box alone: the integral of their clamped height over the columns of the first. There is no
polygon to build and nothing to sort; equal, touching and parallel edges are no special cases.

Boxes are (cx, cy, w, h, degrees), see `ops.rotated`. Shape legend: N, M = boxes, P = pairs; `...` = any leading shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.ops.rotated import rotated_area, rotated_corners, rotated_hull, wrap_angles

PAIRS_AT_ONCE = 1 << 20
"""So many pairs are compared at a time, which takes about 100 MiB."""


def shared_area(first: Tensor, second: Tensor) -> Tensor:
    """Area (...,) that each rotated box (..., 5) shares with its partner (..., 5); leading shapes broadcast.

    >>> float(shared_area(torch.tensor([0.0, 0, 2, 2, 0]), torch.tensor([1.0, 0, 2, 2, 0])))
    2.0
    """
    turn = wrap_angles(second[..., 4] - first[..., 4])
    first_turn = torch.deg2rad(first[..., 4])
    cos, sin = first_turn.cos(), first_turn.sin()
    dx, dy = (second[..., :2] - first[..., :2]).unbind(-1)
    centre_x, centre_y = dx * cos - dy * sin, dx * sin + dy * cos  # seen along the sides of the first box
    sides = second[..., 2:4].clamp(min=0).expand(*turn.shape, 2)
    x, y = rotated_corners(torch.stack([centre_x, centre_y, *sides.unbind(-1), turn], -1)).unbind(-1)  # (..., 4)
    half_width, half_height = (first[..., 2:4].clamp(min=0) / 2).unbind(-1)
    area = torch.zeros_like(turn)
    for start, end in ((0, 1), (1, 2), (2, 3), (3, 0)):
        area = area - _under_edge(x[..., start], y[..., start], x[..., end], y[..., end], half_width, half_height)
    most = torch.minimum(rotated_area(first), rotated_area(second))
    return area.clamp(min=0).minimum(most)


def shared_with_polygon(boxes: Tensor, points: Tensor) -> Tensor:
    """Area (...,) that each rotated box (..., 5) shares with a polygon (..., V, 2), its corners in the order of
    `rotated_corners`; they may be repeated, and edges may go forth and back. Leading shapes broadcast.

    >>> triangle = torch.tensor([[0.0, 0], [4, 0], [0, 4]])
    >>> float(shared_with_polygon(torch.tensor([1.0, 1, 2, 2, 0]), triangle))
    4.0
    """
    turn = torch.deg2rad(boxes[..., 4:])
    cos, sin = turn.cos(), turn.sin()
    dx, dy = (points - boxes[..., None, :2]).unbind(-1)  # (..., V)
    x, y = dx * cos - dy * sin, dx * sin + dy * cos  # seen along the sides of the box
    width, height = (boxes[..., 2:4].clamp(min=0)[..., None, :] / 2).unbind(-1)  # (..., 1)
    area = -_under_edge(x, y, x.roll(-1, -1), y.roll(-1, -1), width, height).sum(-1)
    return area.clamp(min=0).minimum(rotated_area(boxes))


def _under_edge(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """The integral of clamp(y, -height, height) over x in [-width, width] along the edge from 1 to 2, negative where it
    leads to the left. Shapes broadcast.
    """
    run, rise = x2 - x1, y2 - y1
    divisor = torch.where(run == 0, 1.0, run)  # an edge straight down has no columns
    left, right = x1.clamp(-width, width), x2.clamp(-width, width)
    start, end = y1 + ((left - x1) / divisor) * rise, y2 - ((x2 - right) / divisor) * rise
    low, high = start.clamp(-height, height), end.clamp(-height, height)
    seen = end - start
    divisor = torch.where(seen == 0, 1.0, seen)
    before = ((low - start) / divisor).clamp(0, 1)  # share of the columns before the edge enters the box
    after = ((end - high) / divisor).clamp(0, 1)
    mean = before * low + after * high + (1 - before - after) * (low + high) / 2
    return (right - left) * mean


def rotated_intersection(first: Tensor, second: Tensor) -> Tensor:
    """Shared area (..., N, M) of rotated boxes (..., N, 5) and (..., M, 5); memory is bounded but for the result.

    On a CPU only pairs whose upright hulls meet are compared; elsewhere all are, so that nothing waits for the device.
    """
    if torch.compiler.is_compiling():  # an exported graph has no chunks, whose number depends on sizes
        return shared_area(first[..., :, None, :], second[..., None, :, :])
    leading = torch.broadcast_tensors(first[..., :1, 0], second[..., :1, 0])[0].shape[:-1]  # type: ignore[no-untyped-call]
    count, other = first.shape[-2], second.shape[-2]
    batch = leading.numel()
    first = first.expand(*leading, count, 5).reshape(batch, count, 5)
    second = second.expand(*leading, other, 5).reshape(batch, other, 5)
    area = first.new_zeros(len(first), count, other)
    rows = max(1, PAIRS_AT_ONCE // max(1, other))
    for of, one, all_others in zip(area, first, second, strict=True):
        for part in (slice(start, start + rows) for start in range(0, count, rows) if other):
            if first.device.type == "cpu":
                of[part] = _where_hulls_meet(one[part], all_others)
            else:
                of[part] = shared_area(one[part, None], all_others[None])
    return area.reshape(*leading, count, other)


def _where_hulls_meet(first: Tensor, second: Tensor) -> Tensor:
    """Shared area (N, M) of boxes (N, 5) and (M, 5), 0 where their hulls are apart."""
    one, other = rotated_hull(first)[:, None], rotated_hull(second)[None]  # (N, 1, 4), (1, M, 4)
    meet = (one[..., 0] < other[..., 2]) & (one[..., 1] < other[..., 3])
    meet &= (one[..., 2] > other[..., 0]) & (one[..., 3] > other[..., 1])
    rows, columns = meet.nonzero().unbind(1)
    area = first.new_zeros(meet.shape)
    area[rows, columns] = shared_area(first[rows], second[columns])
    return area


def rotated_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (..., N, M) of rotated boxes (..., N, 5) and (..., M, 5); 0 where one is empty.

    >>> square = torch.tensor([[0.0, 0, 2, 2, 0]])
    >>> rotated_iou(square, torch.tensor([[1.0, 0, 2, 2, 0], [0, 0, 2, 2, 45]])).round(decimals=4)
    tensor([[0.3333, 0.7071]])
    """
    shared = rotated_intersection(first, second)
    union = rotated_area(first)[..., :, None] + rotated_area(second)[..., None, :] - shared
    return torch.where(union > 0, shared / torch.where(union > 0, union, 1.0), 0.0)
