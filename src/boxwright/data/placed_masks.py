"""What a placed window of an image shows of the masks of its objects."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from boxwright.ops.image import Placement
from boxwright.structures import CroppedMask


def place_mask(mask: CroppedMask, placement: Placement) -> CroppedMask:
    """The part of a mask visible in a placed window: each canvas pixel takes the mask's value at its centre."""
    if not mask.known:
        return mask
    height, width = mask.bitmap.shape
    x1, y1, x2, y2 = placement.window
    scale_x, scale_y = placement.scale_xy
    columns, left = _sampled(mask.x, width, (x1, x2), scale_x)
    rows, top = _sampled(mask.y, height, (y1, y2), scale_y)
    corner_x, corner_y = placement.corner_xy
    return CroppedMask(left + corner_x, top + corner_y, mask.bitmap[rows][:, columns])


def _sampled(start: int, length: int, window: tuple[int, int], scale: float) -> tuple[Tensor, int]:
    """Which bitmap rows (or columns) the canvas pixels show, and the first of those pixels, counted in the window."""
    first = max(start, window[0]) - window[0]
    last = min(start + length, window[1]) - window[0]
    begin, end = math.ceil(first * scale - 0.5), math.ceil(last * scale - 0.5)
    if end <= begin:  # thinner than a pixel: drawn in the pixel that contains it
        limit = math.floor((window[1] - window[0]) * scale + 0.5)
        begin = min(max(math.floor(first * scale), 0), max(limit - 1, 0))
        end = begin + 1 if last > first else begin
    centres = (torch.arange(begin, end, dtype=torch.float64) + 0.5) / scale
    return (centres.floor().long() + (window[0] - start)).clamp(0, length - 1), begin


def tight_box(mask: CroppedMask) -> tuple[int, int, int, int] | None:
    """The smallest box around the pixels of a mask; None if it has none."""
    rows = mask.bitmap.any(1).nonzero().flatten().tolist()
    columns = mask.bitmap.any(0).nonzero().flatten().tolist()
    if not rows or not columns:
        return None
    return mask.x + columns[0], mask.y + rows[0], mask.x + columns[-1] + 1, mask.y + rows[-1] + 1
