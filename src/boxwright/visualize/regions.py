"""Masks as translucent fills with an outline, and the hatching of ignored regions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

ROWS = 256
"""Rows of a mask that are blended at a time."""


def with_masks(
    image: Image.Image,
    masks: Iterable[tuple[tuple[int, int, Tensor], tuple[int, int, int]]],
    scale: float,
    thickness: int,
) -> Image.Image:
    """The image, `scale` times as large as that of the masks, with each mask in its colour (R, G, B).

    A mask is the column and row of its corner, and its bitmap (h, w).
    """
    canvas = np.array(image)
    for (x, y, pixels), colour in masks:
        bitmap = pixels.cpu().numpy().astype(bool)
        if not bitmap.any():
            continue
        if scale != 1.0:
            right, bottom = round((x + bitmap.shape[1]) * scale), round((y + bitmap.shape[0]) * scale)
            x, y = round(x * scale), round(y * scale)
            grey = Image.fromarray(bitmap.astype(np.uint8) * 255)
            grey = grey.resize((max(1, right - x), max(1, bottom - y)), Image.Resampling.BILINEAR)
            bitmap = np.asarray(grey) > 127
        region = canvas[y : y + bitmap.shape[0], x : x + bitmap.shape[1]]
        bitmap = bitmap[: region.shape[0], : region.shape[1]]
        inner = np.pad(bitmap, thickness)
        for _ in range(thickness):
            inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        outline = bitmap & ~inner[thickness:-thickness, thickness:-thickness]
        for row in range(0, len(region), ROWS):  # a mask may be as large as the largest image
            part, inside = region[row : row + ROWS], bitmap[row : row + ROWS]
            part[inside] = (0.62 * part[inside] + 0.38 * np.array(colour)).astype(np.uint8)
        region[outline] = colour
    return Image.fromarray(canvas)


def hatch(pen: ImageDraw.ImageDraw, rectangle: tuple[int, int, int, int], line: int, common: int) -> None:
    """Draw an ignored region: light diagonals, and light dashes on a dark frame, visible on any background."""
    x1, y1, x2, y2 = rectangle[0], rectangle[1], rectangle[2] - 1, rectangle[3] - 1
    step = 6 + 5 * common
    for start in range(x1 + y1 + step, x2 + y2, step):  # the diagonals x + y = start
        left, right = max(x1, start - y2), min(x2, start - y1)
        pen.line((left, start - left, right, start - right), fill=(255, 255, 255, 90), width=line)
    pen.rectangle((x1, y1, x2, y2), outline=(60, 60, 60), width=line)
    light, far = (225, 225, 225), line - 1
    for x in range(x1, x2 + 1, step):
        end = min(x + step // 2, x2)
        pen.rectangle((x, y1, end, min(y1 + far, y2)), fill=light)
        pen.rectangle((x, max(y2 - far, y1), end, y2), fill=light)
    for y in range(y1, y2 + 1, step):
        end = min(y + step // 2, y2)
        pen.rectangle((x1, y, min(x1 + far, x2), end), fill=light)
        pen.rectangle((max(x2 - far, x1), y, x2, end), fill=light)
