"""Masks: COCO run-length encoding, polygons, and bitmaps that are kept only where the object is.

Shape legend: G = objects, H W = size of the picture, P = points of a polygon, N = places where its outline is crossed.
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

_FINER = 5  # times as many columns and rows in the grid on which outlines are drawn
_FARTHEST = 2.0**40  # pixels; a point beyond is taken to lie there, lest its steps lose their whole numbers


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
    """The run-length code of a picture (H, W) that is empty but for a bitmap (h, w) with its corner at (x, y).

    The picture itself is never made: cost is that of the bitmap.

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

    Raises ValueError where the code does not fill the picture exactly.

    >>> decode_rle([2, 2], (2, 2)).tolist()
    [[False, True], [False, True]]
    """
    runs = _text_to_counts(counts) if isinstance(counts, (str, bytes)) else [int(run) for run in counts]
    height, width = size_hw
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise ValueError(f"run-length code of {sum(runs)} pixels for a picture of {height} x {width}")
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


def _text_to_counts(text: str | bytes) -> list[int]:
    codes = text.encode("ascii") if isinstance(text, str) else text
    counts: list[int] = []
    position = 0
    while position < len(codes):
        value = shift = 0
        more = True
        while more:
            if position >= len(codes):
                raise ValueError("run-length code ends within a number")
            chunk = codes[position] - 48
            value |= (chunk & 0x1F) << shift
            more = bool(chunk & 0x20)
            position += 1
            shift += 5
            if not more and chunk & 0x10:
                value |= -1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
    return counts


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

    The picture itself is never made. The bitmap is (0, 0) where the polygons cover no pixel; raises as
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
    """One polygon's corner x, y and its bitmap (h, w), which reaches as far as the outline does in the picture."""
    columns, rows = _outline(_points(polygon), size_hw)
    if not len(columns):
        return 0, 0, np.zeros((0, 0), dtype=bool)
    left, top = int(columns.min()), int(rows.min())
    width, height = int(columns.max()) + 1 - left, int(rows.max()) - top
    # A closed outline crosses each column an even number of times, so every run ends in the column where it began.
    bounds = np.sort((columns - left) * height + rows - top)
    runs = np.diff(bounds, prepend=0, append=width * height)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return left, top, flat.reshape(width, height).T


def _points(polygon: Sequence[float]) -> np.ndarray:
    """The corners (P, 2) of a polygon on the five-fold grid: whole numbers, rounded as C rounds."""
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"a polygon needs at least three x, y pairs, got {len(polygon)} numbers")
    numbers = np.asarray(polygon)
    if numbers.ndim != 1 or numbers.dtype.kind in "SU":
        raise ValueError("a polygon is a flat list of numbers x, y, x, y, ...")
    numbers = numbers.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("a polygon has a point that is not finite")
    fine: np.ndarray = np.trunc(_FINER * numbers.clip(-_FARTHEST, _FARTHEST) + 0.5)  # -0.9 becomes 0
    return fine.reshape(-1, 2)


def _outline(points: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where an outline of points (P, 2) on the fine grid crosses the middle of the picture's columns.

    Gives two (N,) int64: columns in [0, W), and in each the first pixel below the outline, in [0, H].
    """
    height, width = size_hw
    begin, end = points, np.roll(points, -1, axis=0)
    low, high = np.minimum(begin[:, 0], end[:, 0]), np.maximum(begin[:, 0], end[:, 0])
    # The middle of column c lies between the fine columns 5c + 2 and 5c + 3.
    first = np.ceil((low - 2) / _FINER).clip(0, width)
    counts = (np.floor((high - 3) / _FINER).clip(-1, width - 1) - first + 1).clip(0).astype(np.int64)
    edge = np.repeat(np.arange(len(points)), counts)
    place = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its edge
    columns = first[edge].astype(np.int64) + place
    level = _level(begin[edge], end[edge], _FINER * columns + 3.0)
    rows = np.ceil(((level + 0.5) / _FINER - 0.5).clip(0, height))
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


def rle_extent(counts: str | bytes | Sequence[int], size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """The tight box (x, y, width, height) around a COCO run-length code, zeros where it covers no pixel.

    The picture itself is never made: cost is that of the code. Raises as `decode_rle` does.

    >>> rle_extent([3, 2, 1], (2, 3)), rle_extent([6], (2, 3))
    ((1, 0, 2, 2), (0, 0, 0, 0))
    """
    runs = _text_to_counts(counts) if isinstance(counts, (str, bytes)) else [int(run) for run in counts]
    height, width = size_hw
    if sum(runs) != height * width or min(runs, default=0) < 0 or not 0 <= height * width < 1 << 62:
        raise ValueError(f"run-length code of {sum(runs)} pixels for a picture of {height} x {width}")
    ends = np.cumsum(np.array(runs, dtype=np.int64))
    begin, last = ends[0:-1:2], ends[1::2] - 1  # of the runs that are set
    begin, last = begin[last >= begin], last[last >= begin]
    if not len(begin):
        return 0, 0, 0, 0
    left, right = int(begin.min() // height), int(last.max() // height)
    across = bool((begin // height != last // height).any())  # such a run touches the foot of a column and a head
    top, foot = (0, height - 1) if across else (int((begin % height).min()), int((last % height).max()))
    return left, top, right + 1 - left, foot + 1 - top


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
