"""Which objects a training image has, without their boxes: those of which images, and how these are moved.

The steps of `data.transforms` and `data.mosaic` take `MovedObjects` in place of ground truth, as they take a
`data.view.View` in place of an image. Only then are boxes made, for a whole batch at a time (`ops.move_boxes`), of the
boxes of all images, which lie on the device. Masks are not moved in this way: they decide which boxes are left.

Shape legend: N = objects of all images, B = images of the batch, M = images that one of them is made of (4 for a
mosaic), S = moves, G = objects of an image (padded).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from boxwright.ops.assign import gather_rows
from boxwright.ops.image import Placement
from boxwright.ops.move_boxes import Move, move_boxes, to_the_front
from boxwright.structures import GroundTruth, Targets

FEWEST_BOXES = 8
"""Targets are padded to 8, 16, 32, ... boxes, so that few shapes repeat."""
NOTHING = Move()


@dataclass(frozen=True, slots=True)
class StoredObjects:
    """The ground truth of all images, one after the other, on any device: boxes (N + 1, 4), labels, ignore (N + 1,).

    The last row stands for none. `starts` are the first row of each image, and the end.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    starts: tuple[int, ...]

    @classmethod
    def of(cls, ground_truths: Iterable[GroundTruth]) -> StoredObjects:
        """The objects of these images.

        >>> StoredObjects.of([GroundTruth.of([[1, 2, 3, 4]], [5]), GroundTruth.empty()]).starts
        (0, 1, 1)
        """
        rows = [*ground_truths]
        boxes, labels, ignore = (
            torch.cat([*(getattr(row, name) for row in rows), none])
            for name, none in (
                ("boxes", torch.zeros(1, 4)), ("labels", torch.zeros(1, dtype=torch.int64)),
                ("ignore", torch.zeros(1, dtype=torch.bool)),
            )
        )  # fmt: skip
        return cls(boxes, labels, ignore, tuple(accumulate(map(len, rows), initial=0)))

    def image(self, index: int) -> GroundTruth:
        """The ground truth of one image."""
        rows = slice(self.starts[index], self.starts[index + 1])
        return GroundTruth(self.boxes[rows], self.labels[rows], self.ignore[rows])

    def to(self, device: torch.device) -> StoredObjects:
        """The same on another device."""
        return StoredObjects(self.boxes.to(device), self.labels.to(device), self.ignore.to(device), self.starts)


class Part(NamedTuple):
    """The objects of image `source`, and the moves that only they make, before they are joined with others."""

    source: int
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True, slots=True)
class MovedObjects:
    """Objects of one or several images, in this order, and the moves that all of them make after their own."""

    stored: StoredObjects
    parts: tuple[Part, ...]
    moves: tuple[Move, ...] = ()

    def placed(self, placement: Placement, min_visibility: float, *, centred: bool = False) -> MovedObjects:
        """What is left of them in a placed window, as `data.transforms.place_ground_truth` has it."""
        x1, y1, x2, y2 = placement.window
        return self._moved(
            Move(
                x1, y1, x2, y2, x1, y1, *placement.scale_xy, *placement.corner_xy, least_side=1.0,
                least_visibility=min_visibility, centred=float(centred),
            )
        )  # fmt: skip

    def flipped(self, axis: int, extent: int) -> MovedObjects:
        """The objects mirrored along x (axis 0) or y (axis 1) of a canvas of that extent."""
        return self._moved(Move(scale_y=-1, corner_y=extent) if axis else Move(scale_x=-1, corner_x=extent))

    def _moved(self, move: Move) -> MovedObjects:
        return replace(self, moves=(*self.moves, move))

    @classmethod
    def joined(cls, several: Sequence[MovedObjects]) -> MovedObjects:
        """The objects of several as those of one image."""
        parts = tuple(Part(source, own + one.moves) for one in several for source, own in one.parts)
        return cls(several[0].stored, parts)

    def made(self) -> GroundTruth:
        """The objects that are left, on the host."""
        if len(self.parts) == 1 and not self.parts[0].moves and not self.moves:
            return self.stored.image(self.parts[0].source)
        return DrawnObjects.of([self]).targets(self.stored).image(0)


class DrawnObjects(NamedTuple):
    """The objects of a batch before their boxes are made, to be sent to a device.

    parts (B, M, 2) int64: first row in `StoredObjects`, and number of rows. own (B, M, S, 13), shared (B, S, 13)
    float32: the moves of each part, then those of the whole image (`ops.move_boxes.Move`). `num_boxes` is G: at most so
    many objects of an image are left, known before any is left out.
    """

    parts: Tensor
    own: Tensor
    shared: Tensor
    num_boxes: int

    @classmethod
    def of(cls, rows: Sequence[MovedObjects]) -> DrawnObjects:
        """The objects of the images of a batch."""
        starts = rows[0].stored.starts
        most = max(len(row.parts) for row in rows)
        parts = [[_rows(starts, part.source) for part in row.parts] for row in rows]
        own = [[*(part.moves for part in row.parts), *[()] * (most - len(row.parts))] for row in rows]
        return cls(
            torch.tensor([[*some, *[(0, 0)] * (most - len(some))] for some in parts], dtype=torch.int64),
            _padded([*chain.from_iterable(own)]).view(len(rows), most, -1, len(NOTHING)),
            _padded([row.moves for row in rows]),
            padded_count(max(sum(number for _, number in some) for some in parts)),
        )

    def pin_memory(self) -> DrawnObjects:
        """The same in pinned memory, for an asynchronous copy to a GPU."""
        return DrawnObjects(self.parts.pin_memory(), self.own.pin_memory(), self.shared.pin_memory(), self.num_boxes)

    def to(self, device: torch.device, non_blocking: bool = False) -> DrawnObjects:
        """The same on another device."""
        parts, own, shared = (tensor.to(device, non_blocking=non_blocking) for tensor in self[:3])
        return DrawnObjects(parts, own, shared, self.num_boxes)

    def targets(self, stored: StoredObjects) -> Targets:
        """Boxes, labels and ignore flags as the steps leave them, in their order; nothing waits for the device."""
        first, number = self.parts.unbind(-1)  # (B, M)
        end = number.cumsum(1)
        place = torch.arange(self.num_boxes, device=end.device)
        part = (place[:, None] >= end[:, None]).sum(-1)  # (B, G): which part a row is of; M: none
        left = part < end.shape[1]
        part = part.clamp(max=end.shape[1] - 1)
        row = torch.where(left, place + (first + number - end).gather(1, part), len(stored.boxes) - 1)
        boxes, labels, ignore = stored.boxes[row], stored.labels[row], stored.ignore[row]
        moves = [gather_rows(own, part) for own in self.own.unbind(2)]  # (B, G, 13) each
        for move in (*moves, *self.shared[:, :, None].unbind(1)):
            boxes, kept = move_boxes(boxes, ignore, move)
            left = left & kept
        valid, boxes, labels, ignore = to_the_front(left, boxes, labels, ignore)
        return Targets(boxes, labels, ignore, valid)


def _rows(starts: Sequence[int], image: int) -> tuple[int, int]:
    return starts[image], starts[image + 1] - starts[image]


def _padded(rows: Sequence[Sequence[Move]]) -> Tensor:
    """Moves (R, S, 13) of so many rows, each padded with moves that change nothing."""
    most = max(map(len, rows))
    flat = [move for row in rows for move in (*row, *[NOTHING] * (most - len(row)))]
    return torch.from_numpy(np.array(flat, dtype=np.float32).reshape(len(rows), most, len(NOTHING)))


def padded_count(count: int) -> int:
    """The number of boxes that so many are padded to.

    >>> [padded_count(count) for count in (0, 8, 9, 33)]
    [8, 8, 16, 64]
    """
    return max(FEWEST_BOXES, 1 << (count - 1).bit_length()) if count else FEWEST_BOXES
