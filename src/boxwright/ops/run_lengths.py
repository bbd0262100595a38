"""Run-length codes of COCO as runs, checked against the size of their image before anything of that size is made.

A code counts pixels column by column (Fortran order), beginning with zeros. The compressed text is its variable-length
code: six bits a character, from the third run on the difference to the run before the last (cocodataset/cocoapi
`maskApi.c`). faster-coco-eval reads such text too, but trusts it and decodes whole images: text from outside is read
here, and only the columns that an object reaches are made. N = runs, H W = size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Runs: TypeAlias = npt.NDArray[np.int64]
_LETTERS = 8  # characters of one number; seven hold every number of pixels below 2 ** 34
_SLACK = 64


def runs_of(counts: str | bytes | Sequence[int], size_hw: tuple[int, int]) -> Runs:
    """The runs (N,) of a code, compressed (text) or plain (numbers), which fill their image exactly.

    Raises ValueError where they do not, or where the code is longer than any for an image of this size.

    >>> runs_of("22", (2, 2)).tolist(), runs_of([0, 4], (2, 2)).tolist()
    ([2, 2], [0, 4])
    """
    height, width = size_hw
    pixels = height * width
    if height < 0 or width < 0 or pixels >= 1 << 34:
        raise ValueError(f"run-length code for an image of {height} x {width} pixels: no image has that size")
    if not isinstance(counts, str | bytes | list | tuple | np.ndarray):
        raise ValueError(f"run-length code: expected text or a list of numbers, got {type(counts).__name__}")
    # No run but the first is empty, so there are at most `pixels` + 1; a number of several characters stands for more.
    if len(counts) > 2 * pixels + _SLACK:
        raise ValueError(
            f"run-length code of {len(counts)} characters, more than an image of {height} x {width} can need"
        )
    runs = _from_text(counts, pixels) if isinstance(counts, str | bytes) else _from_list(counts, pixels)
    total = int(runs.sum())
    if total != pixels or (len(runs) and int(runs.min()) < 0):
        raise ValueError(f"run-length code of {total} pixels for an image of {height} x {width}")
    return runs


def _from_list(counts: Any, pixels: int) -> Runs:
    runs = []
    for count in counts:
        whole = int(count) if not isinstance(count, str) or len(count) < 20 else -1
        if isinstance(count, bool) or (isinstance(count, float) and count != whole):
            raise ValueError(f"run-length code with the run {count!r:.40}, which is no whole number")
        if not 0 <= whole <= pixels:
            raise ValueError(f"run-length code with a run of {whole!s:.30} pixels in an image of {pixels}")
        runs.append(whole)
    return np.array(runs, dtype=np.int64)


def _from_text(text: str | bytes, pixels: int) -> Runs:
    codes = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, dtype=np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    if int(codes.min()) < 0 or int(codes.max()) > 63:
        raise ValueError("run-length code with a character that means nothing")
    ends = np.flatnonzero(codes & 0x20 == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("run-length code ends within a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    letters = ends - starts + 1
    if int(letters.max()) > _LETTERS:
        raise ValueError(f"run-length code with a number of {int(letters.max())} characters")
    place = np.arange(len(codes)) - np.repeat(starts, letters)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    values -= np.where(codes[ends] & 0x10, 1 << (5 * letters), 0)
    if int(np.abs(values).max()) > pixels:  # so that no sum below can overflow
        raise ValueError(f"run-length code with a run of {int(np.abs(values).max())} pixels in an image of {pixels}")
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def rle_extent(counts: str | bytes | Sequence[int], size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """The tight box (x, y, width, height) around what a code covers, zeros where it covers no pixel.

    Raises as `runs_of` does. The image itself is never made: the cost is that of the code.

    >>> rle_extent([3, 2, 1], (2, 3)), rle_extent([6], (2, 3))
    ((1, 0, 2, 2), (0, 0, 0, 0))
    """
    return _extent(runs_of(counts, size_hw), size_hw[0])


def _extent(runs: Runs, height: int) -> tuple[int, int, int, int]:
    ends = np.cumsum(runs)
    begin, last = ends[0:-1:2], ends[1::2] - 1  # of the runs that are set
    begin, last = begin[last >= begin], last[last >= begin]
    if not len(begin):
        return 0, 0, 0, 0
    left, right = int(begin.min() // height), int(last.max() // height)
    across = bool(
        (begin // height != last // height).any()
    )  # such a run reaches the bottom of a column and the top of the next
    top, bottom = (0, height - 1) if across else (int((begin % height).min()), int((last % height).max()))
    return left, top, right + 1 - left, bottom + 1 - top


def decode_cropped(
    counts: str | bytes | Sequence[int], size_hw: tuple[int, int]
) -> tuple[int, int, npt.NDArray[np.bool_]]:
    """What a code covers: column x and row y of its top left corner, and its bitmap (h, w), (0, 0) where it is empty.

    Only the columns that it reaches are made. Raises as `runs_of` does.
    """
    runs = runs_of(counts, size_hw)
    height = size_hw[0]
    x, y, width, rows = _extent(runs, height)
    if not width:
        return 0, 0, np.zeros((0, 0), dtype=bool)
    bounds = (np.cumsum(runs) - x * height).clip(0, width * height)
    lengths = np.diff(bounds, prepend=0, append=width * height)
    values = np.arange(len(lengths)) % 2 == 1
    values[-1] = False  # what follows the last run in its column
    return x, y, np.repeat(values, lengths).reshape(width, height).T[y : y + rows]
