"""Rotated anchors: boxes of a few sizes, shapes and angles at every cell of the pyramid.

Boxes are (cx, cy, w, h, degrees), see `ops.rotated`. Shape legend: P = cells of all levels, A = anchors at one cell.
Anchors of an image are ordered level by level, cell by cell (row by row), and at one cell by size first, then by ratio,
then by angle, as Detectron2's `RotatedAnchorGenerator` has them. Source: Rotation RPN (Ma et al. 2018), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ANGLES = (-90.0, -60.0, -30.0, 0.0, 30.0, 60.0)
"""Degrees at which Detectron2's RPN turns each anchor: half a turn covers all directions of a side."""


def rotated_cell_anchors(sizes: Sequence[float], ratios: Sequence[float], angles: Sequence[float] = ANGLES) -> Tensor:
    """Anchors (A, 5) around the origin: every size (side of the square of equal area) with every ratio of height to
    width and every angle, the angle changing fastest.

    >>> rotated_cell_anchors([32], [4.0], [-90, 0]).tolist()
    [[0.0, 0.0, 16.0, 64.0, -90.0], [0.0, 0.0, 16.0, 64.0, 0.0]]
    """
    if not sizes or not ratios or not angles or min(*sizes, *ratios) <= 0:
        got = f"{list(sizes)}, {list(ratios)} and {list(angles)}"
        raise ValueError(f"anchors: expected sizes and ratios above 0 and at least one angle, got {got}")
    size, ratio, angle = torch.meshgrid(
        *(torch.tensor(values, dtype=torch.float64) for values in (sizes, ratios, angles)), indexing="ij"
    )
    nothing = torch.zeros_like(size)
    return torch.stack([nothing, nothing, size / ratio.sqrt(), size * ratio.sqrt(), angle], -1).reshape(-1, 5).float()


def rotated_pyramid_anchors(locations: Sequence[Tensor], cells: Sequence[Tensor]) -> Tensor:
    """Anchors (P * A, 5) of all levels, from the locations (P of the level, 2) and the cell's anchors (A, 5) of each.

    >>> rotated_pyramid_anchors([torch.tensor([[4.0, 8.0]])], [torch.tensor([[0.0, 0, 16, 16, 30]])]).tolist()
    [[4.0, 8.0, 16.0, 16.0, 30.0]]
    """
    placed = [
        (torch.nn.functional.pad(centre, (0, 3))[:, None] + cell).reshape(-1, 5)
        for centre, cell in zip(locations, cells, strict=True)
    ]
    return torch.cat(placed)
