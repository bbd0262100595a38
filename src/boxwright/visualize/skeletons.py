"""Skeletons: the keypoints of objects as dots, with lines between those that belong together."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

SHOWN = 0.05
"""Score above which a predicted keypoint is drawn (Detectron2's `keypoint_threshold`); annotated ones have 1 or 2."""


def keypoint_colour(index: int, count: int) -> tuple[int, int, int]:
    """The colour of keypoint `index` of `count`: around the colour circle, so that left and right differ."""
    red, green, blue = colorsys.hsv_to_rgb(0.85 * index / max(count, 1), 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_keypoints(
    image: Image.Image, objects: Sequence[Tensor], lines: Sequence[tuple[int, int]], scale: float, width: int
) -> None:
    """Draw the keypoints (P, 3) x, y, score of each object in place; `lines` are pairs of keypoints to join.

    `scale` is how many times as large the drawing is as the image of the keypoints, `width` that of a line. A dot has a
    dark rim, so that it is seen on any background; a hidden keypoint (visibility 1) is drawn like a visible one.
    """
    pen = ImageDraw.Draw(image)
    for keypoints in objects:
        points = keypoints.detach().cpu().tolist()
        places = [(x * scale, y * scale) if shown > SHOWN else None for x, y, shown in points]
        for start, end in lines:
            first, second = places[start], places[end]
            if first is not None and second is not None:
                pen.line((*first, *second), fill=(20, 20, 20), width=width + 2)
                pen.line((*first, *second), fill=keypoint_colour(end, len(places)), width=width)
        radius = width + 1
        for index, place in enumerate(places):
            if place is not None:
                x, y = place
                around = (x - radius, y - radius, x + radius, y + radius)
                pen.ellipse(around, fill=keypoint_colour(index, len(places)), outline=(20, 20, 20))
