"""What a placed window of an image shows of the map of its pixels' labels, as `placed_masks` has it for masks.

Shape legend: H W = height and width. A map is (H, W) uint8; nothing is interpolated, since a label is no amount.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.ops.image import Placement, ResizePlan
from boxwright.structures.classes import IGNORED


def place_map(labels: Tensor, placement: Placement, canvas_hw: tuple[int, int]) -> Tensor:
    """The map of a canvas of that size: each pixel of the placed window has the label at its centre, others are 255.

    >>> half = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    >>> place_map(half, Placement((0, 0, 2, 1), (1, 4), (1, 0)), (2, 5)).tolist()
    [[255, 1, 1, 2, 2], [255, 255, 255, 255, 255]]
    """
    x1, y1, x2, y2 = placement.window
    (height, width), (left, top) = placement.size_hw, placement.corner_xy
    scale_x, scale_y = placement.scale_xy
    rows, columns = _sampled(height, scale_y, y1, y2), _sampled(width, scale_x, x1, x2)
    canvas = labels.new_full(canvas_hw, IGNORED)
    canvas[top : top + height, left : left + width] = labels[rows][:, columns]
    return canvas


def _sampled(length: int, scale: float, first: int, end: int) -> Tensor:
    """Which rows (or columns) of the map so many pixels of the canvas show."""
    centres = (torch.arange(length, dtype=torch.float64) + 0.5) / scale
    return (centres.floor().long() + first).clamp(first, end - 1)


def fit_map(labels: Tensor, plan: ResizePlan) -> Tensor:
    """The map of an image that is resized by a plan: 255 where its canvas is larger, cut where that is smaller."""
    height, width = labels.shape
    corner = (0, 0) if plan.crop is not None else (int(plan.offset_xy[0]), int(plan.offset_xy[1]))
    canvas = plan.size_hw if plan.crop is None else plan.image_hw
    resized = place_map(labels, Placement((0, 0, width, height), plan.image_hw, corner), canvas)
    return resized if plan.crop is None else place_map(resized, plan.crop, plan.size_hw)
