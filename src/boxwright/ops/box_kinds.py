"""Boxes of either kind by one call: upright (N, 4) x1, y1, x2, y2, or rotated (N, 5) as in `ops.rotated`.

Shape legend: N, M = boxes. What both kinds have is told by the number of columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.ops.boxes import pairwise_iou
from boxwright.ops.rotated import rotated_corners, rotated_hull
from boxwright.ops.rotated_iou import rotated_iou

ROTATED_COLUMNS = 5


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes of one kind.

    >>> float(overlaps(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 2, 2]])))
    0.5
    >>> float(overlaps(torch.tensor([[1.0, 1, 2, 2, 0]]), torch.tensor([[1.0, 1, 2, 2, 90]])))
    1.0
    """
    if first.shape[-1] != ROTATED_COLUMNS:
        return pairwise_iou(first, second)
    return rotated_iou(first.double(), second.double()).float()  # as matching compares them


def corners_of(boxes: Tensor) -> Tensor:
    """Corners (N, 4, 2) x, y: of upright boxes clockwise from the top left, of rotated ones along their sides.

    >>> corners_of(torch.tensor([[3.0, 4, 7, 6]])).tolist()
    [[[3.0, 4.0], [7.0, 4.0], [7.0, 6.0], [3.0, 6.0]]]
    """
    if boxes.shape[-1] == ROTATED_COLUMNS:
        return rotated_corners(boxes)
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([torch.stack(pair, -1) for pair in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))], -2)


def centres_of(boxes: Tensor) -> Tensor:
    """Centres (N, 2)."""
    return boxes[..., :2] if boxes.shape[-1] == ROTATED_COLUMNS else (boxes[..., :2] + boxes[..., 2:]) / 2


def around(boxes: Tensor) -> Tensor:
    """The upright box (4,) around all boxes.

    >>> around(torch.tensor([[3.0, 4, 7, 6], [0, 5, 4, 9]])).tolist()
    [0.0, 4.0, 7.0, 9.0]
    """
    hulls = rotated_hull(boxes) if boxes.shape[-1] == ROTATED_COLUMNS else boxes
    return torch.cat([hulls[:, :2].amin(0), hulls[:, 2:].amax(0)])


def size_words(box: Tensor) -> str:
    """The sides of one box, width x height, and how a rotated one is turned.

    >>> size_words(torch.tensor([3.0, 4, 7, 6])), size_words(torch.tensor([5.0, 5, 40, 10, -30]))
    ('4 x 2', '40 x 10 turned by -30 degrees')
    """
    if box.shape[-1] == ROTATED_COLUMNS:
        _, _, width, height, angle = box.tolist()
        return f"{width:.0f} x {height:.0f} turned by {angle:.0f} degrees"
    x1, y1, x2, y2 = box.tolist()
    return f"{x2 - x1:.0f} x {y2 - y1:.0f}"
