"""What a placed window of an image shows of its rotated boxes, which are never cut: their hulls are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.ops.image import Placement
from boxwright.ops.rotated import resize_rotated, rotated_area, rotated_hull, upright_rotated
from boxwright.ops.rotated_iou import shared_area


class PlacedRotated(NamedTuple):
    """Rotated boxes (G, 5) in canvas coordinates, the upright hulls (G, 4) of what is seen of them, the share of its
    area (G,) that is seen of each, and whether its centre (G,) is. The hull of a box that is not seen is empty.
    """

    rotated: Tensor
    boxes: Tensor
    share: Tensor
    centred: Tensor


def place_rotated(rotated: Tensor, placement: Placement) -> PlacedRotated:
    """Rotated boxes (G, 5) as a placed window shows them.

    >>> half = Placement((0, 0, 10, 10), (20, 20), (5, 5))
    >>> seen = place_rotated(torch.tensor([[10.0, 5, 4, 2, 0]]), half)
    >>> seen.rotated.tolist(), seen.boxes.tolist(), seen.share.tolist()
    ([[25.0, 15.0, 8.0, 4.0, 0.0]], [[21.0, 13.0, 25.0, 17.0]], [0.5])
    """
    window = torch.tensor(placement.window, dtype=torch.float32)
    corner = torch.tensor(placement.corner_xy, dtype=torch.float32)
    share = shared_area(upright_rotated(window), rotated) / rotated_area(rotated).clamp(min=1e-9)
    centred = ((rotated[:, :2] > window[:2]) & (rotated[:, :2] < window[2:])).all(1)
    moved = torch.cat([rotated[:, :2] - window[:2], rotated[:, 2:]], 1)
    moved = resized_by(moved, placement.scale_xy, placement.corner_xy)
    height, width = placement.size_hw
    limits = torch.cat([corner, corner + torch.tensor([width, height])])
    boxes = inside(rotated_hull(moved), limits) * (share > 0)[:, None]  # a corner of a hull may be seen, and no box
    return PlacedRotated(moved, boxes, share, centred)


def resized_by(rotated: Tensor, scale_xy: tuple[float, float], offset_xy: tuple[float, float]) -> Tensor:
    """Rotated boxes (G, 5) of an image that is resized by the factors and then moved by the offset."""
    resized = resize_rotated(rotated, torch.tensor(scale_xy))
    return torch.cat([resized[:, :2] + torch.tensor(offset_xy), resized[:, 2:]], 1)


def seen_hulls(rotated: Tensor, boxes: Tensor, limits: tuple[float, float, float, float]) -> Tensor:
    """Hulls (G, 4) of rotated boxes cut to the limits x1, y1, x2, y2; the given box where nothing is left of one, since
    unequal factors may move a box out at the border.
    """
    hulls = inside(rotated_hull(rotated), torch.tensor(limits, dtype=torch.float32))
    return torch.where((hulls[:, 2:] > hulls[:, :2]).all(1, keepdim=True), hulls, boxes)


def inside(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes (G, 4) cut to the limits (4,), x1, y1, x2, y2."""
    return boxes.maximum(limits[:2].repeat(2)).minimum(limits[2:].repeat(2))
