"""Masks in Pascal VOC's way: `SegmentationObject/NAME.png`, an indexed picture whose pixels say which object they show.

The n-th `<object>` of the XML file has the index n, 0 is background, and 255 the border that belongs to nobody
(VOC2012 development kit, section "segmentation ground truth").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from boxwright.ops.masks import encode_rle
from boxwright.structures import CroppedMask
from boxwright.writing import writing

FOLDER = "SegmentationObject"
MOST_OBJECTS = 254


@dataclass(frozen=True, slots=True)
class ObjectPixels:
    """The pixels of one object in such a picture; the file is read when the mask is needed."""

    path: Path
    index: int

    def run_lengths(self) -> dict[str, Any]:
        """As a COCO run-length dict. Raises ValueError, naming the file, where it is no indexed picture."""
        return encode_rle(torch.from_numpy(_indices(self.path) == self.index))


@lru_cache(maxsize=4)  # the objects of a picture come one after the other
def _indices(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(f"{path} has colours ({image.mode}) where each pixel should hold an object's number")
            return np.array(image)
    except OSError as error:
        raise ValueError(f"{path} cannot be read") from error


def write_object_pixels(path: Path, masks: Sequence[CroppedMask], hw: tuple[int, int]) -> None:
    """Write the masks of a picture's objects, in the order of its XML file; a later one covers an earlier one."""
    if len(masks) > MOST_OBJECTS:
        raise ValueError(f"{path}: {len(masks)} objects, and an indexed picture holds {MOST_OBJECTS} masks")
    plane = torch.zeros(hw, dtype=torch.uint8)
    for number, mask in enumerate(masks, start=1):
        height, width = mask.bitmap.shape
        plane[mask.y : mask.y + height, mask.x : mask.x + width][mask.bitmap] = number
    image = Image.fromarray(plane.numpy()).convert("P")
    image.putpalette([part for index in range(256) for part in _colour(index)])
    with writing(path):
        image.save(path)


def _colour(index: int) -> tuple[int, int, int]:
    """VOC's colour of an index: its bits, by threes, from the highest bit of each colour down."""
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red |= (index & 1) << bit
        green |= (index >> 1 & 1) << bit
        blue |= (index >> 2 & 1) << bit
        index >>= 3
    return red, green, blue
