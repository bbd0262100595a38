"""Which rotated detections of neighbouring tiles are the same object, by the rules of `ops.tiling`.

Rotated boxes are not cut at the border of a tile, but there a detector guesses what it does not see; so what counts is
the part of each that lies in the area that the tiles share. Boxes are (cx, cy, w, h, degrees) in pixels of the whole
image, see `ops.rotated`. Shape legend: T = tiles, D = detections of a tile, padded, P = pairs of tiles, M = pairs of
detections, N = boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.ops.rotated import rotated_area, rotated_corners, rotated_hull, upright_rotated
from boxwright.ops.rotated_iou import shared_area, shared_with_polygon
from boxwright.ops.tiling import agree, iou_of, neighbours, shared_windows

MEETING_AT_ONCE = 1 << 16
"""Pairs of boxes whose hulls meet that are compared at a time, which takes about 200 MiB."""
ROUNDED = 1e-3
"""Square pixels: a smaller area that two boxes share is the rounding of 0."""


def same_rotated(
    boxes: Tensor, scores: Tensor, labels: Tensor, windows: Tensor, cut: Tensor, iou_threshold: float
) -> Tensor:
    """`ops.tiling.same_objects` of rotated boxes (T, D, 5): pairs (M, 2) of rows of the flattened (T * D), the surest
    first.

    `cut` (T, D) says which may be cut, as `may_be_cut` has it of their hulls. Only pairs of a class whose hulls meet
    are compared.
    """
    count = boxes.shape[1]
    pairs, sure = [boxes.new_zeros((0, 2), dtype=torch.int64)], [boxes.new_zeros(0)]
    flat_boxes, flat_cut, flat_scores = boxes.flatten(0, 1).double(), cut.flatten(), scores.flatten()
    hulls = rotated_hull(boxes)
    for first, second in neighbours(windows, count):
        shared = torch.cat(shared_windows(windows, first, second), -1).double()  # (P, 4)
        near = _meet(hulls[first], hulls[second])  # (P, D, D)
        near &= (labels[first][:, :, None] == labels[second][:, None, :]) & (labels[first] >= 0)[:, :, None]
        pair, left, right = near.nonzero(as_tuple=True)
        meeting = torch.stack([first[pair] * count + left, second[pair] * count + right], dim=1)  # (M, 2)
        parts = (torch.split(rows, MEETING_AT_ONCE) for rows in (meeting, shared[pair]))
        for rows, window in zip(*parts, strict=True):
            one, two = flat_boxes[rows].unbind(1)  # (M, 5)
            area, tile = shared_area(one, two), upright_rotated(window)
            of_parts = shared_with_polygon(two, within(rotated_corners(one), window))
            agreement, same = agree(
                iou_of(area, rotated_area(one), rotated_area(two)),
                torch.where(of_parts > ROUNDED, of_parts, 0.0),
                (shared_area(tile, one), shared_area(tile, two)),
                (flat_cut[rows[:, 0]], flat_cut[rows[:, 1]]),
                iou_threshold,
            )
            pairs.append(rows[same])
            sure.append((agreement * flat_scores[rows].prod(1))[same].to(boxes.dtype))
    return torch.cat(pairs)[torch.cat(sure).argsort(descending=True, stable=True)]


def _meet(one: Tensor, two: Tensor) -> Tensor:
    """Whether upright boxes (P, N, 4) and (P, M, 4) share an area: (P, N, M)."""
    one, two = one[:, :, None], two[:, None]
    return (torch.maximum(one[..., :2], two[..., :2]) < torch.minimum(one[..., 2:], two[..., 2:])).all(-1)


def within(corners: Tensor, windows: Tensor) -> Tensor:
    """The parts of polygons (M, V, 2) in upright windows (M, 4), as polygons (M, 5 V, 2) some of whose edges may go
    forth and back along the border.

    The outline is divided where it crosses the lines of the window's four sides, and its points are moved to the
    nearest ones of the window. On the way they pass no point inside of the window, so what the outline encloses there
    stays enclosed, once; and there are no cases, whichever corners lie outside.

    >>> within(torch.tensor([[[0.0, 0], [4, 0], [0, 4]]]), torch.tensor([[0.0, 0, 2, 2]])).unique(dim=1).tolist()
    [[[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]]]
    """
    along = corners.roll(-1, 1) - corners  # (M, V, 2)
    low, high = windows[:, None, :2], windows[:, None, 2:]
    steps = torch.where(along == 0, 1.0, along)
    shares = torch.cat([(low - corners) / steps, (high - corners) / steps], -1).clamp(0, 1)  # (M, V, 4)
    shares = torch.cat([torch.zeros_like(shares[..., :1]), shares.sort(-1).values], -1)  # (M, V, 5)
    points = corners[:, :, None] + shares[..., None] * along[:, :, None]  # (M, V, 5, 2)
    return points.flatten(1, 2).clamp(low, high)


def around_along(boxes: Tensor, angle: Tensor) -> Tensor:
    """The smallest rotated box (5,) of an angle, in degrees, around rotated boxes (N, 5).

    >>> around_along(torch.tensor([[2.0, 5, 4, 2, 0], [6.0, 5, 2, 4, 90]]), torch.tensor(0.0)).tolist()
    [4.0, 5.0, 8.0, 2.0, 0.0]
    """
    turn = torch.deg2rad(angle)
    axes = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])  # w, h
    middle = boxes[:, :2].mean(0)
    low, high = ((rotated_corners(boxes) - middle).reshape(-1, 2) @ axes.T).aminmax(dim=0)
    return torch.cat([middle + (low + high) / 2 @ axes, high - low, angle[None]])
