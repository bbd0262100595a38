"""Anchors: the boxes that a dense head starts from, a few of different sizes and shapes at every cell of the pyramid.

Shape legend: L = levels, P = cells of all levels, A = anchors at one cell. Anchors of an image are ordered level by
level, cell by cell (row by row), and at one cell by size first, then by ratio, as Detectron2 has them.
Source: Faster R-CNN (Ren et al. 2015), section 3.1.1; RetinaNet (Lin et al. 2017), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], *, rounded: bool = False) -> Tensor:
    """Anchors (A, 4) around the origin: every size (side of the square of equal area) with every ratio of height to
    width.

    `rounded` rounds corners to whole pixels, half to even, as torchvision does.

    >>> cell_anchors([32], [0.5, 1.0]).round(decimals=2).tolist()
    [[-22.6299991607666, -11.3100004196167, 22.6299991607666, 11.3100004196167], [-16.0, -16.0, 16.0, 16.0]]
    """
    if not sizes or not ratios or min(*sizes, *ratios) <= 0:
        raise ValueError(f"anchors: expected sizes and ratios above 0, got {list(sizes)} and {list(ratios)}")
    size = torch.tensor(sizes, dtype=torch.float64)[:, None]
    root = torch.tensor(ratios, dtype=torch.float64).sqrt()
    half = torch.stack([size / root, size * root], dim=-1).reshape(-1, 2) / 2  # (A, 2): half width, half height
    anchors = torch.cat([-half, half], dim=1).float()
    return anchors.round() if rounded else anchors


def pyramid_anchors(locations: Sequence[Tensor], cells: Sequence[Tensor]) -> Tensor:
    """Anchors (P * A, 4) of all levels, from the locations (P of the level, 2) and the cell's anchors (A, 4) of each.

    >>> pyramid_anchors([torch.tensor([[4.0, 4.0]])], [torch.tensor([[-8.0, -8.0, 8.0, 8.0]])]).tolist()
    [[-4.0, -4.0, 12.0, 12.0]]
    """
    placed = [
        (centre.repeat(1, 2)[:, None] + cell).reshape(-1, 4) for centre, cell in zip(locations, cells, strict=True)
    ]
    return torch.cat(placed)
