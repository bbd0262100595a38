"""Masks: COCO run-length encoding, polygons, and bitmaps that are kept only where the object is.

Shape legend: G = objects, H W = size of the picture. Run-length encoding counts pixels column by column (Fortran
order), beginning with zeros, as the COCO API does; the compressed text is its variable-length code, six bits a
character. Source: cocodataset/cocoapi `maskApi.c` (format), here written anew on numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
    """The union (H, W) bool of polygons given as flat x, y lists: the pixels whose centres lie inside one (even-odd).

    Raises ValueError for a polygon of fewer than three points. The COCO API draws outlines at five-fold resolution, so
    single border pixels may differ.

    >>> rasterise_polygons([[1, 1, 4, 1, 4, 3, 1, 3]], (4, 5)).int().tolist()
    [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    """
    height, width = size_hw
    union = np.zeros((height, width), dtype=bool)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon needs at least three x, y pairs, got {len(polygon)} numbers")
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError("a polygon has a point that is not finite")
        # An edge that crosses a row of pixel centres turns inside to outside for every pixel to its right.
        turns = np.zeros((height, width + 1), dtype=np.int32)
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
            first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((y1, y2)))
            rows = np.arange(first, last)
            if len(rows):
                crossing = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
                turns[rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)] += 1
        union |= np.cumsum(turns, axis=1)[:, :width] % 2 == 1
    return torch.from_numpy(union)


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
