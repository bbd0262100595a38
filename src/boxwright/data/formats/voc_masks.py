"""Masks in Pascal VOC's format: `SegmentationObject/NAME.png`, an indexed image that holds the object of each pixel.

The n-th `<object>` of the XML file has the index n, 0 is background, and 255 the unassigned border (VOC2012 development
kit, section "segmentation ground truth"); files of other than 8 bits have no such border. `numbered_pixels` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from boxwright.structures import CroppedMask
from boxwright.wording import counted
from boxwright.writing import writing

FOLDER = "SegmentationObject"
MOST_OBJECTS = 254


def write_object_pixels(path: Path, masks: Sequence[CroppedMask], hw: tuple[int, int]) -> None:
    """Write the masks of an image's objects, in the order of its XML file; a later one covers an earlier one."""
    if len(masks) > MOST_OBJECTS:
        raise ValueError(f"{path}: {counted(len(masks), 'object')}, and an indexed image holds {MOST_OBJECTS} masks")
    plane = torch.zeros(hw, dtype=torch.uint8)
    for number, mask in enumerate(masks, start=1):
        height, width = mask.bitmap.shape
        plane[mask.y : mask.y + height, mask.x : mask.x + width][mask.bitmap] = number
    image = Image.fromarray(plane.numpy()).convert("P")
    image.putpalette([part for index in range(256) for part in colour_of_index(index)])
    with writing(path):
        image.save(path)


def colour_of_index(index: int) -> tuple[int, int, int]:
    """VOC's colour of an index: its bits, in groups of three, from the highest bit of each colour down."""
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red |= (index & 1) << bit
        green |= (index >> 1 & 1) << bit
        blue |= (index >> 2 & 1) << bit
        index >>= 3
    return red, green, blue
