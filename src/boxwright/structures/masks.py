"""One object's mask, kept only where the object is, and how it is written and read as COCO does."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.ops.masks import encode_cropped, rasterise_cropped
from boxwright.ops.run_lengths import decode_cropped
from boxwright.reading.values import polygons, whole_number

MOST_PIXELS = 200_000_000
"""Of an image whose size is known from a mask alone."""


class CroppedMask(NamedTuple):
    """One object's mask, kept only where the object is: `bitmap` (h, w) bool with its corner at column x, row y.

    An empty mask, such as that of a polygon that covers no pixel, has no pixel; see `unknown` for a mask not drawn.
    """

    x: int
    y: int
    bitmap: Tensor

    @classmethod
    def unknown(cls, x: int = 0, y: int = 0) -> CroppedMask:
        """What stands for the mask of an object that has none: one pixel that is not set."""
        return cls(x, y, torch.zeros(1, 1, dtype=torch.bool))

    @property
    def known(self) -> bool:
        """Whether somebody drew this mask, be it empty."""
        return tuple(self.bitmap.shape) != (1, 1) or bool(self.bitmap)

    @classmethod
    def decoded(cls, segmentation: Any, size_hw: tuple[int, int] | None) -> CroppedMask:
        """A COCO segmentation (run-length code, or polygons as flat lists of x, y), tight around its pixels.

        Without a size that of a run-length code holds. Raises ValueError (or TypeError, KeyError, IndexError,
        OverflowError, where it is no segmentation at all) for one that is damaged or of an image of another size.
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
        outlines = polygons(segmentation) or raw  # what is wrong with it is said where it is drawn
        return cls(*rasterise_cropped(outlines, size_hw)).tight()

    def draw(self, plane: Tensor) -> None:
        """Set this mask's part of a plane (H, W), in place."""
        height, width = self.bitmap.shape
        plane[self.y : self.y + height, self.x : self.x + width] = self.bitmap

    def encoded(self, size_hw: tuple[int, int]) -> dict[str, Any]:
        """The COCO run-length code of the mask on an image of that size."""
        return encode_cropped(self.bitmap, self.x, self.y, size_hw)

    def tight(self) -> CroppedMask:
        """The same mask without empty rows and columns around it; (0, 0) bool where nothing is set."""
        rows, columns = self.bitmap.any(1).nonzero().flatten(), self.bitmap.any(0).nonzero().flatten()
        if not len(rows):
            return CroppedMask(self.x, self.y, self.bitmap[:0, :0])
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        return CroppedMask(self.x + left, self.y + top, self.bitmap[top:bottom, left:right].clone())
