"""One image of whatever kind that a user gives, a path, a PIL image, an array or a tensor, as pixels (3, H, W)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.data.image_io.decode import ReadImage, pixels_of_image, read_with_note
from boxwright.data.image_io.value_range import ValueRange

ImageLike: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"


def read_any_image(image: ImageLike, value_range: ValueRange = "auto") -> ReadImage:
    """One image as (3, H, W) uint8 or float in [0, 1], and what is amiss with it."""
    if isinstance(image, (str, Path)):
        return read_with_note(image, value_range=value_range)
    if isinstance(image, Image.Image):
        found = pixels_of_image(image, value_range)
        return found._replace(pixels=found.pixels.contiguous())
    return ReadImage(_given_pixels(image))


def _given_pixels(image: np.ndarray[Any, Any] | Tensor) -> Tensor:
    if isinstance(image, Tensor):
        pixels = image.cpu()  # it is resized and put into a batch with others there
    else:
        array = np.ascontiguousarray(image)
        if not array.flags.writeable:  # as PIL's own arrays are; torch would warn
            array = array.copy()
        if array.ndim == 2:
            array = np.repeat(array[:, :, None], 3, axis=2)
        if array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"array: expected (H, W, 3) RGB or (H, W), got {array.shape}")
        pixels = torch.from_numpy(array).permute(2, 0, 1)
    if pixels.dim() != 3 or pixels.shape[0] != 3:
        raise ValueError(f"tensor: expected (3, H, W) RGB, got {tuple(pixels.shape)}")
    if pixels.dtype == torch.uint8:
        return pixels.contiguous()
    if not pixels.is_floating_point():
        raise ValueError(f"pixels: expected uint8, or float in [0, 1], got {pixels.dtype}")
    if pixels.numel() and not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):  # so also where one is NaN
        raise ValueError(
            f"float pixels: expected [0, 1], got [{float(pixels.min()):.4g}, {float(pixels.max()):.4g}]; "
            f"give uint8 for 0 to 255, and do not normalise: the model does"
        )
    return pixels.float().contiguous()
