"""Batches whose shapes repeat: padded to few sizes, and copied into buffers that stay.

What is added is marked as padding: boxes by `Targets.valid`, proposals by `Proposals.valid`, pixels by
`ImageBatch.sizes_hw`, as that of every batch of images of several sizes.

Shape legend: B = images, G = ground-truth boxes (padded), H W = pixels of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch.nn.functional as F
from torch import Tensor

from boxwright.data.loader import Batch
from boxwright.data.moved_objects import padded_count
from boxwright.structures import ImageBatch, Proposals, Targets
from boxwright.structures.classes import IGNORED

SIDES = (1, 8, 16, 32, 64)
"""Pixels: height and width of a batch are padded to a multiple of one of these."""


def side_multiple(sizes_hw: Iterable[tuple[int, int]], scales: int, most: int) -> int:
    """The least padding of sides with which batches of images of these sizes come in at most so many shapes.

    A batch is as high as its highest image and as wide as its widest, at each of so many training scales. Data of one
    size needs no padding; where no padding suffices, it is the least that leaves as few shapes as any.

    >>> side_multiple([(240, 320)], 1, 16), side_multiple([(240, width) for width in range(240, 420)], 1, 16)
    (1, 16)
    """
    sizes = set(sizes_hw)

    def shapes(multiple: int) -> int:
        heights, widths = ({-(-size[axis] // multiple) for size in sizes} for axis in (0, 1))
        return len(heights) * len(widths) * scales

    return next((multiple for multiple in SIDES if shapes(multiple) <= most), min(SIDES, key=shapes))


def padded(batch: Batch, multiple: int = 1) -> Batch:
    """The batch with sides of a multiple of so many pixels and 8, 16, 32, ... boxes and proposals."""
    images, targets, indices, proposals = batch
    height, width = images.pixels.shape[-2:]
    pixels = _pad(images.pixels, 0, -width % multiple, 0, -height % multiple)
    whole = ImageBatch(pixels, images.sizes_hw, images.original_hw, images.scale_xy, images.offset_xy)
    count = targets.boxes.shape[1]
    rows = padded_count(count) - count
    wider = Targets(
        _pad(targets.boxes, 0, 0, 0, rows), _pad(targets.labels, 0, rows), _pad(targets.ignore, 0, rows),
        _pad(targets.valid, 0, rows),
        semantic=None if targets.semantic is None else _wider(targets.semantic, (pixels.shape[-2], pixels.shape[-1])),
        rotated=None if targets.rotated is None else _pad(targets.rotated, 0, 0, 0, rows),
    )  # fmt: skip
    if proposals is not None:
        count = proposals.boxes.shape[1]
        rows = padded_count(count) - count
        level = None if proposals.level is None else _pad(proposals.level, 0, rows)
        proposals = Proposals(
            _pad(proposals.boxes, 0, 0, 0, rows), _pad(proposals.scores, 0, rows), _pad(proposals.valid, 0, rows), level
        )
    return Batch(whole, wider, indices, proposals)


def _pad(tensor: Tensor, *sides: int) -> Tensor:
    """Zeros at the ends of the last dimensions, as `F.pad`; nothing is copied where nothing is added."""
    return F.pad(tensor, sides) if any(sides) else tensor


def _wider(semantic: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Semantic maps (B, H, W) with as many pixels as the batch; what is added is of label 255."""
    down, right = size_hw[0] - semantic.shape[1], size_hw[1] - semantic.shape[2]
    return F.pad(semantic, (0, right, 0, down), value=IGNORED) if down or right else semantic


def tensors_of(batch: Batch) -> list[Tensor]:
    """All tensors of a batch without masks, in a fixed order."""
    images, targets, _, proposals = batch
    found = [images.pixels, images.sizes_hw, images.original_hw, images.scale_xy, images.offset_xy]
    found += [targets.boxes, targets.labels, targets.ignore, targets.valid]
    found += [] if targets.semantic is None else [targets.semantic]
    found += [] if targets.rotated is None else [targets.rotated]
    if proposals is not None:
        found += [proposals.boxes, proposals.scores, proposals.valid]
        found += [] if proposals.level is None else [proposals.level]
    return found


def with_tensors(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with each tensor of `tensors_of` changed."""
    images, targets, indices, proposals = batch
    pixels = ImageBatch(
        change(images.pixels), change(images.sizes_hw), change(images.original_hw), change(images.scale_xy),
        change(images.offset_xy),
    )  # fmt: skip
    boxes = Targets(
        change(targets.boxes), change(targets.labels), change(targets.ignore), change(targets.valid),
        semantic=None if targets.semantic is None else change(targets.semantic),
        rotated=None if targets.rotated is None else change(targets.rotated),
    )  # fmt: skip
    if proposals is not None:
        level = None if proposals.level is None else change(proposals.level)
        proposals = Proposals(change(proposals.boxes), change(proposals.scores), change(proposals.valid), level)
    return Batch(pixels, boxes, indices, proposals)
