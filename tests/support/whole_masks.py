"""Masks as planes of whole images, with which tests compare the cropped ones of the library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from boxwright.ops.masks import rasterise_cropped
from boxwright.structures import CroppedMask


def decode_rle(counts: str | bytes | Sequence[int], size_hw: tuple[int, int]) -> Tensor:
    """The mask (H, W) bool of a COCO run-length code, compressed (text) or plain (numbers)."""
    return whole(CroppedMask.decoded({"size": list(size_hw), "counts": counts}, None), size_hw)


def rasterise_polygons(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> Tensor:
    """The union (H, W) bool of polygons given as flat x, y lists in pixels."""
    return whole(CroppedMask(*rasterise_cropped(polygons, size_hw)), size_hw)


def whole(mask: CroppedMask, size_hw: tuple[int, int]) -> Tensor:
    """A cropped mask as a plane (H, W) bool."""
    plane = torch.zeros(size_hw, dtype=torch.bool)
    mask.draw(plane)
    return plane
