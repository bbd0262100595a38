"""Boxes: area, and the overlap of every pair.

Boxes are absolute (x1, y1, x2, y2) without `+1`. Shape legend: N, M = boxes; `...` = any leading shape.
"""

from __future__ import annotations

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Area (...,) of boxes (..., 4); reversed boxes count as empty.

    >>> box_area(torch.tensor([[0.0, 0.0, 2.0, 3.0], [5.0, 5.0, 4.0, 9.0]])).tolist()
    [6.0, 0.0]
    """
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def pairwise_intersection(first: Tensor, second: Tensor) -> Tensor:
    """Shared area (..., N, M) of boxes (..., N, 4) and (..., M, 4)."""
    ax1, ay1, ax2, ay2 = first[..., :, None, :].unbind(-1)
    bx1, by1, bx2, by2 = second[..., None, :, :].unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    return width * height


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (..., N, M) of boxes (..., N, 4) and (..., M, 4); 0 where both are empty.

    torchvision's `box_iou` gives NaN there, and an area to reversed boxes.

    >>> pairwise_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]])).tolist()
    [[0.3333333432674408]]
    """
    intersection = pairwise_intersection(first, second)
    union = box_area(first)[..., :, None] + box_area(second)[..., None, :] - intersection
    return torch.where(union > 0, intersection / union, 0.0)
