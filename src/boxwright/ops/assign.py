"""Assignment: which ground-truth box, if any, each location must learn, for a whole batch at once.

Shape legend: B = images, P = locations on all levels, G = ground-truth boxes (padded), g = a chunk of them.
Index -1 is background; a padding row never owns a location because `valid` says so, whatever its coordinates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BACKGROUND = -1
_CHUNK_ELEMENTS = 1 << 22  # B * P * g at a time: bounds memory, and stays within the caches of a CPU


class Assignment(NamedTuple):
    """The box of each location: owner (B, P), a ground-truth row or -1; where ignored (B, P), it has no loss."""

    owner: Tensor
    ignored: Tensor


def assign_locations(
    locations: Tensor,
    strides: Tensor,
    ranges: Tensor,
    boxes: Tensor,
    valid: Tensor,
    ignore: Tensor,
    *,
    center_radius: float | None = None,
    coarse_areas: bool = False,
) -> Assignment:
    """Give each location the smallest box that may claim it (FCOS, section 3.2).

    Args:
        locations: (P, 2) cell centres.
        strides: (P,) stride of the level that each location lies on.
        ranges: (P, 2) half-open bounds [low, high) of max(l, t, r, b) on that level.
        boxes: (B, G, 4) ground truth.
        valid: (B, G) False for padding rows.
        ignore: (B, G) regions that may own nothing; a location inside one that no other box owns is ignored.
        center_radius: only locations within this many strides of a box's centre may be claimed ("center sampling",
            the authors' later improvement). None is the 2019 baseline.
        coarse_areas: compare areas as 1e8 - area in float32, in steps of 8 square pixels (Detectron2, torchvision, the
            course).

    Equal areas go to the earlier box. Areas are compared in float64, so boxes of nearly equal or enormous area are
    told apart (at 1e8 the next float32 is 8 square pixels away).
    """
    batch, count = boxes.shape[:2]
    num_locations = len(locations)
    if count == 0:
        index = torch.full((batch, num_locations), BACKGROUND, dtype=torch.int64, device=boxes.device)
        return Assignment(index, torch.zeros_like(index, dtype=torch.bool))

    exact = boxes.cpu() if boxes.device.type == "mps" else boxes  # which has no float64
    sides = boxes if coarse_areas else exact.double()
    area = (sides[..., 2] - sides[..., 0]) * (sides[..., 3] - sides[..., 1])  # (B, G)
    area = area - 1e8 if coarse_areas else area
    order = area.argsort(dim=1, stable=True).to(boxes.device)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(count, device=boxes.device).expand(batch, -1))

    best = torch.full((batch, num_locations), count, dtype=torch.int64, device=boxes.device)
    in_ignored = torch.zeros((batch, num_locations), dtype=torch.bool, device=boxes.device)
    chunk = max(1, _CHUNK_ELEMENTS // max(1, batch * num_locations))
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        claims, inside = _claims(locations, strides, ranges, boxes[:, part], center_radius)  # (B, P, g)
        claims &= (valid & ~ignore)[:, None, part]
        in_ignored |= (inside & (valid & ignore)[:, None, part]).any(-1)
        best = torch.minimum(best, torch.where(claims, rank[:, None, part], count).amin(-1))
    owned = best < count
    index = torch.where(owned, order.gather(1, best.clamp(max=count - 1)), BACKGROUND)
    return Assignment(index, in_ignored & ~owned)


def _claims(
    locations: Tensor, strides: Tensor, ranges: Tensor, boxes: Tensor, center_radius: float | None
) -> tuple[Tensor, Tensor]:
    """Which boxes (B, g) may claim which locations, and which contain them: two (B, P, g)."""
    x, y = locations[:, 0, None], locations[:, 1, None]  # (P, 1)
    x1, y1, x2, y2 = boxes[:, None].unbind(-1)  # (B, 1, g) each
    left, right, top, bottom = x - x1, x2 - x, y - y1, y2 - y
    inside = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom)) > 0
    reach = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    claims = inside & (reach >= ranges[:, 0, None]) & (reach < ranges[:, 1, None])
    if center_radius is not None:
        # |x - centre of the box| is half the difference of the two distances
        offset = torch.maximum((left - right).abs(), (top - bottom).abs()) / 2
        claims &= offset < center_radius * strides[:, None]
    return claims, inside


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, P, ...) of values (B, G, ...) picked by index (B, P); background and an empty G give zeros.

    >>> gather_rows(torch.tensor([[5, 7]]), torch.tensor([[1, -1, 0]])).tolist()
    [[7, 0, 5]]
    """
    if values.shape[1] == 0:
        return values.new_zeros((*index.shape, *values.shape[2:]))
    flat = index.clamp(min=0).reshape(*index.shape, *[1] * (values.dim() - 2)).expand(*index.shape, *values.shape[2:])
    rows = values.gather(1, flat)
    owned = (index >= 0).reshape(*index.shape, *[1] * (values.dim() - 2))
    return rows * owned.to(rows.dtype)
