"""Masks: COCO run-length codes, polygons, and bitmaps that are kept only where the object is.

Run-length codes count pixels column by column (Fortran order), beginning with zeros; how text becomes runs is in
`run_lengths.py`. Encoding and the filling of polygons are faster-coco-eval's, whose results equal pycocotools' bit by
bit. What it lacks is here: bounds on what a polygon may cost, and codes of masks that are kept cropped.
Shape legend: H W = size of the image, h w = size of a cropped bitmap, P = points of a polygon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from faster_coco_eval.core import mask as coco
from torch import Tensor

from boxwright.ops.run_lengths import decode_cropped

_FARTHEST = 1 << 15  # pixels, and two sides of the image: a point farther out is taken to lie there
_LONGEST = 1 << 24  # pixels of an outline, which COCO's algorithm walks in steps of a fifth of a pixel
_SLACK = 1 << 19


def encode_rle(mask: Tensor) -> dict[str, Any]:
    """A mask (H, W) as a compressed COCO run-length code `{"size": [H, W], "counts": text}`.

    >>> encode_rle(torch.tensor([[0, 1], [0, 1]], dtype=torch.bool))
    {'size': [2, 2], 'counts': '22'}
    """
    code = coco.encode(np.asfortranarray(mask.to(torch.bool).cpu().numpy().view(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def encode_cropped(bitmap: Tensor, x: int, y: int, size_hw: tuple[int, int]) -> dict[str, Any]:
    """The run-length code of an image (H, W) that is empty but for a bitmap (h, w) with its corner at (x, y).

    The image itself is never made: cost is that of the bitmap.

    >>> encode_cropped(torch.ones(1, 1), 1, 1, (2, 3)) == encode_rle(torch.tensor([[0, 0, 0], [0, 1, 0]]))
    True
    """
    height, width = size_hw
    rows, columns = bitmap.shape
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
    code = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode()}


def rasterise_cropped(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> tuple[int, int, Tensor]:
    """The union of polygons, flat lists of x, y in pixels: column x and row y of its corner, and its bitmap (h, w).

    Filled as by COCO's mask API (rleFrPoly), pixel by pixel; the image itself is never made. The bitmap is (0, 0) where
    the polygons cover no pixel. One or two points beside a polygon cover none. Raises ValueError where no polygon has
    three points, a point is not finite, or an outline is absurdly long.

    >>> x, y, bitmap = rasterise_cropped([[1, 1, 4, 1, 4, 3, 1, 3]], (4, 5))
    >>> x, y, bitmap.int().tolist()
    (1, 1, [[1, 1, 1], [1, 1, 1]])
    """
    # points and lines cover nothing; where there is nothing else they are refused
    areas = [polygon for polygon in polygons if len(polygon) >= 6 or len(polygon) % 2] or polygons
    outlines = [_outline(polygon, size_hw).ravel().tolist() for polygon in areas]
    if not outlines:
        return 0, 0, torch.zeros(0, 0, dtype=torch.bool)
    united = coco.merge(coco.frPyObjects(outlines, *size_hw))
    x, y, bitmap = decode_cropped(united["counts"], size_hw)
    return x, y, torch.from_numpy(bitmap.copy())


def check_outline(polygon: Sequence[float], size_hw: tuple[int, int]) -> None:
    """Raise the ValueError that drawing a polygon of finite numbers would raise, without drawing it."""
    if len(polygon) // 2 * (max(polygon) - min(polygon)) > _longest(size_hw):  # all others are short enough
        _outline(polygon, size_hw)


def _longest(size_hw: tuple[int, int]) -> int:
    """The longest outline in pixels, along the longer side of each edge: one that shows something is shorter."""
    return min(size_hw[0] * size_hw[1], _LONGEST) + _SLACK


def _outline(polygon: Sequence[float], size_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The points (P, 2) of a polygon, finite and near enough to be walked; ValueError where they are none."""
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"a polygon needs at least three x, y pairs, got {len(polygon)} numbers")
    # texts and lists would make an array that is as wide as the longest of them
    texts_or_lists = (str, bytes, list, tuple, dict)
    if not isinstance(polygon, np.ndarray) and any(
        issubclass(kind, texts_or_lists) for kind in set(map(type, polygon))
    ):
        raise ValueError("a polygon is a flat list of numbers x, y, x, y, ...")
    numbers = np.asarray(polygon).astype(np.float64)
    if numbers.ndim != 1:
        raise ValueError("a polygon is a flat list of numbers x, y, x, y, ...")
    if not np.isfinite(numbers).all():
        raise ValueError("a polygon has a point that is not finite")
    far = _FARTHEST + 2 * max(size_hw)
    points: npt.NDArray[np.float64] = numbers.clip(-far, far).reshape(-1, 2)
    length = float(np.abs(points - np.roll(points, -1, axis=0)).max(1).sum())
    if length > _longest(size_hw):
        raise ValueError(
            f"a polygon of {len(points)} points has an outline of {length:.0f} pixels, longer than any that shows "
            f"something in an image of {size_hw[0]} x {size_hw[1]}"
        )
    return points
