"""Masks: COCO run-length encoding, polygons, and bitmaps that are kept only where the object is.

Shape legend: G = objects, H W = size of the image, P = points of a polygon, N = places where its outline is crossed.
Run-length encoding counts pixels column by column (Fortran order), beginning with zeros, as the COCO API does; the
compressed text is its variable-length code, six bits a character. Source: cocodataset/cocoapi `maskApi.c` (format,
filling of polygons), here written anew on numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwright.ops.run_lengths import runs_of

_FINER = 5  # times as many columns and rows in the grid on which outlines are drawn
_FARTHEST = 2.0**40  # pixels; a point beyond is taken to lie there, lest its steps lose their whole numbers
_PART = 1 << 20  # crossings that are worked on at once
_SLACK = 100_000


def encode_rle(mask: Tensor) -> dict[str, Any]:
    """A mask (H, W) as a compressed COCO run-length code `{"size": [H, W], "counts": text}`.

    >>> encode_rle(torch.tensor([[0, 1], [0, 1]], dtype=torch.bool))
    {'size': [2, 2], 'counts': '22'}
    """
    height, width = mask.shape
    flat = mask.to(torch.bool).cpu().numpy().ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate([[0], edges, [flat.size]])
    counts = np.diff(bounds).tolist() if flat.size else []
    if flat.size and flat[0]:
        counts.insert(0, 0)  # the first run counts zeros
    return {"size": [int(height), int(width)], "counts": _counts_to_text(counts)}


def encode_cropped(bitmap: Tensor, x: int, y: int, size_hw: tuple[int, int]) -> dict[str, Any]:
    """The run-length code of an image (H, W) that is empty but for a bitmap (h, w) with its corner at (x, y).

    The image itself is never made: cost is that of the bitmap.

    >>> encode_cropped(torch.ones(1, 1), 1, 1, (2, 3)) == encode_rle(torch.tensor([[0, 0, 0], [0, 1, 0]]))
    True
    """
    height, width = size_hw
    rows, columns = bitmap.shape
    if not bitmap.numel():
        return {"size": [height, width], "counts": _counts_to_text([height * width] if height * width else [])}
    inside = np.zeros((columns, rows + 2), dtype=np.int8)  # column by column, each between two zeros
    inside[:, 1:-1] = bitmap.to(torch.bool).cpu().numpy().T
    column, row = np.nonzero(np.diff(inside, axis=1))  # where a run begins or ends, in pairs
    edges = (column + x) * height + row + y
    joined = np.concatenate([[0], edges, [height * width]])
    # a run that ends at the foot of a column and one that begins at the head of the next are one
    same = np.flatnonzero(np.diff(edges) == 0)
    joined = np.delete(joined, np.concatenate([same + 1, same + 2]))
    counts = np.diff(joined).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    return {"size": [height, width], "counts": _counts_to_text(counts)}


def decode_rle(counts: str | bytes | Sequence[int], size_hw: tuple[int, int]) -> Tensor:
    """The mask (H, W) bool of a COCO run-length code, compressed (text) or plain (numbers).

    Raises ValueError where the code does not fill the image exactly (`run_lengths.runs_of`).

    >>> decode_rle([2, 2], (2, 2)).tolist()
    [[False, True], [False, True]]
    """
    runs = runs_of(counts, size_hw)
    height, width = size_hw
    values = np.arange(len(runs)) % 2 == 1
    flat = np.repeat(values, runs)
    return torch.from_numpy(flat.reshape(width, height).T.copy())


def _counts_to_text(counts: Sequence[int]) -> str:
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            chunk = value & 0x1F
            value >>= 5
            more = not (value == 0 and not chunk & 0x10) and not (value == -1 and chunk & 0x10)
            text.append(chr((chunk | 0x20 if more else chunk) + 48))
    return "".join(text)


def rasterise_polygons(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> Tensor:
    """The union (H, W) bool of polygons given as flat x, y lists in pixels, equal to the COCO API's bit for bit.

    The outline is drawn on a grid five times as fine, and a pixel belongs to the polygon where that outline stands
    above it an odd number of times. One or two points beside a polygon cover no pixel. Raises ValueError where no
    polygon has three points, or a point is not finite. Source: COCO's mask API, rleFrPoly.

    >>> rasterise_polygons([[1, 1, 4, 1, 4, 3, 1, 3]], (4, 5)).int().tolist()
    [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    """
    return _united([_filled(polygon, size_hw) for polygon in _areas(polygons)], 0, 0, size_hw)


def rasterise_cropped(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> tuple[int, int, Tensor]:
    """What `rasterise_polygons` draws, kept only where it is: column x and row y of its corner, and its bitmap (h, w).

    The image itself is never made. The bitmap is (0, 0) where the polygons cover no pixel; raises as
    `rasterise_polygons` does.

    >>> x, y, bitmap = rasterise_cropped([[1, 1, 4, 1, 4, 3, 1, 3]], (4, 5))
    >>> x, y, bitmap.int().tolist()
    (1, 1, [[1, 1, 1], [1, 1, 1]])
    """
    filled = [_filled(polygon, size_hw) for polygon in _areas(polygons)]
    parts = [(x, y, bitmap) for x, y, bitmap in filled if bitmap.size]
    if not parts:
        return 0, 0, torch.zeros(0, 0, dtype=torch.bool)
    left, top = min(x for x, _, _ in parts), min(y for _, y, _ in parts)
    right = max(x + bitmap.shape[1] for x, _, bitmap in parts)
    bottom = max(y + bitmap.shape[0] for _, y, bitmap in parts)
    return left, top, _united(parts, left, top, (bottom - top, right - left))


def _areas(polygons: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    """Polygons without those of fewer than three points, which cover nothing; all of them where none is longer."""
    return [polygon for polygon in polygons if len(polygon) >= 6 or len(polygon) % 2] or polygons


def _united(parts: Sequence[tuple[int, int, np.ndarray]], left: int, top: int, size_hw: tuple[int, int]) -> Tensor:
    """Bitmaps with their corners (x, y) united on a canvas (H, W) bool whose own corner lies at (left, top)."""
    canvas = np.zeros(size_hw, dtype=bool)
    for x, y, bitmap in parts:
        height, width = bitmap.shape
        canvas[y - top : y - top + height, x - left : x - left + width] |= bitmap
    return torch.from_numpy(canvas)


def _filled(polygon: Sequence[float], size_hw: tuple[int, int]) -> tuple[int, int, np.ndarray]:
    """One polygon's corner x, y and its bitmap (h, w), which reaches as far as the outline does in the image."""
    points = _points(polygon)
    counts = _checked_crossings(points, size_hw)
    if int(counts.sum()) <= _PART:
        columns, rows = _outline(points, size_hw, np.arange(len(points)))
    else:
        columns, rows = _long_outline(points, size_hw, np.cumsum(counts) // _PART)
    if not len(columns):
        return 0, 0, np.zeros((0, 0), dtype=bool)
    left, top = int(columns.min()), int(rows.min())
    width, height = int(columns.max()) + 1 - left, int(rows.max()) - top
    # A closed outline crosses each column an even number of times, so every run ends in the column where it began.
    bounds = np.sort((columns - left) * height + rows - top)
    runs = np.diff(bounds, prepend=0, append=width * height)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return left, top, flat.reshape(width, height).T


def check_outline(polygon: Sequence[float], size_hw: tuple[int, int]) -> None:
    """Raise the ValueError that drawing a polygon would raise, without drawing it."""
    if len(polygon) // 2 * size_hw[1] > size_hw[0] * size_hw[1] + _SLACK:  # all others are short enough to be drawn
        _checked_crossings(_points(polygon), size_hw)


def _checked_crossings(points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """How often each edge of an outline (P, 2) crosses columns of an image, (P,); ValueError where it is absurd."""
    counts = _columns_crossed(points, size_hw)[1]
    total = int(counts.sum())
    if total > size_hw[0] * size_hw[1] + _SLACK:  # an outline that shows something crosses them less often
        raise ValueError(
            f"a polygon of {len(points)} points crosses the columns of the image {total} times, more often than an "
            f"image of {size_hw[0]} x {size_hw[1]} has pixels"
        )
    return counts


def _long_outline(points: np.ndarray, size_hw: tuple[int, int], parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The crossings of a very long outline part by part, without those that another one takes back."""
    height = size_hw[0] + 1
    odd = np.zeros(0, dtype=np.int64)
    for part in range(int(parts[-1]) + 1):
        columns, rows = _outline(points, size_hw, np.flatnonzero(parts == part))
        places, times = np.unique(columns * height + rows, return_counts=True)
        odd = np.setxor1d(odd, places[times % 2 == 1], assume_unique=True)
    return odd // height, odd % height


def _points(polygon: Sequence[float]) -> np.ndarray:
    """The corners (P, 2) of a polygon on the five-fold grid: whole numbers, rounded as C rounds."""
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"a polygon needs at least three x, y pairs, got {len(polygon)} numbers")
    # texts and lists would make an array that is as wide as the longest of them
    if not isinstance(polygon, np.ndarray) and any(issubclass(kind, str | bytes | list | tuple | dict)
                                                   for kind in set(map(type, polygon))):  # fmt: skip
        raise ValueError("a polygon is a flat list of numbers x, y, x, y, ...")
    numbers = np.asarray(polygon).astype(np.float64)
    if numbers.ndim != 1:
        raise ValueError("a polygon is a flat list of numbers x, y, x, y, ...")
    if not np.isfinite(numbers).all():
        raise ValueError("a polygon has a point that is not finite")
    fine: np.ndarray = np.trunc(_FINER * numbers.clip(-_FARTHEST, _FARTHEST) + 0.5)  # -0.9 becomes 0
    return fine.reshape(-1, 2)


def _columns_crossed(points: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The first column whose middle each edge of points (P, 2) crosses, and how many it crosses: (P,) float, int64."""
    width = size_hw[1]
    begin, end = points[:, 0], np.roll(points[:, 0], -1)
    # The middle of column c lies between the fine columns 5c + 2 and 5c + 3.
    first = np.ceil((np.minimum(begin, end) - 2) / _FINER).clip(0, width)
    last = np.floor((np.maximum(begin, end) - 3) / _FINER).clip(-1, width - 1)
    return first, (last - first + 1).clip(0).astype(np.int64)


def _outline(points: np.ndarray, size_hw: tuple[int, int], edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the `edges` of an outline of points (P, 2) on the fine grid cross the middle of the image's columns.

    Gives two (N,) int64: columns in [0, W), and in each the first pixel below the outline, in [0, H].
    """
    begin, end = points, np.roll(points, -1, axis=0)
    first, counts = _columns_crossed(points, size_hw)
    counts = counts[edges]
    edge = np.repeat(edges, counts)
    place = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its edge
    columns = first[edge].astype(np.int64) + place
    level = _level(begin[edge], end[edge], _FINER * columns + 3.0)
    rows = np.ceil(((level + 0.5) / _FINER - 0.5).clip(0, size_hw[0]))
    return columns, rows.astype(np.int64)


def _level(begin: np.ndarray, end: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The fine row (N,) at which edges (N, 2) to (N, 2) step between the fine columns `right` - 1 and `right`.

    An edge is walked in whole steps along its longer side, towards growing coordinates, and rounded along its shorter
    one. Of the two points of a step the upper row counts.
    """
    extent = np.abs(end - begin)
    flat = extent[:, 0] >= extent[:, 1]
    longer, shorter = np.where(flat, 0, 1), np.where(flat, 1, 0)
    edges = np.arange(len(begin))
    turned = (begin[edges, longer] > end[edges, longer])[:, None]
    begin, end = np.where(turned, end, begin), np.where(turned, begin, end)
    start = begin[edges, shorter]
    slope = (end[edges, shorter] - start) / extent[edges, longer]

    def walked(steps: np.ndarray) -> np.ndarray:
        across: np.ndarray = start + slope * steps + 0.5  # in the order of the source: its ties are ours
        return across

    after = right - begin[:, 0]
    flat_level = np.trunc(np.minimum(walked(after - 1), walked(after)))
    steep_slope = np.where(flat, 1, slope)
    estimate = np.floor((right - 0.5 - start) / steep_slope)
    # The estimate is at most two steps short of the first one beyond the column's middle.
    rising = slope > 0
    short = ((walked(estimate) < right) == rising) * 1.0 + ((walked(estimate + 1) < right) == rising)
    steep_level = begin[:, 1] + estimate + short - 1
    level: np.ndarray = np.where(flat, flat_level, steep_level)
    return level


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes (G, 4) float32 around masks (G, H, W); an empty mask gives a box of zeros.

    >>> mask_boxes(torch.tensor([[[0, 0, 0], [0, 1, 1]]], dtype=torch.bool)).tolist()
    [[1.0, 1.0, 3.0, 2.0]]
    """
    rows, columns = masks.any(2), masks.any(1)  # (G, H), (G, W)
    some = rows.any(1)

    def span(flags: Tensor) -> tuple[Tensor, Tensor]:
        first = flags.to(torch.uint8).argmax(1)
        last = flags.shape[1] - flags.flip(1).to(torch.uint8).argmax(1)
        return first, last

    (y1, y2), (x1, x2) = span(rows), span(columns)
    boxes = torch.stack([x1, y1, x2, y2], 1).to(torch.float32)
    return torch.where(some[:, None], boxes, boxes.new_zeros(()))
