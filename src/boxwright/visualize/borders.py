"""Lines and zones drawn on an image, each with a text such as what has crossed it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw

from boxwright.visualize.drawing import font_of, text_width

Polyline: TypeAlias = Sequence[tuple[float, float]]
INK, PAPER = (20, 20, 20), (255, 225, 60)


def draw_borders(image: Image.Image, borders: Iterable[tuple[Polyline, str]]) -> Image.Image:
    """The same image, drawn on: lines between points, each line or polygon (closed) with a text at its first point.

    Args:
        image: RGB; changed in place.
        borders: points (x, y) in pixels, the first one again at the end where it is a polygon, and the text.
    """
    pen = ImageDraw.Draw(image)
    width = max(2, round((image.width * image.height) ** 0.5 / 200))
    size = max(10, 7 * width)
    for points, text in borders:
        corners = [(round(x), round(y)) for x, y in points]
        pen.line(corners, fill=INK, width=width + 2, joint="curve")
        pen.line(corners, fill=PAPER, width=width, joint="curve")
        font = font_of(size, text.isascii())
        x = min(max(0, corners[0][0]), max(0, image.width - text_width(text, font) - 6))
        y = min(max(0, corners[0][1] - size - 8), max(0, image.height - size - 6))
        pen.rectangle((x, y, x + text_width(text, font) + 6, y + size + 5), fill=PAPER)
        pen.text((x + 3, y + 2), text, font=font, fill=INK)
    return image
