"""Several images in one: contact sheets, and images side by side with titles."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from boxwright.visualize.drawing import PAPER, font_of, shortened
from boxwright.writing import printable


def contact_sheet(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Images in rows on white, each centred in a cell of the largest size; by default about as many rows as columns."""
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    columns = columns or math.ceil(math.sqrt(len(images)))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell_width, cell_height = max(i.width for i in images), max(i.height for i in images)
    gap = max(2, round(0.01 * max(cell_width, cell_height)))
    sheet = Image.new("RGB", (columns * (cell_width + gap) + gap, rows * (cell_height + gap) + gap), PAPER)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x = gap + column * (cell_width + gap) + (cell_width - image.width) // 2
        y = gap + row * (cell_height + gap) + (cell_height - image.height) // 2
        sheet.paste(image, (x, y))
    return sheet


def side_by_side(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Images in one row, each below its title."""
    if len(images) != len(titles):
        raise ValueError(f"{len(images)} images but {len(titles)} titles")
    return contact_sheet([titled(image, title) for image, title in zip(images, titles, strict=True)], len(images))


def titled(image: Image.Image, title: str) -> Image.Image:
    """An image below a white strip with its title, shortened with an ellipsis where it is too long."""
    title = printable(title)
    font_size = max(11, round(0.02 * math.sqrt(image.width * image.height)) + 5)
    font = font_of(font_size, title.isascii())
    strip = round(1.6 * font_size)
    sheet = Image.new("RGB", (image.width, image.height + strip), PAPER)
    sheet.paste(image, (0, strip))
    text = shortened(title, font, image.width - 4)
    ImageDraw.Draw(sheet).text((image.width / 2, strip / 2), text, font=font, fill=(20, 20, 20), anchor="mm")
    return sheet
