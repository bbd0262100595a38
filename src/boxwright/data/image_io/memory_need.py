"""How much memory an image will take, from its header, before it is decoded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from boxwright.data.image_io.decode import stored_size
from boxwright.ops.image import ResizeRule, resize_plan
from boxwright.ops.tiling import Tiling

MEMORY = 3.0
"""GiB that decoded images may take: enough for one image at the pixel limit."""
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
TOGETHER = min(max(2, _CORES // 2), 8)
"""Images decoded at a time, each in its thread: half of the cores, but at least two and at most eight."""
_RESIZING = {"antialias": 1, "plain": 7, "pillow": 7}
"""Bytes per pixel, in addition to the image's own, while it is resized."""
_DRAWING = 8
"""Bytes per pixel, in addition to the image's own, while objects are drawn on it and it is written."""


class Need(NamedTuple):
    """Bytes of an image: those kept with its results, and those needed in addition while they are computed."""

    held: int
    passing: int


def need_of_image(image: Any, rule: ResizeRule, *, keep: bool, tiling: Tiling | None = None) -> Need:
    """The memory that an image needs, with its original pixels if `keep`; zero if it cannot be read."""
    if isinstance(image, (str, Path)):
        try:
            hw, stored = stored_size(image)
        except (ValueError, OSError):
            return Need(0, 0)
        return need_of_size(hw, rule, keep=keep, stored=stored, tiling=tiling)
    if isinstance(image, Image.Image):
        hw, own = (image.height, image.width), 4 * image.height * image.width
    elif isinstance(image, (np.ndarray, Tensor)) and image.ndim in (2, 3):
        height, width = image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2]
        hw, own = (int(height), int(width)), image.nbytes
    else:
        return Need(0, 0)
    if not min(hw):
        return Need(0, 0)
    need = need_of_size(hw, rule, keep=keep, tiling=tiling)
    return Need(need.held + own, need.passing)


def too_large(num_bytes: int, memory: float) -> str:
    """An error message for an image that needs more memory than allowed."""
    return (
        f"needs {num_bytes / 2**30:.1f} GiB of memory, more than the {memory:g} GiB that images may take; make it "
        "smaller, or allow more with --memory"
    )


def need_of_size(
    hw: tuple[int, int], rule: ResizeRule, *, keep: bool, stored: int = 4, tiling: Tiling | None = None
) -> Need:
    """The same for a size; `stored` is what Pillow needs per pixel, `tiling` the tiles that are resized instead."""
    pixels = hw[0] * hw[1]
    count, part_hw = (1, hw) if tiling is None else (tiling.count(hw), tiling.tile_hw(hw))
    at_network = count * 3 * (4 if rule.filter == "plain" else 1) * int(np.prod(resize_plan(part_hw, rule).size_hw))
    passing = max(stored, _RESIZING[rule.filter]) + (0 if keep else 3)
    if keep:
        passing = max(passing, _DRAWING)
    return Need(at_network + (3 * pixels if keep else 0), passing * pixels)
