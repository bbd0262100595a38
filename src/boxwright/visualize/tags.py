"""Label tags: objects as they are drawn, their texts, and a place for each text that hides least."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from boxwright.visualize.colours import IGNORED_COLOUR, Colour, class_colour, text_colour

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle: TypeAlias = tuple[int, int, int, int]

FEW_OBJECTS = 10
MOST_HIDDEN = 0.5  # of an object, by a tag


@cache
def font_of(size: int, ascii_only: bool) -> Font:
    """Pillow's built-in font; it knows ASCII only, so other names take the DejaVu Sans that matplotlib carries."""
    matplotlib = None if ascii_only else importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.submodule_search_locations:
        path = Path(matplotlib.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def text_width(text: str, font: Font) -> int:
    """Width of a text in pixels."""
    return round(font.getlength(text))


def shortened(text: str, font: Font, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if text_width(text, font) <= width:
        return text
    while text and text_width(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


@dataclass(frozen=True, slots=True)
class Item:
    """One object to draw: its rectangle in output pixels, its class, and its tag text, long and short."""

    rectangle: Rectangle
    label: int
    ignored: bool
    texts: tuple[str, str]
    index: int

    @property
    def area(self) -> int:
        """Area in output pixels."""
        return (self.rectangle[2] - self.rectangle[0]) * (self.rectangle[3] - self.rectangle[1])

    @property
    def colour(self) -> Colour:
        """Colour of the class, or grey where ignored."""
        return IGNORED_COLOUR if self.ignored else class_colour(self.label)


def draw_tags(picture: Image.Image, items: Sequence[Item]) -> None:
    """Draw the tags, each where it covers no other tag and hides least of the objects.

    Where it finds no such place it gets shorter, then it is left out; in a crowd it may not be wider than its box
    either. But every class has at least one tag, and among few objects each has its own.
    """
    width, height = picture.size
    font_size = max(10, round(0.013 * math.sqrt(width * height)) + 5)
    plain = all(text.isascii() for item in items for text in item.texts)
    font = font_of(font_size, plain)
    top, bottom = font.getbbox("Ag0" if plain else "ÅÉ")[1], font.getbbox("gj")[3]
    margin = max(2, font_size // 6)
    tag_height = round(bottom - top) + margin
    tag_widths = {text: text_width(text, font) + 2 * margin for item in items for text in item.texts}
    crowded = sum(tag_widths[item.texts[0]] for item in items) * tag_height > 0.1 * width * height
    room = Room(picture.size, max(1, tag_height // 4), items)
    named: set[tuple[int, bool]] = set()
    pen = ImageDraw.Draw(picture)
    for item in items:
        widest = item.rectangle[2] - item.rectangle[0] if crowded else width
        spot = None
        for text in item.texts:
            if tag_widths[text] <= widest:
                spot = room.place(item.rectangle, (tag_widths[text], tag_height))
            if spot is not None:
                break
        if spot is None and (len(items) <= FEW_OBJECTS or (item.label, item.ignored) not in named):
            text = shortened(item.texts[1 if crowded else 0], font, width - 2 * margin)
            spot = room.place(item.rectangle, (text_width(text, font) + 2 * margin, tag_height), must=True)
        if spot is None:
            continue
        named.add((item.label, item.ignored))
        x, y = spot
        right = x + text_width(text, font) + 2 * margin - 1
        pen.rectangle((x, y, right, y + tag_height - 1), fill=item.colour)
        pen.text((x + margin, y + (margin + 1) // 2 - top), text, font=font, fill=text_colour(item.colour))


class Room:
    """Where tags already lie, pixel by pixel, and how much of the objects a tag would hide, cell by cell."""

    def __init__(self, size: tuple[int, int], cell: int, items: Sequence[Item]) -> None:
        self.width, self.height, self.cell = *size, cell
        self.taken = np.zeros((self.height, self.width), dtype=np.bool_)
        self.objects = np.zeros((self.height // cell + 1, self.width // cell + 1), dtype=np.float32)
        for item in items:
            region = self.objects[self._cells(item.rectangle)]
            region += 1 / region.size

    def _cells(self, rectangle: Rectangle) -> tuple[slice, slice]:
        x1, y1, x2, y2 = rectangle
        return slice(y1 // self.cell, (y2 - 1) // self.cell + 1), slice(x1 // self.cell, (x2 - 1) // self.cell + 1)

    def place(self, rectangle: Rectangle, tag: tuple[int, int], *, must: bool = False) -> tuple[int, int] | None:
        """Left and top of a free place at a box for a tag (width, height), which is then taken.

        Among the places at the four corners, outside and inside, moved into the picture where they leave it, the one
        that hides least wins; earlier ones a little preferred. With `must` a tag may cover others, as little as can be.
        """
        (x1, y1, x2, y2), (width, height) = rectangle, tag
        right, lowest = max(0, self.width - width), max(0, self.height - height)
        best, least = None, math.inf
        corners = ((x1, y1 - height), (x2 - width, y1 - height), (x1, y1), (x2 - width, y1),
                   (x1, y2), (x2 - width, y2), (x1, y2 - height), (x2 - width, y2 - height))  # fmt: skip
        for order, (x, y) in enumerate(corners):
            x, y = min(max(x, 0), right), min(max(y, 0), lowest)
            covered = int(np.count_nonzero(self.taken[y : y + height, x : x + width]))
            hidden = float(self.objects[self._cells((x, y, x + width, y + height))].sum())
            if (covered or hidden > MOST_HIDDEN) and not must:
                continue
            cost = 0.04 * order + hidden + 10 * covered / (width * height)
            if cost < least:
                best, least = (x, y), cost
        if best is not None:
            self.taken[best[1] : best[1] + height, best[0] : best[0] + width] = True
        return best
