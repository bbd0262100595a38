"""Semantic and panoptic maps as images for other programs: the value of a pixel is its label, or its segment's id."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from boxwright.visualize.drawing import class_colour


def semantic_image(labels: Tensor) -> Image.Image:
    """An image with a palette whose pixels are the labels (H, W) uint8 of a semantic map; 255, unseen, is black."""
    image = Image.fromarray(labels.cpu().numpy())
    image.putpalette([*(part for label in range(255) for part in class_colour(label)), 0, 0, 0])
    return image


def panoptic_image(ids: Tensor) -> Image.Image:
    """A colour image of a map (H, W) of segment ids as COCO has it: id = red + 256 green + 65536 blue.

    >>> import torch
    >>> panoptic_image(torch.tensor([[0, 258]])).getpixel((1, 0))
    (2, 1, 0)
    """
    plane = ids.cpu().numpy().astype(np.uint32)
    return Image.fromarray(np.stack([plane % 256, plane // 256 % 256, plane // 65536], axis=-1).astype(np.uint8))


def png_bytes(image: Image.Image) -> bytes:
    """The bytes of an image as a PNG file."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
