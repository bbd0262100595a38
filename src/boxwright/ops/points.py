"""Locations: where in the picture the cells of a feature map look, and which objects each level is for.

Shape legend: L = levels, P = locations on all levels. Cell (row i, column j) of stride s stands at
x = (j + 0.5) s, y = (i + 0.5) s (FCOS, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def grid_locations(size_hw: tuple[int, int], stride: int, *, device: torch.device | str | None = None) -> Tensor:
    """Centres (H * W, 2) as x, y of the cells of one feature map, row by row.

    >>> grid_locations((1, 3), 8).tolist()
    [[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]]
    """
    height, width = size_hw
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)


def pyramid_locations(
    level_sizes: Sequence[tuple[int, int]], strides: Sequence[int], *, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Locations (P, 2) of all levels, level by level, and the stride (P,) of the level that each lies on."""
    grids = [grid_locations(size, s, device=device) for size, s in zip(level_sizes, strides, strict=True)]
    rows = [torch.full((len(grid),), float(s), device=device) for grid, s in zip(grids, strides, strict=True)]
    return torch.cat(grids), torch.cat(rows)


def level_ranges(bounds: Sequence[float]) -> list[tuple[float, float]]:
    """Half-open ranges [low, high) of max(l, t, r, b) from the bounds between levels, open at both ends.

    >>> level_ranges([64, 128])
    [(0.0, 64.0), (64.0, 128.0), (128.0, inf)]
    """
    edges = [0.0, *map(float, bounds), float("inf")]
    if sorted(edges) != edges:
        raise ValueError(f"level bounds: expected rising numbers, got {list(bounds)}")
    return list(zip(edges[:-1], edges[1:], strict=True))
