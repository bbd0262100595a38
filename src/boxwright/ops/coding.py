"""Box coding: a box as an offset from a reference box (an anchor or a proposal), and back.

Offsets are (dx, dy, dw, dh): the shift of the centre in widths and heights of the reference, and the logarithm of the
ratio of the sides. Shape legend: `...` = any leading shape. Source: R-CNN (Girshick et al. 2014), appendix C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST_LOG_RATIO = math.log(1000 / 16)
"""Sides grow at most 62.5-fold in decoding, so that exp() of any output stays finite (Detectron2, torchvision)."""

Weights = tuple[float, float, float, float]


def check_log_ratio(largest: float) -> None:
    """ValueError for a limit of growth that lets no side grow, or overflow float32."""
    if not 0 < largest < 80:
        raise ValueError(f"largest_log_ratio: expected above 0 and below 80, got {largest}")


def encode_boxes(reference: Tensor, boxes: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Offsets (..., 4) that lead from reference (..., 4) to boxes (..., 4), each times its weight.

    Boxes without area (padding and background rows) give finite offsets, which the caller masks.

    >>> encode_boxes(torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor([5.0, 0.0, 15.0, 10.0])).tolist()
    [0.5, 0.0, 0.0, 0.0]
    """
    centre, sides = _centre_and_sides(reference)
    box_centre, box_sides = _centre_and_sides(boxes)
    shift = (box_centre - centre) / sides.clamp(min=1e-6)
    growth = (box_sides.clamp(min=1e-6) / sides.clamp(min=1e-6)).log()
    offsets = torch.cat([shift, growth], dim=-1)
    return torch.stack([column * weight for column, weight in zip(offsets.unbind(-1), weights, strict=True)], dim=-1)


def decode_boxes(
    reference: Tensor,
    offsets: Tensor,
    weights: Weights = (1.0, 1.0, 1.0, 1.0),
    largest_log_ratio: float = LARGEST_LOG_RATIO,
    *,
    shrink_limited: bool = False,
) -> Tensor:
    """Boxes (..., 4) from reference (..., 4) and offsets (..., 4), which are not changed in place.

    With `shrink_limited` sides shrink at most as much as they may grow (MMDetection).

    >>> decode_boxes(torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor([0.5, 0.0, 0.0, 0.0])).tolist()
    [5.0, 0.0, 15.0, 10.0]
    """
    centre, sides = _centre_and_sides(reference)
    # one by one: a tensor of the weights, made on the host, would make a GPU wait
    offsets = torch.stack([column / weight for column, weight in zip(offsets.unbind(-1), weights, strict=True)], dim=-1)
    new_centre = centre + offsets[..., :2] * sides
    growth = offsets[..., 2:].clamp(max=largest_log_ratio)
    half = sides * (growth.clamp(min=-largest_log_ratio) if shrink_limited else growth).exp() / 2
    return torch.cat([new_centre - half, new_centre + half], dim=-1)


def _centre_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides
