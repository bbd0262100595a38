"""Masks as an image for other programs: the value of a pixel is the number of its object."""

from __future__ import annotations

import numpy as np
from PIL import Image

from boxwright.visualize.drawing import class_colour
from boxwright.visualize.objects import Masked

MOST_INDEXED = 255


def mask_image(found: Masked) -> Image.Image:
    """An image of the original size whose pixels are 0 for background and n + 1 for detection n.

    Where masks overlap the better detection is on top. With up to 255 objects it has a palette (each object in the
    colour of its class), with more it is a grey image of 16 bits. Raises ValueError where there are no masks.
    """
    count = len(found.labels)
    plane = np.zeros(found.size_hw, dtype=np.uint8 if count <= MOST_INDEXED else np.uint16)
    for index in reversed(range(count)):
        x, y, bitmap = found.mask(index)
        height, width = bitmap.shape
        plane[y : y + height, x : x + width][bitmap.cpu().numpy().astype(bool)] = index + 1
    image = Image.fromarray(plane)
    if count <= MOST_INDEXED:
        image.putpalette([0, 0, 0, *(part for label in found.labels.tolist() for part in class_colour(label))])
    return image
