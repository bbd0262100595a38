"""A panoptic map and its segments: every pixel of an image belongs to one object, one stretch of stuff, or nothing.

Shape legend: H W = height and width of the image, D = detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from boxwright.ops.mask_paste import Pasted
from boxwright.ops.panoptic import merge_segments
from boxwright.structures.masks import CroppedMask


@dataclass(frozen=True, kw_only=True, slots=True)
class PanopticSettings:
    """How detections and the semantic map become segments. The defaults are those of Detectron2."""

    min_score: float = 0.5
    """Detections below it make no segment."""
    max_overlap: float = 0.5
    """A detection of whose mask a larger part belongs to better ones makes none either."""
    min_stuff_area: int = 4096
    """Fewer pixels of one semantic label, in the original image, make no segment."""

    def __post_init__(self) -> None:
        for name in ("min_score", "max_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {getattr(self, name)}")
        if self.min_stuff_area < 0:
            raise ValueError(f"min_stuff_area: expected at least 0 pixels, got {self.min_stuff_area}")


@dataclass(frozen=True, slots=True)
class PanopticSegment:
    """One segment: an object, whose label counts `Classes.names`, or stuff, whose label counts `Classes.stuff`.

    An object has the score of its detection and the row of it, None where that detection was filtered out since.
    `area` is in pixels of the map.
    """

    id: int
    label: int
    thing: bool
    score: float | None
    row: int | None
    area: int


@dataclass(frozen=True, slots=True, eq=False)
class Panoptic:
    """A map (H, W) int32 of segment ids, 0 where there is none, and its segments.

    >>> Panoptic(torch.tensor([[0, 1]], dtype=torch.int32), (PanopticSegment(1, 0, True, 0.9, 0, 1),)).mask(1).tolist()
    [[False, True]]
    """

    map: Tensor
    segments: tuple[PanopticSegment, ...]

    def __post_init__(self) -> None:
        if self.map.dim() != 2 or self.map.dtype != torch.int32:
            raise ValueError(f"map: expected (H, W) int32, got {tuple(self.map.shape)} {self.map.dtype}")
        ids = [segment.id for segment in self.segments]
        if len(set(ids)) != len(ids) or any(number < 1 for number in ids):
            raise ValueError(f"segments: expected different ids from 1 on, got {ids[:9]}")

    def mask(self, id: int) -> Tensor:
        """The pixels (H, W) bool of one segment."""
        return self.map == id

    def select(self, rows: Sequence[int]) -> Panoptic:
        """The same map, with the rows of its objects among those detections that were kept, in their new order."""
        place = {row: new for new, row in enumerate(rows)}
        return Panoptic(
            self.map,
            tuple(replace(one, row=None if one.row is None else place.get(one.row)) for one in self.segments),
        )  # fmt: skip


def merge_panoptic(
    masks: Sequence[CroppedMask], scores: Tensor, labels: Tensor, semantic: Tensor, settings: PanopticSettings
) -> Panoptic:
    """The panoptic map of detections with masks and of a semantic map (H, W) whose label 0 is "any thing"."""
    pasted = [Pasted(mask.x, mask.y, mask.bitmap) for mask in masks]
    map_, found = merge_segments(
        pasted, scores.tolist(), semantic, min_score=settings.min_score, max_overlap=settings.max_overlap,
        min_stuff_area=settings.min_stuff_area,
    )  # fmt: skip
    segments = []
    for number, (row, label, area) in enumerate(found, start=1):
        if row is not None:
            segments.append(PanopticSegment(number, int(labels[row]), True, float(scores[row]), row, area))
        else:
            assert label is not None
            segments.append(PanopticSegment(number, label - 1, False, None, None, area))
    return Panoptic(map_, tuple(segments))
