"""Writing the PNG files of COCO panoptic: the colour of a pixel is the id of its segment, R + 256 G + 256^2 B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from boxwright.data.formats.voc_masks import colour_of_index
from boxwright.writing import writing

MOST_SEGMENTS = 255
"""Of an image, that have colours which are easily told apart; others have dark ones."""


def segment_id(number: int) -> int:
    """The id of the n-th segment of an image, counted from 1, whose colour is VOC's of the same number.

    >>> [segment_id(number) for number in (1, 2, 3, 300)]
    [128, 32768, 32896, 300]
    """
    if number > MOST_SEGMENTS:
        return number
    red, green, blue = colour_of_index(number)
    return red + (green << 8) + (blue << 16)


def write_segment_pixels(path: Path, ids: npt.NDArray[Any]) -> None:
    """Write the ids of segments (H, W), 0 where there is none, as a PNG file."""
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    with writing(path):
        Image.fromarray(colours).save(path, format="PNG")
