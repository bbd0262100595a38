"""Coding: boxes as distances from a location to the four sides, and how central a location is in its box.

Shape legend: P = locations; `...` = leading batch shape. Distances are (left, top, right, bottom).
Source: FCOS (Tian et al. 2019), equations 1 and 3.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encode_ltrb(locations: Tensor, boxes: Tensor, strides: Tensor | float = 1.0) -> Tensor:
    """Distances (..., P, 4) from locations (P, 2) to the sides of boxes (..., P, 4), divided by the stride.

    >>> encode_ltrb(torch.tensor([[30.0, 40.0]]), torch.tensor([[10.0, 15.0, 100.0, 115.0]]), 8.0).tolist()
    [[2.5, 3.125, 8.75, 9.375]]
    """
    distances = torch.cat([locations - boxes[..., :2], boxes[..., 2:] - locations], dim=-1)
    return distances / _per_location(strides)


def decode_ltrb(locations: Tensor, distances: Tensor, strides: Tensor | float = 1.0) -> Tensor:
    """Boxes (..., P, 4) from distances (..., P, 4) in strides; negative distances count as zero.

    >>> decode_ltrb(torch.tensor([[100.0, 200.0]]), torch.tensor([[-1.0, -1.0, -1.0, 2.0]]), 8.0).tolist()
    [[100.0, 200.0, 100.0, 216.0]]
    """
    sides = distances.clamp(min=0) * _per_location(strides)
    return torch.cat([locations - sides[..., :2], locations + sides[..., 2:]], dim=-1)


def _per_location(strides: Tensor | float) -> Tensor | float:
    return strides[..., None] if isinstance(strides, Tensor) and strides.dim() else strides


def centerness(distances: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) (..., P): 1 at the centre of a box, 0 on its border.

    A location outside its box (a negative distance, as background rows have) gives -1, never NaN.

    >>> [round(value, 4) for value in centerness(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 1.0]])).tolist()]
    [1.0, 0.0]
    """
    left, top, right, bottom = distances.unbind(-1)
    inside = distances.amin(-1) >= 0
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=1e-12)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=1e-12)
    return torch.where(inside, torch.where(inside, across * down, 1.0).sqrt(), -1.0)
