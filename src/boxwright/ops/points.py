"""Points: the locations in an image of a feature map's cells, and boxes as distances from there to their sides.

Shape legend: L = levels, P = locations on all levels; `...` = leading batch shape. Cell (row i, column j) of stride s
lies at x = (j + 0.5) s, y = (i + 0.5) s. Distances are (left, top, right, bottom). Source: FCOS (Tian et al. 2019),
section 3.1, equations 1 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Grid = Literal["centre", "corner", "torchvision", "swapped"]
"""Where a cell lies: "centre" x = (j + 0.5) s, "corner" x = j s (Detectron2's anchors), "torchvision" x = j (W // w)
with the width of the padded batch and of the map, which is j s only where s divides the width. "swapped" gives x the
row and y the column: a mistake in a version of the course, kept for weights that were trained with it."""


def grid_locations(
    size_hw: tuple[int, int],
    stride: int,
    *,
    device: torch.device | str | None = None,
    grid: Grid = "centre",
    padded_hw: tuple[int, int] | None = None,
) -> Tensor:
    """Locations (H * W, 2) as x, y of the cells of one feature map, row by row.

    `padded_hw` is the size of the batch's pixels, which the grid "torchvision" needs.

    >>> grid_locations((1, 3), 8).tolist()
    [[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]]
    >>> grid_locations((1, 3), 8, grid="torchvision", padded_hw=(8, 23)).tolist()
    [[0.0, 0.0], [7.0, 0.0], [14.0, 0.0]]
    """
    height, width = size_hw
    step_y, step_x, offset = stride, stride, 0.5 if grid in ("centre", "swapped") else 0.0
    if grid == "torchvision":
        if padded_hw is None:
            raise ValueError("the grid 'torchvision' needs the size of the padded batch")
        step_y, step_x = padded_hw[0] // height, padded_hw[1] // width
    y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * step_y
    x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * step_x
    points = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)
    return points.flip(1) if grid == "swapped" else points


def pyramid_locations(
    level_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    *,
    device: torch.device | str | None = None,
    grid: Grid = "centre",
    padded_hw: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Locations (P, 2) of all levels, level by level, and the stride (P,) of the level that each lies on."""
    grids = [
        grid_locations(size, s, device=device, grid=grid, padded_hw=padded_hw)
        for size, s in zip(level_sizes, strides, strict=True)
    ]
    rows = [torch.full((grid.shape[0],), float(s), device=device) for grid, s in zip(grids, strides, strict=True)]
    return torch.cat(grids), torch.cat(rows)


RangeEnds = Literal["half_open", "open", "closed"]
"""Which ends belong to a level's range: the lower, so that no object falls between levels or belongs to two; neither
(Detectron2, torchvision, the course); or both (the FCOS authors, AdelaiDet)."""


def level_ranges(bounds: Sequence[float], ends: RangeEnds = "half_open") -> list[tuple[float, float]]:
    """Ranges [low, high) of max(l, t, r, b) from the bounds between levels, open at both ends of the whole.

    Open and closed ends are the same half-open test with the next float32 number as the bound.

    >>> level_ranges([64, 128])
    [(0.0, 64.0), (64.0, 128.0), (128.0, inf)]
    >>> level_ranges([64], "open")
    [(0.0, 64.0), (64.00000762939453, inf)]
    """
    edges = [0.0, *map(float, bounds), float("inf")]
    if sorted(edges) != edges:
        raise ValueError(f"level_bounds: expected rising numbers, got {list(bounds)}")
    ranges = list(pairwise(edges))
    if ends == "half_open":
        return ranges
    above = [float(np.nextafter(np.float32(edge), np.float32("inf"))) for edge in edges]
    if ends == "open":
        return [(0.0 if low == 0 else up, high) for (low, high), up in zip(ranges, above, strict=False)]
    return [(low, up) for (low, _), up in zip(ranges, above[1:], strict=True)]


def encode_ltrb(locations: Tensor, boxes: Tensor, strides: Tensor | float = 1.0) -> Tensor:
    """Distances (..., P, 4) from locations (P, 2) to the sides of boxes (..., P, 4), divided by the stride.

    >>> encode_ltrb(torch.tensor([[30.0, 40.0]]), torch.tensor([[10.0, 15.0, 100.0, 115.0]]), 8.0).tolist()
    [[2.5, 3.125, 8.75, 9.375]]
    """
    distances = torch.cat([locations - boxes[..., :2], boxes[..., 2:] - locations], dim=-1)
    return distances / _per_location(strides)


def encode_ltrb_rows(locations: Tensor, rows: Tensor, strides: Tensor | float = 1.0) -> Tensor:
    """Distances (..., P, 4) from locations (P, 2) to matched rows (..., P, 5), with -1 for those of background.

    A row is a box and its class, as the course's loader and matching give them; it is background where its class is -1,
    whatever its coordinates. Rows (..., P, 4), which have no class, are background where all four numbers are -1.

    >>> rows = torch.tensor([[10.0, 15.0, 100.0, 115.0, 7.0], [10.0, 15.0, 100.0, 115.0, -1.0], [-1.0] * 5])
    >>> encode_ltrb_rows(torch.tensor([[30.0, 40.0]] * 3), rows, 8.0).tolist()
    [[2.5, 3.125, 8.75, 9.375], [-1.0, -1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]]
    """
    if rows.shape[-1] not in (4, 5):
        raise ValueError(f"matched rows: expected 4 or 5 columns (x1, y1, x2, y2, class), got {rows.shape[-1]}")
    background = rows[..., 4:] == -1 if rows.shape[-1] == 5 else (rows == -1).all(-1, keepdim=True)
    return torch.where(background, -1.0, encode_ltrb(locations, rows[..., :4], strides))


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
