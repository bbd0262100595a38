"""What a placed window of an image shows of its ground truth and its proposals.

Shape legend: G = objects of the image, R = proposals. Boxes are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from boxwright.ops.image import Placement
from boxwright.structures import CroppedMask, GroundTruth


def place_ground_truth(
    ground_truth: GroundTruth, placement: Placement, min_visibility: float, *, centred: bool = False
) -> GroundTruth:
    """The ground truth visible in a placed window, in canvas coordinates.

    An object is dropped if less than 1 pixel or less than `min_visibility` of its box is left, or, if `centred`, if its
    centre lies outside. An ignored region stays as long as any of it is visible, since it must not become background. A
    box that the window cuts is shrunk to what is left of its mask, if it has one (with a pixel). `ops.move_boxes` does
    the same for a batch without masks, with the same numbers.
    """
    if not len(ground_truth):
        return ground_truth
    # in NumPy: for so few numbers torch takes longer to begin than to compute
    origin, limits = (np.array(placement.window[i : i + 2] * 2, dtype=np.float32) for i in (0, 2))
    scale, corner = (np.array(pair * 2, dtype=np.float32) for pair in (placement.scale_xy, placement.corner_xy))
    own = ground_truth.boxes.numpy()
    clipped = own.clip(origin, limits)
    boxes = torch.from_numpy((clipped - origin) * scale + corner)
    sides, own_sides, clipped_sides = (part[:, 2:] - part[:, :2] for part in (boxes.numpy(), own, clipped))
    enough = clipped_sides.prod(1) >= min_visibility * own_sides.prod(1)
    if centred:
        centres = (own[:, :2] + own[:, 2:]) / 2
        enough &= ((centres > origin[:2]) & (centres < limits[:2])).all(1)
    left = torch.from_numpy((sides >= 1).all(1) & (enough | ground_truth.ignore.numpy()))
    if ground_truth.masks is None:
        return GroundTruth(boxes[left], ground_truth.labels[left], ground_truth.ignore[left])

    cut = (clipped != own).any(1)
    indices, masks = [], []
    for index in left.nonzero().flatten().tolist():
        mask = place_mask(ground_truth.masks[index], placement)
        if cut[index] and bool(ground_truth.masks[index].bitmap.any()):
            tight = _tight_box(mask)
            if tight is None:
                continue
            boxes[index] = torch.tensor(tight, dtype=torch.float32)
        indices.append(index)
        masks.append(mask)
    chosen = torch.tensor(indices, dtype=torch.int64)
    return GroundTruth(boxes[chosen], ground_truth.labels[chosen], ground_truth.ignore[chosen], tuple(masks))


def place_proposals(proposals: Tensor | None, placement: Placement) -> Tensor | None:
    """The proposals (R, 5) visible in a placed window, in canvas coordinates; those under 1 pixel are dropped."""
    if proposals is None:
        return None
    x1, y1, x2, y2 = placement.window
    origin, limits = torch.tensor([x1, y1] * 2), torch.tensor([x2, y2] * 2)
    boxes = (proposals[:, :4].maximum(origin).minimum(limits) - origin) * torch.tensor(placement.scale_xy * 2)
    shown = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    boxes = boxes + torch.tensor(placement.corner_xy * 2, dtype=torch.float32)
    return torch.cat([boxes, proposals[:, 4:]], dim=1)[shown]


def place_mask(mask: CroppedMask, placement: Placement) -> CroppedMask:
    """The part of a mask visible in a placed window: each canvas pixel takes the mask's value at its centre."""
    if not mask.known:
        return mask
    height, width = mask.bitmap.shape
    x1, y1, x2, y2 = placement.window
    scale_x, scale_y = placement.scale_xy
    columns, left = _sampled(mask.x, width, (x1, x2), scale_x)
    rows, top = _sampled(mask.y, height, (y1, y2), scale_y)
    corner_x, corner_y = placement.corner_xy
    return CroppedMask(left + corner_x, top + corner_y, mask.bitmap[rows][:, columns])


def _sampled(start: int, length: int, window: tuple[int, int], scale: float) -> tuple[Tensor, int]:
    """Which bitmap rows (or columns) the canvas pixels show, and the first of those pixels, counted in the window."""
    first = max(start, window[0]) - window[0]
    last = min(start + length, window[1]) - window[0]
    begin, end = math.ceil(first * scale - 0.5), math.ceil(last * scale - 0.5)
    if end <= begin:  # thinner than a pixel: drawn in the pixel that contains it
        limit = math.floor((window[1] - window[0]) * scale + 0.5)
        begin = min(max(math.floor(first * scale), 0), max(limit - 1, 0))
        end = begin + 1 if last > first else begin
    centres = (torch.arange(begin, end, dtype=torch.float64) + 0.5) / scale
    return (centres.floor().long() + (window[0] - start)).clamp(0, length - 1), begin


def _tight_box(mask: CroppedMask) -> tuple[int, int, int, int] | None:
    rows = mask.bitmap.any(1).nonzero().flatten().tolist()
    columns = mask.bitmap.any(0).nonzero().flatten().tolist()
    if not rows or not columns:
        return None
    return mask.x + columns[0], mask.y + rows[0], mask.x + columns[-1] + 1, mask.y + rows[-1] + 1
