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
    taken: list[tuple[int, int, int, int]] = []
    placed = [([(round(x), round(y)) for x, y in points], text) for points, text in borders]
    for corners, _ in placed:
        pen.line(corners, fill=INK, width=width + 2, joint="curve")
        pen.line(corners, fill=PAPER, width=width, joint="curve")
    for corners, text in placed:  # over all lines
        font = font_of(size, text.isascii())
        x = min(max(0, corners[0][0]), max(0, image.width - text_width(text, font) - 6))
        right, lowest = x + text_width(text, font) + 6, max(0, image.height - size - 6)
        wanted = min(max(0, corners[0][1] - size - 8), lowest)
        below, above = range(wanted, lowest + 1, size + 6), range(wanted, -1, -size - 6)
        beside = [(y1, y2) for x1, y1, x2, y2 in taken if x < x2 and x1 < right]
        free = (y for y in (*below, *above) if all(y >= y2 or y1 >= y + size + 6 for y1, y2 in beside))
        y = next(free, wanted)  # apart from the texts of other lines
        taken.append((x, y, right, y + size + 6))
        pen.rectangle((x, y, right, y + size + 5), fill=PAPER)
        pen.text((x + 3, y + 2), text, font=font, fill=INK)
    return image
