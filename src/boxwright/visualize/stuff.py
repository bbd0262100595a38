"""Which regions of an image are stuff: from a panoptic map, or a semantic one, each with its name, colour and a place.

Shape legend: H W = height and width of the image in pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from boxwright.ops.semantic import IGNORED

THINGS_COLOUR = 63
"""The number of the colour of "things", where objects are not told apart."""
GRID = 48
"""Rows or columns of cells, at most, among which the middle of a region is looked for."""


class Region(NamedTuple):
    """The pixels (H, W) bool of a stuff segment, or of a semantic label, its name and the number of its colour."""

    mask: Tensor
    name: str
    colour: int

    def middle(self) -> tuple[int, int]:
        """Column and row of a pixel that lies about as far inside as any."""
        step = -(-max(self.mask.shape) // GRID)
        cells = np.pad(self.mask[step // 2 :: step, step // 2 :: step].cpu().numpy(), 1)
        if not cells.any():  # thinner than the grid
            row, column = self.mask.nonzero()[0].tolist()
            return column, row
        while True:
            inner = cells.copy()
            inner[1:-1, 1:-1] &= cells[:-2, 1:-1] & cells[2:, 1:-1] & cells[1:-1, :-2] & cells[1:-1, 2:]
            if not inner.any():
                break
            cells = inner
        rows, columns = np.nonzero(cells)
        one = len(rows) // 2
        return int(columns[one] - 1) * step + step // 2, int(rows[one] - 1) * step + step // 2


def label_name(label: int, classes: Any) -> str:
    """What a label of a semantic map is called: its name, or its number where `classes` know none."""
    names = getattr(classes, "semantic_names", ())
    return str(names[label]) if label < len(names) else str(label)


def label_colour(label: int, classes: Any) -> int:
    """The number of the colour of a label of a semantic map: stuff goes on where the classes of objects end."""
    things = len(getattr(classes, "names", ()))
    first = int(bool(things and getattr(classes, "stuff", ())))  # label 0 is that of things
    return THINGS_COLOUR if label < first else things + label - first


def stuff_regions(found: Any, classes: Any) -> list[Region]:
    """The regions of detections or ground truth, largest first; `classes` name them, or their numbers do.

    Stuff segments of the panoptic map where there is one, else labels of the semantic map; there "things" are left out
    where the objects themselves have masks.
    """
    things = len(getattr(classes, "names", ()))
    stuff = getattr(classes, "stuff", ())
    panoptic, semantic = getattr(found, "panoptic", None), getattr(found, "semantic", None)
    if panoptic is not None:
        regions = [
            Region(panoptic.mask(one.id), stuff[one.label] if stuff else str(one.label), things + one.label)
            for one in panoptic.segments
            if not one.thing
        ]
    elif semantic is not None:
        first = int(bool(things and stuff))  # label 0 is that of things
        regions = [
            Region(semantic == label, label_name(label, classes), label_colour(label, classes))
            for label in semantic.unique().tolist()
            if label != IGNORED and not (label < first and found.masks is not None)
        ]
    else:
        return []
    return sorted(regions, key=lambda region: -int(region.mask.sum()))
