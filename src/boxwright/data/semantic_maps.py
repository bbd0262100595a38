"""The label of every pixel of an image, decoded from what its reader noted: a number of `Classes.semantic_names`.

Shape legend: H W = height and width of the image, or of the tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.data.records import Record
from boxwright.structures.classes import IGNORED


def semantic_map_of(record: Record, size_hw: tuple[int, int]) -> Tensor:
    """The labels (H, W) uint8 of an image, or of a tile, of that size; 255 where a pixel has none.

    An image without a map has none at all. Raises ValueError with the place of the map for a file that is missing or
    damaged, or of another size than the image.
    """
    if record.semantic is None:
        return torch.full(size_hw, IGNORED, dtype=torch.uint8)
    if record.tile is None:
        return _decoded(record, size_hw)
    x1, y1, x2, y2 = record.tile.window
    return _decoded(record, record.tile.image_hw)[y1:y2, x1:x2].contiguous()


def _decoded(record: Record, size_hw: tuple[int, int]) -> Tensor:
    try:
        labels: Tensor = record.semantic.labels(size_hw)
    except (ValueError, OSError) as error:
        raise ValueError(f"{record.where}: {error}; correct or remove it") from error
    return labels
