"""Pasting: from the small mask predicted for each detection to pixels of the image; and the outlines of masks.

Shape legend: D = detections, M = side of the small masks, h w = height and width of a pasted part, H W of the image.
Sources: Mask R-CNN (He et al. 2017), section 3.1; Detectron2 `paste_masks_in_image`; torchvision `paste_mask_in_image`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Paste = Literal["exact", "torchvision"]


class Pasted(NamedTuple):
    """The pixels of one object: `bitmap` (h, w) bool with its corner at column x, row y of the image."""

    x: int
    y: int
    bitmap: Tensor


def paste_masks(
    probabilities: Tensor, boxes: Tensor, size_hw: tuple[int, int], *, threshold: float = 0.5, how: Paste = "exact"
) -> list[Pasted]:
    """Where in an image of `size_hw` each mask (D, M, M), drawn over its box (D, 4), reaches `threshold`.

    "exact" reads the mask bilinearly at the centre of each pixel, zero beyond its border, as Detectron2 does;
    "torchvision" first rounds the box to whole pixels, as that library does. Only the pixels of the box are computed,
    so cost and memory do not depend on the size of the image.

    >>> paste_masks(torch.ones(1, 2, 2), torch.tensor([[1.0, 1.0, 3.0, 2.0]]), (4, 4))[0].bitmap.tolist()
    [[True, True]]
    """
    draw = _torchvision if how == "torchvision" else _exact
    rows = zip(probabilities.float().cpu(), boxes.double().cpu().tolist(), strict=True)
    return [draw(mask, (box[0], box[1], box[2], box[3]), size_hw, threshold) for mask, box in rows]


def _exact(mask: Tensor, box: tuple[float, float, float, float], size_hw: tuple[int, int], threshold: float) -> Pasted:
    x1, y1, x2, y2 = box
    left, right = max(math.floor(x1), 0), min(math.ceil(x2), size_hw[1])
    top, bottom = max(math.floor(y1), 0), min(math.ceil(y2), size_hw[0])
    if right <= left or bottom <= top:
        return Pasted(max(min(left, size_hw[1]), 0), max(min(top, size_hw[0]), 0), torch.zeros(0, 0, dtype=torch.bool))
    down = _weights(top, bottom, y1, y2, mask.shape[0])
    across = _weights(left, right, x1, x2, mask.shape[1])
    return Pasted(left, top, down @ mask @ across.T >= threshold)


def _weights(first: int, last: int, low: float, high: float, cells: int) -> Tensor:
    """The bilinear weight of each cell of the mask at each pixel centre from `first` to `last`."""
    centres = torch.arange(first, last, dtype=torch.float64) + 0.5
    place = (centres - low) / max(high - low, 1e-12) * cells - 0.5
    distance = (place[:, None] - torch.arange(cells)).abs()
    return (1 - distance).clamp(min=0).float()


def _torchvision(
    mask: Tensor, box: tuple[float, float, float, float], size_hw: tuple[int, int], threshold: float
) -> Pasted:
    """A ring of zeros round the mask, the box enlarged to match and cut to whole pixels, both ends included."""
    cells = mask.shape[-1]
    growth = (cells + 2) / cells
    centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_width, half_height = (box[2] - box[0]) / 2 * growth, (box[3] - box[1]) / 2 * growth
    x1, x2 = int(centre_x - half_width), int(centre_x + half_width)
    y1, y2 = int(centre_y - half_height), int(centre_y + half_height)
    height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    ringed = torch.nn.functional.pad(mask, (1, 1, 1, 1))[None, None]
    drawn = torch.nn.functional.interpolate(ringed, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
    left, right = max(x1, 0), min(x2 + 1, size_hw[1])
    top, bottom = max(y1, 0), min(y2 + 1, size_hw[0])
    if right <= left or bottom <= top:
        return Pasted(max(min(left, size_hw[1]), 0), max(min(top, size_hw[0]), 0), torch.zeros(0, 0, dtype=torch.bool))
    part = drawn[top - y1 : bottom - y1, left - x1 : right - x1]
    return Pasted(left, top, part > threshold)


def mask_polygons(mask: Tensor, x: int = 0, y: int = 0) -> list[list[float]]:
    """The outlines of a mask (h, w) whose corner lies at (x, y), as COCO polygons: flat lists of x, y.

    One for each connected part, along the edges of its pixels; a hole is joined to its part by a seam that is walked
    twice. Filled again (by the COCO tools or `masks.rasterise_cropped`) they give the same mask.

    >>> mask_polygons(torch.tensor([[0, 1, 1]], dtype=torch.bool))
    [[1.0, 0.0, 3.0, 0.0, 3.0, 1.0, 1.0, 1.0]]
    """
    padded = np.pad(mask.cpu().numpy().astype(bool), 1)
    loops = _loops(padded)
    outer = [loop for loop in loops if _signed_area(loop) > 0]
    polygons = [list(loop) for loop in outer]
    for hole in (loop for loop in loops if _signed_area(loop) < 0):
        home = min(
            (n for n, loop in enumerate(outer) if _inside(hole[0], loop)),
            key=lambda n: _signed_area(outer[n]),
            default=0,
        )
        polygons[home] += [outer[home][0], *hole, hole[0]]
    return [[float(value) for u, v in polygon for value in (u - 1 + x, v - 1 + y)] for polygon in polygons]


def _loops(padded: np.ndarray) -> list[list[tuple[int, int]]]:
    """Closed walks along pixel edges with the mask on the right hand, corners only: outer ones clockwise."""
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(rows: np.ndarray, columns: np.ndarray, begin: tuple[int, int], end: tuple[int, int]) -> None:
        for v, u in zip(rows.tolist(), columns.tolist(), strict=True):
            follow.setdefault((u + begin[0], v + begin[1]), []).append((u + end[0], v + end[1]))

    inside = padded[1:-1, 1:-1]

    def edges(neighbour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.nonzero(inside & ~neighbour)
        return rows + 1, columns + 1

    add(*edges(padded[:-2, 1:-1]), (0, 0), (1, 0))  # nothing above: to the right along the upper edge
    add(*edges(padded[1:-1, 2:]), (1, 0), (1, 1))
    add(*edges(padded[2:, 1:-1]), (1, 1), (0, 1))
    add(*edges(padded[1:-1, :-2]), (0, 1), (0, 0))
    loops = []
    while follow:
        start = next(iter(follow))
        walk = [start]
        here = follow[start].pop(0)
        way = (here[0] - start[0], here[1] - start[1])
        while here != start:
            walk.append(here)
            ends = follow[here]
            # where two pixels touch at a corner only, turn right: they are two parts
            right = (here[0] - way[1], here[1] + way[0])
            following = right if right in ends else ends[0]
            ends.remove(following)
            way = (following[0] - here[0], following[1] - here[1])
            here = following
        for point in {point for point in walk if not follow[point]}:
            del follow[point]
        loops.append(_corners(walk))
    return loops


def _corners(walk: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The points of a closed walk at which it turns."""
    kept = []
    for before, here, after in zip([walk[-1], *walk[:-1]], walk, [*walk[1:], walk[0]], strict=True):
        if (here[0] - before[0], here[1] - before[1]) != (after[0] - here[0], after[1] - here[1]):
            kept.append(here)
    return kept


def _signed_area(loop: list[tuple[int, int]]) -> float:
    """Twice the area, positive for a loop that runs clockwise on an image (y points down)."""
    points = np.array(loop)
    following = np.roll(points, -1, axis=0)
    return float((points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum())


def _inside(point: tuple[int, int], loop: list[tuple[int, int]]) -> bool:
    """Whether a point's lower right pixel neighbour lies inside a loop."""
    u, v = point[0] + 0.5, point[1] + 0.5
    crossings = 0
    for (x1, y1), (_, y2) in zip(loop, [*loop[1:], loop[0]], strict=True):
        if min(y1, y2) < v < max(y1, y2) and x1 > u:
            crossings += 1
    return crossings % 2 == 1
