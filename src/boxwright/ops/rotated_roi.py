"""RoIAlign of rotated boxes: features sampled on a grid that is turned with the box.

A bin's value is the mean of samples, and a sample the bilinear mean of four cells, so pooling is one product with a
sparse matrix: for each bin, which cells with which weights. `torch.nn.functional.embedding_bag` is that product, and
its gradient; the cells of all levels and images are its table. Boxes are (cx, cy, w, h, degrees), see `ops.rotated`.

Shape legend: R = regions of all images, C = channels, s = side of the pooled map, S = samples of all bins. Source:
Detectron2's `ROIAlignRotated`, which is aligned (shifted by half a cell) and has no minimum size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops.roi import CANONICAL_SIZE
from boxwright.ops.rotated import rotated_area

SAMPLES_AT_ONCE = 1 << 21
"""So many samples are looked up at a time, which takes about 200 MiB."""
MOST_SAMPLES = 1 << 8
"""A bin has at most so many samples along a side; Detectron2 has no limit. More cells than that have no image."""


def rotated_levels(boxes: Tensor, lowest: int, highest: int, *, canonical: int = 4, slack: float = 0.0) -> Tensor:
    """The pyramid level (...,) that each rotated box (..., 5) is pooled from, by its area, as `ops.roi.region_levels`.

    >>> rotated_levels(torch.tensor([[0.0, 0, 224, 224, 45], [0, 0, 111, 111, 45]]), 2, 5).tolist()
    [4, 2]
    """
    side = rotated_area(boxes).sqrt()
    level = (canonical + (side / CANONICAL_SIZE + 1e-8).log2() + slack).floor()
    return level.clamp(lowest, highest).to(torch.int64)


def pool_rotated(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    size: int,
    *,
    sampling: int = 0,
) -> Tensor:
    """RoIAlign of rotated boxes (R, 5), each from its own image (R,) and map: features (R, C, size, size) float32.

    Args:
        levels: maps (B, C, h, w), finest first.
        strides: of each map, in network pixels.
        boxes: in network pixels.
        image: which image of the batch each box belongs to.
        level: index into `levels` for each box.
        sampling: points a bin and axis; 0 takes as many as the bin has cells (Detectron2). With 0 sizes depend on the
            boxes: a GPU is waited for once, and an exported graph needs another number.

    Features have gradients, boxes have none.
    """
    channels = levels[0].shape[1]
    table = torch.cat([map_.float().permute(0, 2, 3, 1).reshape(-1, channels) for map_ in levels])  # (cells, C)
    frames = _frames(levels, strides, boxes.detach().float(), image, level)
    if sampling:
        samples = _even_samples(frames, size, sampling)
        if torch.compiler.is_exporting():  # ONNX has no such product: a runtime would go through the bins one by one
            pooled = table.new_zeros(samples.cells.shape[0], channels)
            for cells, weights in zip(samples.cells.unbind(1), samples.weights.unbind(1), strict=True):
                pooled = pooled + table[cells] * weights[:, None]
        else:
            pooled = F.embedding_bag(samples.cells, table, per_sample_weights=samples.weights, mode="sum")
    else:
        grid = (frames.sides / size).ceil().nan_to_num(0).clamp(0, MOST_SAMPLES).to(torch.int64)  # (R, 2): w, h
        parts = [
            _pool_adaptively(table, _Frames(*(rows[part] for rows in frames)), grid[part], size)
            for part in _parts(grid.prod(1) * size * size)
        ]
        pooled = torch.cat(parts) if parts else table.new_zeros(0, channels)
    return pooled.reshape(boxes.shape[0], size, size, channels).permute(0, 3, 1, 2)


class _Frames(NamedTuple):
    """Where each region lies in its own map: centre and sides (R, 2) in cells, cos and sin of its angle, the height and
    width of the map, and the row of the table that its first cell has, each (R,).
    """

    centre: Tensor
    sides: Tensor
    cos: Tensor
    sin: Tensor
    height: Tensor
    width: Tensor
    first: Tensor


def _frames(levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, image: Tensor, level: Tensor) -> _Frames:
    """The frames of boxes (R, 5) in network pixels."""
    start, rows = 0, []
    for map_, stride in zip(levels, strides, strict=True):
        numbers = (map_.shape[2], map_.shape[3], start, stride)
        rows.append(torch.stack([torch.full((), one, dtype=torch.int64, device=boxes.device) for one in numbers]))
        start += map_.shape[0] * map_.shape[2] * map_.shape[3]
    height, width, first, step = torch.stack(rows)[level].unbind(1)  # (R,) each
    centre, sides = boxes[:, :2] / step[:, None] - 0.5, boxes[:, 2:4] / step[:, None]
    radians = torch.deg2rad(boxes[:, 4])
    return _Frames(centre, sides, radians.cos(), radians.sin(), height, width, first + image * height * width)


def _parts(samples: Tensor) -> Iterator[slice]:
    """Regions in runs of about `SAMPLES_AT_ONCE` samples, of which each region (R,) has so many."""
    start = taken = 0
    counts: list[int] = samples.tolist()
    for index, count in enumerate(counts):
        taken += count
        if taken >= SAMPLES_AT_ONCE or index + 1 == len(counts):
            yield slice(start, index + 1)
            start, taken = index + 1, 0


class _Samples(NamedTuple):
    """The four cells of every sample, as rows of the table, and their weights; the last dimension is 4 or holds 4s."""

    cells: Tensor
    weights: Tensor


def _even_samples(frames: _Frames, size: int, sampling: int) -> _Samples:
    """Samples (R * s * s, sampling * sampling * 4) where every bin has equally many."""
    place = torch.arange(size * sampling, device=frames.first.device)
    step = (place.float() + 0.5) / (size * sampling) - 0.5  # of the side of a box, from its centre
    x = step.reshape(1, 1, size, 1, sampling) * frames.sides[:, 0].reshape(-1, 1, 1, 1, 1)
    y = step.reshape(1, size, 1, sampling, 1) * frames.sides[:, 1].reshape(-1, 1, 1, 1, 1)
    x, y = torch.broadcast_tensors(x, y)  # (R, s, s, sampling, sampling)
    own = _Frames(*(rows.reshape(-1, *[1] * 4, *rows.shape[1:]) for rows in frames))
    cells, weights = _bilinear(own, x, y, torch.full_like(own.cos, sampling * sampling))
    bins = frames.first.shape[0] * size * size  # len() would make it a constant in an exported graph
    return _Samples(cells.reshape(bins, sampling * sampling * 4), weights.reshape(bins, sampling * sampling * 4))


def _pool_adaptively(table: Tensor, frames: _Frames, grid: Tensor, size: int) -> Tensor:
    """Bins (R * s * s, C) of regions whose bins have grid (R, 2) samples along w and h."""
    in_bin = grid.prod(1)  # (R,)
    region = torch.arange(len(grid), device=grid.device).repeat_interleave(in_bin * size * size)  # (S,)
    before = (in_bin * size * size).cumsum(0) - in_bin * size * size
    place = torch.arange(len(region), device=grid.device) - before[region]
    along, across = grid[region].unbind(1)
    bin_, place = place // in_bin[region], place % in_bin[region]
    column, row = bin_ % size + (place % along + 0.5) / along, bin_ // size + (place // along + 0.5) / across
    own = _Frames(*(rows[region] for rows in frames))
    x, y = (column / size - 0.5) * own.sides[:, 0], (row / size - 0.5) * own.sides[:, 1]
    cells, weights = _bilinear(own, x, y, in_bin[region].to(x.dtype))
    bins = in_bin.repeat_interleave(size * size)
    offsets = 4 * (bins.cumsum(0) - bins)
    return F.embedding_bag(
        cells.flatten(), table, offsets, per_sample_weights=weights.to(table.dtype).flatten(), mode="sum"
    )


def _bilinear(frames: _Frames, x: Tensor, y: Tensor, count: Tensor) -> _Samples:
    """The cells (..., 4) around points x, y (...) along the sides of the box, from its centre, and their weights in the
    mean of so many samples.

    A point more than a cell outside of the map is 0; nearer ones take the value of the border, as in RoIAlign.
    """
    at_x = frames.centre[..., 0] + x * frames.cos + y * frames.sin
    at_y = frames.centre[..., 1] + y * frames.cos - x * frames.sin
    inside = (at_x >= -1) & (at_x <= frames.width) & (at_y >= -1) & (at_y <= frames.height)
    at_x = at_x.clamp(min=0).minimum(frames.width - 1.0)
    at_y = at_y.clamp(min=0).minimum(frames.height - 1.0)
    left, top = at_x.to(torch.int64), at_y.to(torch.int64)
    right, bottom = torch.minimum(left + 1, frames.width - 1), torch.minimum(top + 1, frames.height - 1)
    to_right, to_bottom = at_x - left, at_y - top
    share = inside / count
    upper, lower = frames.first + top * frames.width, frames.first + bottom * frames.width
    cells = torch.stack([upper + left, upper + right, lower + left, lower + right], -1)
    above, below = (1 - to_bottom) * share, to_bottom * share
    weights = [(1 - to_right) * above, to_right * above, (1 - to_right) * below, to_right * below]
    return _Samples(cells, torch.stack(weights, -1))
