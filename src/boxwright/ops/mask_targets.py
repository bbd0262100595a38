"""Mask targets: what a mask branch must learn in each region, cut out of the bitmap of the object assigned to it.

Bitmaps have the size of their objects; a batch stores their pixels one after another, never planes of whole images.
Shape legend: B = images, G = objects (padded), R = regions of all images, N = pixels of all bitmaps, s = side of a
target. Source: Mask R-CNN (He et al. 2017), section 3: the target is the part of the object's mask inside the region.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import roi_align

_CHUNK_PIXELS = 1 << 22  # of canvases at a time: bounds memory where objects are large


class PackedMasks(NamedTuple):
    """The masks of a batch: pixels (N,) bool of all bitmaps, row by row; where each object's begins, start (B, G);
    its size_hw (B, G, 2), 0 for an object without a mask; and its frame (B, G, 4), where it lies in network pixels.
    """

    pixels: Tensor
    start: Tensor
    size_hw: Tensor
    frame: Tensor

    @property
    def nonempty(self) -> Tensor:
        """Which objects (B, G) have a mask with a pixel."""
        return self.size_hw[..., 0] > 0


def pack_masks(
    bitmaps: Sequence[Sequence[Tensor]], corners: Sequence[Sequence[tuple[int, int]]], *, at_least: int = 0
) -> PackedMasks:
    """Bitmaps (h, w) bool of every image's objects, and the (x, y) of their corners, as one record.

    It has rows for the most objects of an image, and for `at_least` so many. A bitmap without a single pixel set means
    that the object's mask is unknown or empty: there is nothing to learn.

    >>> packed = pack_masks([[torch.tensor([[True, False]])], []], [[(3, 4)], []])
    >>> packed.frame.tolist(), packed.size_hw.tolist()
    ([[[3.0, 4.0, 5.0, 5.0]], [[0.0, 0.0, 0.0, 0.0]]], [[[1, 2]], [[0, 0]]])
    """
    batch, count = len(bitmaps), max((at_least, *(len(row) for row in bitmaps)))
    start = torch.zeros(batch, count, dtype=torch.int64)
    size_hw = torch.zeros(batch, count, 2, dtype=torch.int64)
    frame = torch.zeros(batch, count, 4)
    parts, end = [], 0
    for image, (row, places) in enumerate(zip(bitmaps, corners, strict=True)):
        for index, (bitmap, (x, y)) in enumerate(zip(row, places, strict=True)):
            if not bool(bitmap.any()):
                continue
            height, width = bitmap.shape
            start[image, index] = end
            size_hw[image, index] = torch.tensor([height, width])
            frame[image, index] = torch.tensor([x, y, x + width, y + height])
            parts.append(bitmap.reshape(-1))
            end += height * width
    pixels = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)
    return PackedMasks(pixels, start, size_hw, frame)


@torch.no_grad()
def cut_masks(
    packed: PackedMasks,
    image: Tensor,
    owner: Tensor,
    boxes: Tensor,
    image_hw: Tensor,
    size: int,
    *,
    aligned: bool = True,
    sampling: int = 0,
) -> Tensor:
    """The share (R, size, size) in [0, 1] of each bin of a region that its owner's mask covers, by RoIAlign.

    Args:
        packed: masks of the batch.
        image: (R,) the image of each region.
        owner: (R,) the object that owns it; one without a mask gives zeros.
        boxes: (R, 4) regions in network pixels.
        image_hw: (B, 2) the part of the batch that is image, in network pixels.
        size: bins a side.
        aligned, sampling: as for `pool_regions`; Detectron2 has True and 0, torchvision False and 0.

    The same as RoIAlign of the object's mask on the whole image, at the cost of its own size.
    """
    target = boxes.new_zeros((len(boxes), size, size), dtype=torch.float32)
    if not len(boxes) or not len(packed.pixels):
        return target
    key = image * packed.start.shape[1] + owner
    objects, region_of = torch.unique(key, return_inverse=True)
    size_hw, frame = packed.size_hw.flatten(0, 1)[objects], packed.frame.flatten(0, 1)[objects]
    start = packed.start.flatten()[objects]
    edge_hw = image_hw[objects // packed.start.shape[1]]
    for rows in _chunks(size_hw):
        canvas = _canvases(packed.pixels, start[rows], size_hw[rows], frame[rows], edge_hw[rows])
        place = torch.full_like(objects, -1)
        place[rows] = torch.arange(len(rows), device=rows.device)
        own = (place[region_of] >= 0).nonzero()[:, 0]
        which = region_of[own]
        scale = size_hw[which].flip(1) / (frame[which, 2:] - frame[which, :2])  # bitmap pixels per network pixel
        corner = frame[which, :2].repeat(1, 2)
        moved = (boxes[own].float() - corner) * scale.repeat(1, 2) + 1  # the canvas has a margin of one pixel
        regions = torch.cat([place[which][:, None].to(moved.dtype), moved], dim=1)
        target[own] = roi_align(canvas, regions, size, 1.0, sampling, aligned)[:, 0]
    return target


def _chunks(size_hw: Tensor) -> Iterator[Tensor]:
    """Rows of the objects with masks in groups of similar size, each small enough for `_CHUNK_PIXELS`."""
    sides = (size_hw + 2) * (size_hw > 0)
    order = sides.amax(1).argsort(descending=True)
    rows: list[int] = []
    height = width = 0
    for row, (h, w) in zip(order.tolist(), sides[order].tolist(), strict=True):
        if h == 0:
            break
        fits = max(h, height) * max(w, width) * (len(rows) + 1) <= _CHUNK_PIXELS
        if rows and (not fits or 2 * max(h, w) < max(height, width)):
            yield torch.tensor(rows, device=size_hw.device)
            rows, height, width = [], 0, 0
        rows.append(row)
        height, width = max(h, height), max(w, width)
    if rows:
        yield torch.tensor(rows, device=size_hw.device)


def _canvases(pixels: Tensor, start: Tensor, size_hw: Tensor, frame: Tensor, edge_hw: Tensor) -> Tensor:
    """Bitmaps as maps (n, 1, H, W) float with a margin of a pixel: 0, but the edge's own value where the image ends.

    RoIAlign reads beyond a map what its outermost pixel has, and an image ends for it as for its masks.
    """
    height, width = (int(side) + 2 for side in size_hw.amax(0).tolist())
    row, rows_good = _line(height, size_hw[:, 0], frame[:, 1] <= 0, frame[:, 3] >= edge_hw[:, 0])
    column, columns_good = _line(width, size_hw[:, 1], frame[:, 0] <= 0, frame[:, 2] >= edge_hw[:, 1])
    index = (start[:, None] + row * size_hw[:, 1:])[:, :, None] + column[:, None]
    good = rows_good[:, :, None] & columns_good[:, None]
    return (pixels[index * good] & good).float()[:, None]


def _line(count: int, length: Tensor, first_is_edge: Tensor, last_is_edge: Tensor) -> tuple[Tensor, Tensor]:
    """For each place of a line with a margin of one: the bitmap's row (or column) there (n, count), and whether any."""
    place = torch.arange(-1, count - 1, device=length.device).expand(len(length), count)
    length = length[:, None]
    good = (place >= 0) & (place < length)
    good |= ((place == -1) & first_is_edge[:, None]) | ((place == length) & last_is_edge[:, None])
    return place.clamp(min=0).minimum(length - 1), good
