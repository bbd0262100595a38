"""Boxes: area, clipping, and overlap, pairwise or row by row.

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


def clip_boxes(boxes: Tensor, sizes_hw: Tensor) -> Tensor:
    """Boxes (B, N, 4) cut to their pictures of sizes_hw (B, 2): x to the width, y to the height, on both sides.

    >>> clip_boxes(torch.tensor([[[-5.0, -5.0, 50.0, 50.0]]]), torch.tensor([[20, 30]])).tolist()
    [[[0.0, 0.0, 30.0, 20.0]]]
    """
    limits = sizes_hw.flip(-1).to(boxes.dtype).repeat(1, 2)[:, None]  # (B, 1, 4): width, height, width, height
    return boxes.clamp(min=0).minimum(limits)


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


def matched_iou(
    first: Tensor, second: Tensor, *, generalised: bool = False, eps: float = 1e-7, smoothing: float = 0.0
) -> Tensor:
    """Intersection over union (...,) of boxes (..., 4) row by row, or GIoU (Rezatofighi et al. 2019, eq. 2).

    `smoothing` is added to both areas of the IoU (1 in the FCOS authors' code and AdelaiDet).
    GIoU is IoU - (hull - union) / hull, in (-1, 1]; its gradient also pulls boxes together that do not touch.

    >>> a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    >>> matched_iou(a, b).item(), round(matched_iou(a, b, generalised=True).item(), 4)
    (0.0, -0.3333)
    """
    ax1, ay1, ax2, ay2 = first.unbind(-1)
    bx1, by1, bx2, by2 = second.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    iou = (intersection + smoothing) / (union + smoothing + eps)
    if not generalised:
        return iou
    hull_width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    hull = hull_width * hull_height
    return iou - (hull - union) / (hull + eps)
