"""Cutting a large image into tiles, and finding which detections of neighbouring tiles are the same object.

Tiles overlap, so that an object smaller than the overlap is whole in one of them. Where two tiles share an area, both
see the same things there; so detections of two tiles are one object if they agree within the shared area. Boxes are
(x1, y1, x2, y2) in pixels of the whole image. Shape legend: T = tiles, D = detections of a tile, padded, P = pairs of
tiles, M = matches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.ops.boxes import box_area, pairwise_intersection

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels of the image."""

SMALLEST = 16
"""Pixels: the side of a tile at least."""
MOST_OVERLAP = 0.9
"""Of a tile: more would be a hundred tiles or more at each place."""
NEAR_PIXELS, NEAR_SHARE = 2.0, 0.05
"""A box whose side lies within so many pixels, and so much of its own side, of the border of its tile may be cut."""
INSIDE = 0.5
"""Intersection over smaller from which on a cut part belongs to a box that it lies in."""
PAIRS_AT_ONCE = 4_000_000
"""Pairs of detections that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Square tiles of `size` pixels, of which neighbours share `overlap` of their side at least.

    Raises ValueError for tiles that are too small, and for an overlap outside 0 to 0.9.
    """

    size: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.size < SMALLEST:
            raise ValueError(f"tiles: expected a side of at least {SMALLEST} pixels, got {self.size}")
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise ValueError(f"overlap: expected a share of the tile from 0 to {MOST_OVERLAP}, got {self._overlap()}")

    def _overlap(self) -> str:
        """The overlap that was given, read as pixels where it can only be that."""
        if not self.overlap >= 2:
            return f"{self.overlap:g}"
        if self.overlap >= self.size:
            return f"{self.overlap:g}, which in pixels would be more than the tile of {self.size}"
        return f"{self.overlap:g}; {self.overlap:g} of {self.size} pixels are {self.overlap / self.size:.2g}"

    def windows(self, hw: tuple[int, int]) -> list[Window]:
        """The tiles of an image of size `hw`, row after row; all have one size, that of the image where it is smaller.

        They are spread evenly, so the last ends where the image ends.

        >>> Tiling(100, 0.2).windows((80, 230))
        [(0, 0, 100, 80), (65, 0, 165, 80), (130, 0, 230, 80)]
        """
        (rows, height), (columns, width) = (self._along(side) for side in hw)
        return [(x, y, x + width, y + height) for y in rows for x in columns]

    def tile_hw(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the tiles of an image of size `hw`."""
        return min(self.size, hw[0]), min(self.size, hw[1])

    def count(self, hw: tuple[int, int]) -> int:
        """How many tiles an image of size `hw` has."""
        return len(self._along(hw[0])[0]) * len(self._along(hw[1])[0])

    def _along(self, extent: int) -> tuple[list[int], int]:
        """Where tiles begin along one side of an image, and how long they are."""
        if extent <= self.size:
            return [0], extent
        step = max(1, int(self.size * (1 - self.overlap) + 1e-6))
        gaps = -(-(extent - self.size) // step)
        return [index * (extent - self.size) // gaps for index in range(gaps + 1)], self.size


def may_be_cut(boxes: Tensor, windows: Tensor, hw: tuple[int, int]) -> Tensor:
    """Which boxes (T, D, 4) reach a border of their tile (T, 4) that is no border of the image: (T, D) bool.

    >>> boxes = torch.tensor([[[0.0, 10.0, 50.0, 60.0], [40.0, 10.0, 99.0, 60.0]]])
    >>> may_be_cut(boxes, torch.tensor([[0, 0, 100, 100]]), (100, 300)).tolist()
    [[False, True]]
    """
    height, width = hw
    near = NEAR_PIXELS + NEAR_SHARE * (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)  # (T, D, 2)
    ends = windows[:, None]  # (T, 1, 4)
    limits = torch.tensor([width, height], device=boxes.device)
    low = (boxes[..., :2] < ends[..., :2] + near) & (ends[..., :2] > 0)
    high = (boxes[..., 2:] > ends[..., 2:] - near) & (ends[..., 2:] < limits)
    return (low | high).any(-1)


def same_objects(
    boxes: Tensor, scores: Tensor, labels: Tensor, windows: Tensor, cut: Tensor, iou_threshold: float
) -> Tensor:
    """Detections of different tiles that are one object: pairs (M, 2) of rows of the flattened (T * D), surest first.

    boxes (T, D, 4) in the whole image, scores (T, D), labels (T, D) with -1 for padding, windows (T, 4), cut (T, D) as
    `may_be_cut` has it. Two detections of a class match if their IoU is above `iou_threshold`; where one of them may be
    cut, if that of their parts within the area that the tiles share is, or if the smaller part is the cut one and lies
    within the other by more than half. The surest pair has the largest product of both scores and that IoU of parts.
    """
    count = boxes.shape[1]
    pairs, sure = [boxes.new_zeros((0, 2), dtype=torch.int64)], [boxes.new_zeros(0)]
    for first, second in neighbours(windows, count):
        low, high = shared_windows(windows, first, second)
        one, two = boxes[first], boxes[second]  # (P, D, 4)
        part_one, part_two = _within(one, low, high), _within(two, low, high)
        area_one, area_two = box_area(one)[:, :, None], box_area(two)[:, None, :]
        agreement, same = agree(
            iou_of(pairwise_intersection(one, two), area_one, area_two),
            pairwise_intersection(part_one, part_two),  # (P, D, D)
            (box_area(part_one)[:, :, None], box_area(part_two)[:, None, :]),
            (cut[first][:, :, None], cut[second][:, None, :]),
            iou_threshold,
        )
        same &= (labels[first][:, :, None] == labels[second][:, None, :]) & (labels[first] >= 0)[:, :, None]
        pair, left, right = same.nonzero(as_tuple=True)
        pairs.append(torch.stack([first[pair] * count + left, second[pair] * count + right], dim=1))
        sure.append(agreement[pair, left, right] * scores[first[pair], left] * scores[second[pair], right])
    return torch.cat(pairs)[torch.cat(sure).argsort(descending=True, stable=True)]


def iou_of(shared: Tensor, area_one: Tensor, area_two: Tensor) -> Tensor:
    """Intersection over union from areas, which broadcast; 0 where all are."""
    return shared / (area_one + area_two - shared).clamp(min=1e-9)


def agree(
    iou: Tensor, shared: Tensor, parts: tuple[Tensor, Tensor], cut: tuple[Tensor, Tensor], iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """The IoU of the parts of two detections in the area that their tiles share, and whether they are one object.

    Of their `iou`, the area that their parts have in common and the areas of these, and whether each may be cut; shapes
    broadcast.
    """
    (area_one, area_two), (cut_one, cut_two) = parts, cut
    agreement = iou_of(shared, area_one, area_two)
    inside = shared / torch.minimum(area_one, area_two).clamp(min=1e-9)
    is_part = (cut_one & (area_one <= area_two)) | (cut_two & (area_two <= area_one))
    of_parts = (agreement > iou_threshold) | (is_part & (inside > INSIDE))
    return agreement, (iou > iou_threshold) | ((cut_one | cut_two) & of_parts)


def _within(boxes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The parts of boxes (P, D, 4) between corners `low` and `high` (P, 2); reversed, so empty, where there is none."""
    corners = torch.maximum(boxes[..., :2], low[:, None]), torch.minimum(boxes[..., 2:], high[:, None])
    return torch.cat(corners, dim=-1)


def shared_windows(windows: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The area that pairs of tiles share, as its lower and its upper corners (P, 2)."""
    return (
        torch.maximum(windows[first, :2], windows[second, :2]),
        torch.minimum(windows[first, 2:], windows[second, 2:]),
    )


def neighbours(windows: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs of tiles (T, 4) that share an area, as two rows of numbers (P,), some at a time: with so many
    detections a tile, `PAIRS_AT_ONCE` of these or few more.
    """
    at_once = max(1, PAIRS_AT_ONCE // max(1, count * count))
    numbers = torch.arange(len(windows), device=windows.device)
    for row in torch.split(numbers, 256):  # 256 x T, not T x T
        width_height = torch.minimum(windows[row, None, 2:], windows[:, 2:]) - torch.maximum(
            windows[row, None, :2], windows[:, :2]
        )
        meets = (width_height > 0).all(-1) & (row[:, None] < numbers)
        first, second = meets.nonzero(as_tuple=True)
        yield from zip(torch.split(row[first], at_once), torch.split(second, at_once), strict=True)
