"""Boxes: area and pairwise overlap.

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


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4); 0 where both are empty.

    >>> pairwise_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]])).tolist()
    [[0.3333333432674408]]
    """
    corner = torch.maximum(first[:, None, :2], second[:, :2])
    opposite = torch.minimum(first[:, None, 2:], second[:, 2:])
    width, height = (opposite - corner).clamp(min=0).unbind(-1)
    intersection = width * height
    union = box_area(first)[:, None] + box_area(second) - intersection
    return torch.where(union > 0, intersection / union, 0.0)
