"""An image with boxes as inline SVG: the pixels are a small JPEG inside the page, the boxes stay sharp at any size."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from boxwright.writing import printable

LONGEST = 560
"""Pixels of the longer side of an embedded image."""
QUALITY = 78


@dataclass(frozen=True, slots=True)
class Mark:
    """A box x1, y1, x2, y2 in pixels of the image, its style (a class of the style sheet), and its tag, if any."""

    box: tuple[float, float, float, float]
    style: str
    text: str = ""
    dim: bool = False
    """Whether it is drawn thinner, as what the image is not shown for."""
    rotated: Sequence[float] | None = None
    """The rotated box (`ops.rotated`) that is drawn, if `box` is only its hull."""


class SmallImage(NamedTuple):
    """An image as it lies in the page, a data URI, and the size that it had before: boxes are in those pixels."""

    uri: str
    height: int
    width: int


def small_image(image: Tensor) -> SmallImage:
    """An image (3, H, W) uint8 for the page."""
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    return SmallImage(embedded(pixels), pixels.height, pixels.width)


def marked_image(image: SmallImage, marks: Sequence[Mark], alt: str) -> str:
    """An image with boxes as HTML; `alt` is what a screen reader says of it."""
    uri, height, width = image
    size = max(width, height) / 26  # of the tags, in pixels of the image
    parts = [f'<image href="{uri}" width="{width}" height="{height}"/>']
    for mark in marks:
        place = _place(mark)
        dim = " dim" if mark.dim else ""
        parts.append(f'<rect class="casing{dim}" {place}/><rect class="{mark.style}{dim}" {place}/>')
    for mark in marks:
        if mark.text:
            text = printable(mark.text)
            x = min(max(mark.box[0], 0), max(0, width - 0.56 * size * len(text)))
            y = mark.box[1] - 0.25 * size
            y = y if y > 0.9 * size else min(mark.box[3] + 0.95 * size, height - 0.2 * size)
            parts.append(
                f'<text class="{mark.style}" x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" '
                f'stroke-width="{size / 5:.1f}">{escape(text)}</text>'
            )
    label = escape(printable(alt))
    return f'<svg class="image" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _place(mark: Mark) -> str:
    """Where the rectangle of a box lies, as attributes; SVG turns clockwise, rotated boxes the other way."""
    x1, y1, x2, y2 = mark.box
    turn = ""
    if mark.rotated is not None:
        x, y, width, height, degrees = mark.rotated
        x1, y1, x2, y2 = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        turn = f' transform="rotate({-degrees:.1f} {x:.1f} {y:.1f})"'
    return f'x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 0):.1f}" height="{max(y2 - y1, 0):.1f}"{turn}'


def embedded(image: Image.Image, longest: int = LONGEST) -> str:
    """An image as a data URI, its longer side at most `longest` pixels."""
    small = image.convert("RGB")
    small.thumbnail((longest, longest))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
