"""Images whose pixels hold numbers: that of an object (VOC, COCO panoptic), or that of a class (semantic maps).

An indexed or grey image holds the numbers themselves. In a colour image of COCO panoptic the number of a pixel is
R + 256 G + 256^2 B (Kirillov et al., "Panoptic segmentation", and panopticapi). Shape legend: H W = size of the image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from boxwright.data.image_io.decode import MAX_PIXELS, with_image
from boxwright.structures import CroppedMask
from boxwright.structures.classes import IGNORED

UNASSIGNED = 255
"""Of an image of 8 bits: no object (VOC)."""
GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow's factor for grey values of few bits, by mode, which makes the highest value white."""


@dataclass(frozen=True, slots=True)
class ObjectPixels:
    """The pixels of one object in such a file, which is read when the mask is needed."""

    path: Path
    index: int
    colours: bool = False

    def mask(self, hw: tuple[int, int]) -> CroppedMask:
        """The mask, cropped to its pixels. Raises ValueError for a file that is damaged or has another type or size."""
        plane = pixels_of_size(self.path, hw, colours=self.colours)
        if plane.dtype == np.uint8 and self.index >= UNASSIGNED:
            return CroppedMask(0, 0, torch.zeros(0, 0, dtype=torch.bool))
        return CroppedMask(0, 0, torch.from_numpy(plane == self.index)).tight()


@dataclass(frozen=True, slots=True)
class LabelPixels:
    """The labels of the pixels of such a file, which is read when they are needed.

    `label_of` are pairs of a number in the file and its label, which is 255 for one that counts for nothing; any other
    number is of label 255 too.
    """

    path: Path
    label_of: tuple[tuple[int, int], ...]
    colours: bool = False

    def relabelled(self, mapping: Sequence[int]) -> LabelPixels:
        """The same file with another label for each label, 255 for one that is left out."""
        pairs = ((number, mapping[label] if label != IGNORED else IGNORED) for number, label in self.label_of)
        return replace(self, label_of=tuple(pairs))

    def without(self, numbers: Collection[int]) -> LabelPixels:
        """The same file with pixels of these numbers of no label."""
        pairs = ((number, IGNORED if number in numbers else label) for number, label in self.label_of)
        return replace(self, label_of=tuple(pairs))

    def labels(self, hw: tuple[int, int]) -> Tensor:
        """The labels (H, W) uint8. Raises ValueError for a file that is damaged or has another type or size."""
        plane = pixels_of_size(self.path, hw, colours=self.colours)
        pairs = np.array(sorted(self.label_of), dtype=np.int64).reshape(-1, 2)
        if plane.dtype == np.uint8:
            table = np.full(256, IGNORED, dtype=np.uint8)
            small = pairs[(pairs[:, 0] >= 0) & (pairs[:, 0] < 256)]
            table[small[:, 0]] = small[:, 1]
            return torch.from_numpy(table[plane])
        place = np.searchsorted(pairs[:, 0], plane).clip(max=max(0, len(pairs) - 1))
        if not len(pairs):
            return torch.full(hw, IGNORED, dtype=torch.uint8)
        found = np.where(pairs[place, 0] == plane, pairs[place, 1], IGNORED)
        return torch.from_numpy(found.astype(np.uint8))


def pixels_of_size(path: Path, hw: tuple[int, int], *, colours: bool) -> npt.NDArray[Any]:
    """The numbers (H, W) of a file, which is to have the size of its image; ValueError where it has not."""
    plane = numbered_pixels(path, colours=colours)
    if plane.shape != tuple(hw):
        raise ValueError(f"{path} is {plane.shape[0]} x {plane.shape[1]}, the image {hw[0]} x {hw[1]}")
    return plane


def numbered_pixels(path: Path, *, colours: bool = False) -> npt.NDArray[Any]:
    """The numbers (H, W) that the pixels of an image hold, as they are in the file now.

    Raises ValueError for an image of another kind than asked for, or that is missing or cannot be decoded.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read") from error
    return _kept_pixels(path, colours, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)  # the objects of an image come one after the other; a file that was changed is read again
def _kept_pixels(path: Path, colours: bool, changed: int, size: int) -> npt.NDArray[Any]:
    mode, plane = with_image(path, MAX_PIXELS, _coloured if colours else _values)
    if colours and mode not in ("RGB", "RGBA"):
        raise ValueError(f"{path} is an image of mode {mode}, expected colours that are the numbers of segments")
    if not colours and mode not in ("P", "L", "I;16", "I"):
        raise ValueError(f"{path} is an image of mode {mode}, where each pixel should hold the number of an object")
    plane.setflags(write=False)
    return plane


def _values(image: Image.Image) -> tuple[str, npt.NDArray[Any]]:
    tiles: Any = getattr(image, "tile", None)  # how the file stores its pixels
    stored = tiles[0][3] if tiles else None
    return image.mode, np.array(image) // GREY_STEPS.get(str(stored), 1)


def _coloured(image: Image.Image) -> tuple[str, npt.NDArray[Any]]:
    """R + 256 G + 256^2 B of each pixel."""
    if image.mode not in ("RGB", "RGBA"):
        return image.mode, np.zeros((0, 0), dtype=np.int32)
    planes = np.array(image).astype(np.int32)
    return image.mode, planes[..., 0] + (planes[..., 1] << 8) + (planes[..., 2] << 16)
