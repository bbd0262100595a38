"""Truncated JPEG files: read with a note if little is missing, as other tools do, and refused if much is.

The missing part of a JPEG with one scan decodes to blocks of middle grey, from the cut to the end of the image. A
progressive JPEG holds the whole image several times, with increasing detail; if its last refinement has begun, only
part of the finest detail can be missing, and how far that scan got tells how many bytes are missing.
"""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from boxwright.data.image_io.file_types import open_image

MOST_MISSING = 0.1
"""Fraction of an image (of its bytes, if it is progressive) that may be missing at its end."""
_END = b"\xff\xd9"
_GREY = (127, 128)  # a block without coefficients; 127 where the file stores its colours inverted
_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_SCAN = 0xDA


class Scan(NamedTuple):
    """One scan of the image: where it starts in the file, its components, its coefficients, whether it refines earlier
    scans, and the last bit that it contains.
    """

    start: int

    components: tuple[int, ...]
    first: int
    last: int
    refines: bool
    low_bit: int


def completed(data: bytes) -> tuple[Image.Image, str]:
    """The decoded image of a truncated JPEG file, and a description of what is missing.

    Raises ValueError if more than `MOST_MISSING` of it is missing, or if that cannot be known.
    """
    frame, components, scans = _structure(data)
    if frame in _BASELINE and len(scans) == 1 and len(scans[0].components) == components:
        share = _grey_share(data + _END)
        if share > MOST_MISSING:
            raise ValueError(f"{share:.0%} of the JPEG is missing at its end, more than {MOST_MISSING:.0%}")
        what = f"{max(share, 0.001):.1%} of the image (now grey)" if share else "less than one block of the image"
    elif frame == _PROGRESSIVE and scans and scans[-1].refines and _all_begun(scans, components):
        share = _unrefined_share(data, scans[-1].start)
        if share > MOST_MISSING:
            raise ValueError(f"about {share:.0%} of the JPEG is missing at its end, more than {MOST_MISSING:.0%}")
        what = "a part of its finest detail"
    else:
        raise ValueError("the JPEG is cut short, and whole scans of the image may be missing")
    image = open_image(BytesIO(data + _END))
    image.load()
    return image, f"the JPEG is cut short: {what} is missing at its end; copy it again if you can"


def _structure(data: bytes) -> tuple[int, int, list[Scan]]:
    """The kind of a JPEG's frame, its number of components, and the scans that have begun."""
    frame = components = 0
    scans: list[Scan] = []
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in _BARE:  # a byte of the image, padding, or a restart marker
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        part = data[at + 4 : at + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(part) >= 6:
            frame, components = marker, part[5]
        elif marker == _SCAN and part and len(part) == 4 + 2 * part[0]:
            first, last, bits = part[-3:]
            scans.append(Scan(at, tuple(part[1:-3:2]), first, last, bits >> 4 > 0, bits & 15))
        at += 2 + length
    return frame, components, scans


def _all_begun(scans: list[Scan], components: int) -> bool:
    """Whether every coefficient of every component has been begun down to its last bit."""
    finest: dict[tuple[int, int], int] = {}
    for scan in scans:
        for component in scan.components:
            finest |= {(component, at): scan.low_bit for at in range(scan.first, scan.last + 1)}
    return len(finest) == 64 * components and not any(finest.values())


def _grey_share(data: bytes) -> float:
    """Fraction of the cells of 16 x 16 pixels, row by row from the end, that are uniformly middle grey."""
    image = open_image(BytesIO(data))
    image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))  # one pixel per block of 8 x 8
    values = np.asarray(image)
    grey = np.isin(values, _GREY).reshape(*values.shape[:2], -1).all(axis=2)
    height, width = grey.shape
    padded = np.pad(grey, ((0, height % 2), (0, width % 2)), mode="edge")
    cells = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).all(axis=(1, 3)).ravel()
    kept = np.flatnonzero(~cells)
    return float(1 - (kept[-1] + 1) / len(cells)) if len(kept) else 1.0


def _unrefined_share(data: bytes, start: int) -> float:
    """Fraction of a file's bytes that is missing, from how far its last scan, which starts at `start`, got."""
    for tail in (16, 128, 1024):
        if tail < len(data) - start and (place := _first_difference(data + _END, data[:-tail] + _END)) is not None:
            missing = (len(data) - start) * (1 - place) / max(place, 1e-6)
            return missing / (len(data) + missing)
    return 1.0 if len(data) - start <= 16 else 0.0


def _first_difference(one: bytes, other: bytes) -> float | None:
    """The first cell of 16 x 16 pixels in which two files differ, as a fraction of all, row by row; None if in none."""
    first, second = open_image(BytesIO(one)), open_image(BytesIO(other))
    width, height = first.size
    rows, columns = -(-height // 16), -(-width // 16)
    for row in range(rows):
        box = (0, 16 * row, width, min(height, 16 * row + 16))
        a, b = np.asarray(first.crop(box)), np.asarray(second.crop(box))
        different = np.flatnonzero((a != b).reshape(*a.shape[:2], -1).any(axis=(0, 2)))
        if len(different):
            return float(row * columns + different[0] // 16) / (rows * columns)
    return None
