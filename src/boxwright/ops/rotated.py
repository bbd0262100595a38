"""Rotated boxes: corners, hulls, and how they move with their image.

A rotated box is (cx, cy, w, h, angle): centre, sides, and the angle in degrees by which the box is turned
counter-clockwise as it is seen, with y pointing down; at angle 0 the side w lies along x. Angles are wrapped to
[-180, 180). Lengths are pixels. Shape legend: `...` = any leading shape. Every convention is that of Detectron2's
`RotatedBoxes`, so that its recorded outputs are met (docs/conventions.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

UPRIGHT_DEGREES = 1.0
"""Boxes turned by less than this are clipped to the image, as upright boxes are (Detectron2)."""


def wrap_angles(degrees: Tensor) -> Tensor:
    """The same angles in [-180, 180).

    >>> wrap_angles(torch.tensor([180.0, -181.0, 720.0, 90.0])).tolist()
    [-180.0, 179.0, 0.0, 90.0]
    """
    wrapped = (degrees + 180) % 360 - 180
    return torch.where(wrapped >= 180, -180.0, wrapped)  # the remainder of -1e-9 by 360 is rounded to 360


def rotated_area(boxes: Tensor) -> Tensor:
    """Area (...,) of rotated boxes (..., 5); sides below 0 count as 0."""
    width, height = boxes[..., 2:4].clamp(min=0).unbind(-1)
    return width * height


def _directions(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (...,) of the angles."""
    radians = torch.deg2rad(boxes[..., 4])
    return radians.cos(), radians.sin()


def rotated_corners(boxes: Tensor) -> Tensor:
    """Corners (..., 4, 2) x, y of rotated boxes (..., 5): at angle 0 top left, top right, bottom right, bottom left.

    >>> rotated_corners(torch.tensor([5.0, 5.0, 4.0, 2.0, 0.0])).tolist()
    [[3.0, 4.0], [7.0, 4.0], [7.0, 6.0], [3.0, 6.0]]
    """
    cos, sin = _directions(boxes)
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    along = torch.stack([cos, -sin], -1) * half[..., :1]  # (..., 2): half of the side w, upwards where angle > 0
    across = torch.stack([sin, cos], -1) * half[..., 1:]
    corners = [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    return torch.stack(corners, -2)


def rotated_hull(boxes: Tensor) -> Tensor:
    """The smallest upright boxes (..., 4) x1, y1, x2, y2 around rotated boxes (..., 5).

    >>> rotated_hull(torch.tensor([5.0, 5.0, 4.0, 2.0, 90.0])).round().tolist()
    [4.0, 3.0, 6.0, 7.0]
    """
    cos, sin = _directions(boxes)
    width, height = boxes[..., 2].abs() / 2, boxes[..., 3].abs() / 2
    half = torch.stack([cos.abs() * width + sin.abs() * height, sin.abs() * width + cos.abs() * height], -1)
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def upright_rotated(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) x1, y1, x2, y2 as rotated boxes (..., 5) of angle 0.

    >>> upright_rotated(torch.tensor([3.0, 4.0, 7.0, 6.0])).tolist()
    [5.0, 5.0, 4.0, 2.0, 0.0]
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes[..., :2] + sides / 2, sides, torch.zeros_like(boxes[..., :1])], -1)


def resize_rotated(boxes: Tensor, factors_xy: Tensor) -> Tensor:
    """Rotated boxes (..., 5) of an image that is resized by factors_xy (..., 2) of width and height.

    Unequal factors make a parallelogram of a turned rectangle. The box that stands for it has the direction of its side
    h and the lengths of both its sides, as in Detectron2.

    >>> resize_rotated(torch.tensor([5.0, 5.0, 4.0, 2.0, 0.0]), torch.tensor([2.0, 1.0])).tolist()
    [10.0, 5.0, 8.0, 2.0, 0.0]
    """
    cos, sin = _directions(boxes)
    scale_x, scale_y = factors_xy.unbind(-1)
    width = boxes[..., 2] * torch.hypot(scale_x * cos, scale_y * sin)
    height = boxes[..., 3] * torch.hypot(scale_x * sin, scale_y * cos)
    angle = wrap_angles(torch.rad2deg(torch.atan2(scale_x * sin, scale_y * cos)))
    return torch.cat([boxes[..., :2] * factors_xy, torch.stack([width, height, angle], -1)], -1)


def flip_rotated(boxes: Tensor, extent: float, axis: int = 0) -> Tensor:
    """Rotated boxes (..., 5) of an image that is mirrored along x (axis 0) or y (axis 1), where it has this extent.

    >>> flip_rotated(torch.tensor([5.0, 5.0, 4.0, 2.0, 30.0]), 20).tolist()
    [15.0, 5.0, 4.0, 2.0, -30.0]
    """
    columns = [*boxes.unbind(-1)]
    columns[axis] = extent - columns[axis]
    columns[4] = wrap_angles(-columns[4])
    return torch.stack(columns, -1)


def clip_rotated(boxes: Tensor, sizes_hw: Tensor) -> Tensor:
    """Rotated boxes (B, N, 5), those turned by at most 1 degree clipped to their images of sizes_hw (B, 2).

    A turned box cannot be clipped and stay a rectangle: it is left as it is. Sides never grow, angles stay.

    >>> clip_rotated(torch.tensor([[[0.0, 5.0, 4.0, 2.0, 0.0], [0.0, 5.0, 4.0, 2.0, 9.0]]]), torch.tensor([[9, 9]]))
    tensor([[[1., 5., 2., 2., 0.],
             [0., 5., 4., 2., 9.]]])
    """
    limits = sizes_hw.flip(-1).to(boxes.dtype)[:, None]  # (B, 1, 2): width, height
    centre, sides, angle = boxes[..., :2], boxes[..., 2:4], wrap_angles(boxes[..., 4:])
    low = (centre - sides / 2).clamp(min=0).minimum(limits)
    high = (centre + sides / 2).clamp(min=0).minimum(limits)
    clipped = torch.cat([(low + high) / 2, sides.minimum(high - low), angle], -1)
    return torch.where(angle.abs() <= UPRIGHT_DEGREES, clipped, torch.cat([centre, sides, angle], -1))


def restore_rotated(boxes: Tensor, scale_xy: Tensor, offset_xy: Tensor, sizes_hw: Tensor) -> Tensor:
    """Rotated boxes (B, N, 5) of a batch in its original images; upright ones are clipped to their sizes (B, 2).

    Network coordinates are original coordinates * scale_xy (B, 2) + offset_xy (B, 2).
    """
    offset, scale, sizes = (part.to(boxes.device) for part in (offset_xy[:, None], scale_xy[:, None], sizes_hw))
    moved = torch.cat([boxes[..., :2] - offset, boxes[..., 2:]], -1)
    return clip_rotated(resize_rotated(moved, 1 / scale), sizes)


def rotated_around(corners: Tensor) -> Tensor:
    """The rotated boxes (..., 5) of least area around quadrilaterals (..., 4, 2), with angles in [-90, 90).

    One side of the smallest rectangle around a convex polygon lies along one of its edges (Freeman and Shapira 1975),
    so the rectangles along the edges are compared. Of its sides, w is the one that is nearer to the direction from the
    first corner to the second: a rectangle given as its corners, in order, comes back. Corners that are all on one line
    give a side of 0.

    >>> rotated_around(torch.tensor([[3.0, 4.0], [7.0, 4.0], [7.0, 6.0], [3.0, 6.0]])).abs().tolist()
    [5.0, 5.0, 4.0, 2.0, 0.0]
    """
    middle = corners.mean(-2, keepdim=True)
    own = corners - middle  # (..., 4, 2), small numbers: nothing is lost far from the origin
    diagonals = own[..., 2:, :] - own[..., :2, :]  # on the hull where a corner lies inside of the others
    edges = torch.cat([own.roll(-1, -2) - own, diagonals], -2)  # (..., 6, 2)
    lengths = edges.norm(dim=-1, keepdim=True)
    edges = torch.where(lengths > 0, edges / lengths.clamp(min=1e-12), edges.new_tensor([1.0, 0.0]))
    across = torch.stack([-edges[..., 1], edges[..., 0]], -1)
    (low_u, high_u), (low_v, high_v) = (  # (..., 6) each: how far the corners reach along and across every edge
        (own @ edges.mT).aminmax(dim=-2),
        (own @ across.mT).aminmax(dim=-2),
    )
    sides = torch.stack([high_u - low_u, high_v - low_v], -1)  # (..., 6, 2)
    best = sides.prod(-1).argmin(-1)[..., None, None].expand(*sides.shape[:-2], 1, 2)
    centres = ((low_u + high_u)[..., None] * edges + (low_v + high_v)[..., None] * across) / 2
    centre, side, edge, normal = (rows.gather(-2, best)[..., 0, :] for rows in (middle + centres, sides, edges, across))
    first = own[..., 1, :] - own[..., 0, :]
    other = (edge * first).sum(-1, keepdim=True).abs() < (normal * first).sum(-1, keepdim=True).abs()
    side, edge = torch.where(other, side.flip(-1), side), torch.where(other, normal, edge)
    angle = torch.rad2deg(torch.atan2(-edge[..., 1:], edge[..., :1]))  # y points down
    angle = torch.where((angle >= -90) & (angle < 90), angle, wrap_angles(angle + 180))
    return torch.cat([centre, side, angle], -1)
