"""Masks in Pascal VOC's format: `SegmentationObject/NAME.png`, an indexed image that holds the object of each pixel.

The n-th `<object>` of the XML file has the index n, 0 is background, and 255 the unassigned border (VOC2012 development
kit, section "segmentation ground truth"); files of other than 8 bits have no such border.
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

from boxwright.data.image_io.decode import MAX_PIXELS, with_image
from boxwright.structures import CroppedMask
from boxwright.wording import counted
from boxwright.writing import writing

FOLDER = "SegmentationObject"
MOST_OBJECTS = 254
GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow's factor for grey values of few bits, by mode, which makes the highest value white."""


@dataclass(frozen=True, slots=True)
class ObjectPixels:
    """The pixels of one object in such a file, which is read when the mask is needed."""

    path: Path
    index: int

    def mask(self, hw: tuple[int, int]) -> CroppedMask:
        """The mask, cropped to its pixels. Raises ValueError for a file that is damaged or has another type or size."""
        try:
            state = self.path.stat()
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read") from error
        plane = indexed_pixels(self.path, state.st_mtime_ns, state.st_size)
        if plane.shape != tuple(hw):
            raise ValueError(f"{self.path} is {plane.shape[0]} x {plane.shape[1]}, the image {hw[0]} x {hw[1]}")
        if plane.dtype == np.uint8 and self.index > MOST_OBJECTS:  # 255 is unassigned
            return CroppedMask(0, 0, torch.zeros(0, 0, dtype=torch.bool))
        return CroppedMask(0, 0, torch.from_numpy(plane == self.index)).tight()


@lru_cache(maxsize=4)  # the objects of an image come one after the other; a file that was changed is read again
def indexed_pixels(path: Path, changed: int, size: int) -> npt.NDArray[Any]:
    """The numbers (H, W) that the pixels of an image hold; `changed` and `size` are those of the file.

    Raises ValueError for an image that holds colours, or that cannot be decoded.
    """
    mode, plane = with_image(path, MAX_PIXELS, _values)
    if mode not in ("P", "L", "I;16", "I"):
        raise ValueError(f"{path} is an image of mode {mode}, where each pixel should hold the number of an object")
    plane.setflags(write=False)
    return plane


def _values(image: Image.Image) -> tuple[str, npt.NDArray[Any]]:
    tiles: Any = getattr(image, "tile", None)  # how the file stores its pixels
    stored = tiles[0][3] if tiles else None
    return image.mode, np.array(image) // GREY_STEPS.get(str(stored), 1)


def write_object_pixels(path: Path, masks: Sequence[CroppedMask], hw: tuple[int, int]) -> None:
    """Write the masks of an image's objects, in the order of its XML file; a later one covers an earlier one."""
    if len(masks) > MOST_OBJECTS:
        raise ValueError(f"{path}: {counted(len(masks), 'object')}, and an indexed image holds {MOST_OBJECTS} masks")
    plane = torch.zeros(hw, dtype=torch.uint8)
    for number, mask in enumerate(masks, start=1):
        height, width = mask.bitmap.shape
        plane[mask.y : mask.y + height, mask.x : mask.x + width][mask.bitmap] = number
    image = Image.fromarray(plane.numpy()).convert("P")
    image.putpalette([part for index in range(256) for part in _colour(index)])
    with writing(path):
        image.save(path)


def _colour(index: int) -> tuple[int, int, int]:
    """VOC's colour of an index: its bits, in groups of three, from the highest bit of each colour down."""
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red |= (index & 1) << bit
        green |= (index >> 1 & 1) << bit
        blue |= (index >> 2 & 1) << bit
        index >>= 3
    return red, green, blue
