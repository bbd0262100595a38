"""Rotated boxes as outlines, with a tick where the first edge is, which tells a box from the same one turned over."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from boxwright.ops.rotated import rotated_corners

Colour = tuple[int, int, int]
_TICK = 0.15
"""Of the side h: how far the tick reaches out of the middle of the first edge."""


def draw_rotated(
    image: Image.Image, objects: Sequence[tuple[Tensor, Colour]], scale: float, width: int
) -> None:  # fmt: skip
    """Draw rotated boxes (5,), each in its colour, in place.

    `scale` is how many times as large the drawing is as the image of the boxes, `width` that of a line.
    """
    pen = ImageDraw.Draw(image, "RGBA")
    for box, colour in objects:
        corners = (rotated_corners(box.detach().cpu().double()) * scale).tolist()
        shorter = float(box[2:4].min()) * scale
        line = min(width, max(1, round(shorter / 12)))
        ring = [(x, y) for x, y in [*corners, corners[0]]]
        if line > 1:  # a dark seam keeps the line apart from ground of its own colour
            pen.line(ring, fill=(0, 0, 0, 110), width=line + 2, joint="curve")
        pen.line(ring, fill=colour, width=line, joint="curve")
        (x1, y1), (x2, y2), (x3, y3), _ = corners
        middle = ((x1 + x2) / 2, (y1 + y2) / 2)
        out = (middle[0] + _TICK * (x2 - x3), middle[1] + _TICK * (y2 - y3))
        pen.line([middle, out], fill=colour, width=line)
