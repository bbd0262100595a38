"""The mask of one object, cropped to the object, and its COCO encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.ops.masks import encode_cropped, rasterise_cropped
from boxwright.ops.run_lengths import decode_cropped
from boxwright.reading.values import polygons, whole_number

MOST_PIXELS = 200_000_000
"""Of an image whose size is known from a mask alone."""


class CroppedMask(NamedTuple):
    """The mask of one object, cropped to it: `bitmap` (h, w) bool with its corner at column x, row y.

    An empty mask, such as that of a polygon that covers no pixel, has no pixels; a missing one is `unknown`.
    """

    x: int
    y: int
    bitmap: Tensor

    @classmethod
    def unknown(cls, x: int = 0, y: int = 0) -> CroppedMask:
        """The placeholder for the mask of an object that has none: one pixel that is not set."""
        return cls(x, y, torch.zeros(1, 1, dtype=torch.bool))

    @property
    def known(self) -> bool:
        """Whether this mask was annotated, even if it is empty."""
        return tuple(self.bitmap.shape) != (1, 1) or bool(self.bitmap)

    @classmethod
    def decoded(cls, segmentation: Any, size_hw: tuple[int, int] | None) -> CroppedMask:
        """The mask of a COCO segmentation (a run-length code, or polygons as flat lists of x, y), tightly cropped.

        Without `size_hw` the size in a run-length code is used. Raises ValueError (or TypeError, KeyError, IndexError,
        OverflowError, where it is not a segmentation) for one that is damaged or of an image of another size.
        """
        if isinstance(segmentation, dict):
            height, width = (whole_number(side) for side in segmentation["size"])
            if height is None or width is None:
                raise ValueError(f"its size is {segmentation['size']!r:.60}, expected [height, width] in pixels")
            if size_hw is not None and (height, width) != tuple(size_hw):
                raise ValueError(f"it is {height} x {width}, the image {size_hw[0]} x {size_hw[1]}")
            if height * width > MOST_PIXELS:
                raise ValueError(f"it is {height} x {width}, more than the limit of {MOST_PIXELS} pixels")
            x, y, bitmap = decode_cropped(segmentation["counts"], (height, width))
            return cls(x, y, torch.from_numpy(bitmap.copy())).tight()
        if size_hw is None:
            raise ValueError("it is polygons, and the size of the image is not known")
        raw = [segmentation] if isinstance(segmentation[0], int | float) else segmentation
        outlines = polygons(segmentation) or raw  # errors are reported by the rasteriser
        return cls(*rasterise_cropped(outlines, size_hw)).tight()

    def draw(self, plane: Tensor) -> None:
        """Write this mask into a plane (H, W) of the image, in place."""
        height, width = self.bitmap.shape
        plane[self.y : self.y + height, self.x : self.x + width] = self.bitmap

    def encoded(self, size_hw: tuple[int, int]) -> dict[str, Any]:
        """The COCO run-length code of the mask in an image of this size."""
        return encode_cropped(self.bitmap, self.x, self.y, size_hw)

    def tight(self) -> CroppedMask:
        """The same mask without empty rows and columns around it; (0, 0) bool where nothing is set."""
        rows, columns = self.bitmap.any(1).nonzero().flatten(), self.bitmap.any(0).nonzero().flatten()
        if not len(rows):
            return CroppedMask(self.x, self.y, self.bitmap[:0, :0])
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        return CroppedMask(self.x + left, self.y + top, self.bitmap[top:bottom, left:right].clone())


def whole_planes(masks: Sequence[CroppedMask], size_hw: tuple[int, int]) -> Tensor:
    """Cropped masks of an image as masks of its size, (D, H, W) bool."""
    planes = torch.zeros(len(masks), *size_hw, dtype=torch.bool)
    for plane, mask in zip(planes, masks, strict=True):
        mask.draw(plane)
    return planes
