"""Matching by overlap: which ground-truth box each anchor or proposal must learn, for a whole batch; and sampling.

Shape legend: B = images, N = anchors or proposals, G = ground-truth boxes (padded), g = a chunk of them, S = sampled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.ops.assign import BACKGROUND, Assignment
from boxwright.ops.boxes import box_area, pairwise_intersection
from boxwright.ops.rotated import rotated_area
from boxwright.ops.rotated_iou import rotated_intersection

_CHUNK_ELEMENTS = 1 << 22  # B * N * g at a time: bounds memory, and stays within the caches of a CPU
SAME_OVERLAP = 1e-9
"""Overlaps of rotated boxes in float64 that differ by less are equal: those of one box in two descriptions."""
INSIDE = 0.5
"""An anchor or proposal lies inside an ignored region if at least this share of its area does."""


class Sampled(NamedTuple):
    """Rows chosen from N, positives first: rows (B, S), positive (B, S), and real (B, S), False for padding."""

    rows: Tensor
    positive: Tensor
    real: Tensor


def match_boxes(
    candidates: Tensor,
    boxes: Tensor,
    valid: Tensor,
    ignore: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality: bool,
    low_quality_iou: float = 0.0,
    claimed: bool = False,
    low_inclusive: bool = False,
    high_inclusive: bool = True,
    left_out: Tensor | None = None,
) -> Assignment:
    """Give each candidate the ground-truth box that it overlaps most, if by `positive_iou` or more.

    Args:
        candidates: (N, 4) anchors of every image, or (B, N, 4) proposals of each.
        boxes: (B, G, 4) ground truth.
        valid: (B, G) False for padding rows.
        ignore: (B, G) regions that are assigned to nothing; candidates inside one that are not positive are ignored.
        positive_iou, negative_iou: a candidate is positive from the first on, background below the second, and
            ignored between them.
        low_quality: for every box, its best candidates (all of equal overlap) are positive too, however low that is;
            each learns the box that it overlaps most itself (Faster R-CNN, section 3.1.2; Detectron2, torchvision).
            A box that nothing overlaps gets none; the references then give it every candidate, at overlap 0.
        low_quality_iou: the least overlap at which they are so (0.3 in MMDetection's proposal network).
        low_inclusive: a candidate of exactly `negative_iou` is background (the course) instead of ignored.
        high_inclusive: one of exactly `positive_iou` is positive; false in the course's second stage. Where both
            thresholds are equal and both are inclusive it is positive; where neither is, it is ignored.
        claimed: they learn the box whose best they are, the last where there are several (MMDetection).
        left_out: (B, N) candidates that match nothing and are ignored.

    Equal overlaps go to the earlier box. Rotated boxes, of 5 columns on both sides, are matched by their overlap in
    float64: two anchors may be one box (turned by 90 degrees, its sides exchanged), and are best together.
    """
    columns = boxes.shape[-1]
    area_of, intersection = (rotated_area, rotated_intersection) if columns == 5 else (box_area, pairwise_intersection)
    candidates = candidates.expand(len(boxes), -1, columns)
    tie = 0.0
    if columns == 5:
        candidates, boxes, tie = candidates.double(), boxes.double(), SAME_OVERLAP
    if left_out is not None:  # without area they overlap nothing
        candidates = torch.where(left_out[..., None], 0.0, candidates)
    batch, count = candidates.shape[:2]
    best = candidates.new_zeros((batch, count))
    owner = torch.full((batch, count), BACKGROUND, dtype=torch.int64, device=boxes.device)
    forced = torch.zeros((batch, count), dtype=torch.bool, device=boxes.device)
    claimant = torch.full_like(owner, BACKGROUND)
    in_region = torch.zeros_like(forced)
    area = area_of(candidates)  # (B, N)
    chunk = max(1, _CHUNK_ELEMENTS // max(1, batch * count))
    for start in range(0, boxes.shape[1], chunk):
        part = slice(start, start + chunk)
        shared = intersection(candidates, boxes[:, part])  # (B, N, g); ignored regions need it by itself
        union = area[..., None] + area_of(boxes[:, None, part]) - shared
        overlap = torch.where(union > 0, shared / union, 0.0) * (valid & ~ignore)[:, None, part]
        value, index = overlap.max(-1)
        owner = torch.where(value > best, index + start, owner)
        best = torch.maximum(best, value)
        if low_quality and count:
            highest = overlap.amax(1, keepdim=True)  # (B, 1, g)
            lifted = (overlap >= highest - tie) & (highest > 0) & (highest >= low_quality_iou)  # (B, N, g)
            forced |= lifted.any(-1)
            if claimed:
                rows = torch.arange(start, start + lifted.shape[-1], device=boxes.device)
                claimant = torch.maximum(claimant, torch.where(lifted, rows, BACKGROUND).amax(-1))
        inside = (shared >= INSIDE * area[..., None]) & (shared > 0)
        in_region |= (inside & (valid & ignore)[:, None, part]).any(-1)
    owner = torch.where(claimant >= 0, claimant, owner)
    high = best >= positive_iou if high_inclusive else best > positive_iou
    positive = high & (owner >= 0) | forced
    between = best > negative_iou if low_inclusive else best >= negative_iou
    ignored = (between | in_region) & ~positive
    return Assignment(torch.where(positive, owner, BACKGROUND), ignored if left_out is None else ignored | left_out)


def centred_outside(anchors: Tensor, sizes_hw: Tensor, multiple: int) -> Tensor:
    """Which anchors (N, 4) stand beyond each image of sizes_hw (B, 2), padded to a multiple by itself: (B, N) bool.

    MMDetection leaves them out of its losses; elsewhere the padding of a batch is background.
    """
    sizes = (-(-sizes_hw // multiple) * multiple).to(anchors.dtype)  # (B, 2)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    return (centre[:, 0] >= sizes[:, 1:]) | (centre[:, 1] >= sizes[:, :1])


def sample_balanced(positive: Tensor, negative: Tensor, count: int, positive_fraction: float) -> Sampled:
    """Draw up to `count` rows an image from positive and negative (B, N), at most the given fraction of them positive.

    Negatives fill the rest; an image with too few of both gets padding rows. Drawn from torch's generator, always with
    as many random values, so that runs repeat; a GPU never waits for the host.
    """
    limit = min(count, positive.shape[1])
    most_positive = min(int(count * positive_fraction), limit)
    key = torch.rand(positive.shape, device=positive.device)
    positive_key, positive_index = torch.where(positive, key, 2.0).topk(most_positive, dim=1, largest=False)
    negative_key, negative_index = torch.where(negative, key, 2.0).topk(limit, dim=1, largest=False)
    is_positive = positive_key < 2
    room = count - is_positive.sum(1, keepdim=True)  # (B, 1)
    is_negative = (negative_key < 2) & (torch.arange(limit, device=key.device) < room)
    index = torch.cat([positive_index, negative_index], dim=1)
    real = torch.cat([is_positive, is_negative], dim=1)
    # real rows to the front, in order: there are at most `limit`
    order = real.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :limit]
    real = real.gather(1, order)
    from_positive = order < most_positive
    return Sampled(index.gather(1, order), real & from_positive, real)
