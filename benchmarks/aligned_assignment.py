"""Task-aligned assignment and the quality focal loss: what `benchmarks.aligned` tries in place of FCOS's own.

Papers: Feng, Zhong, Gao, Scott, Huang, "TOOD: Task-aligned One-stage Object Detection", ICCV 2021, section 3.2; Li et
al., "Generalized Focal Loss", NeurIPS 2020. Which locations learn an object is told by their own predictions.

Shape legend: B = images, P = locations on all levels, G = ground-truth boxes (padded), g = a chunk of them, K =
classes, N = candidates of an object. Index -1 is background. Nothing here waits for the host, and all shapes are those
of the inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops.assign import BACKGROUND
from boxwright.ops.losses import matched_iou

_CHUNK_ELEMENTS = 1 << 22  # B * P * g at a time: bounds memory
NEVER = -1e9
"""Fit, as a logarithm, of a location that is no candidate."""


class AlignedAssignment(NamedTuple):
    """The box of each location: owner (B, P), a ground-truth row or -1; where ignored (B, P), it has no loss.

    quality (B, P) is what its class score is to become: in [0, 1], and 0 on background.
    """

    owner: Tensor
    ignored: Tensor
    quality: Tensor


@torch.no_grad()
def assign_aligned(
    class_logits: Tensor,
    predicted: Tensor,
    locations: Tensor,
    boxes: Tensor,
    channels: Tensor,
    valid: Tensor,
    ignore: Tensor,
    *,
    candidates: int,
    score_power: float,
    overlap_power: float,
) -> AlignedAssignment:
    """Give each object the locations inside it whose score and box fit it best.

    The fit of a location to an object is score ** score_power * IoU ** overlap_power (equation 2), with the score of
    the object's class and the IoU of the predicted box. An object takes the `candidates` locations of the best fit
    among those inside it; a location that several take learns the one that its box overlaps most. Its quality is its
    fit over the best fit of any location that learns the object, times the largest IoU of those (section 3.2.2).

    Args:
        class_logits: (B, P, K).
        predicted: (B, P, 4) boxes.
        locations: (P, 2) cell centres.
        boxes: (B, G, 4) ground truth.
        channels: (B, G) the channel of each object's class in class_logits.
        valid: (B, G) False for padding rows.
        ignore: (B, G) regions that may own nothing; a location inside one that no other box owns is ignored.
    """
    batch, count = channels.shape
    num_locations = len(locations)
    owner = torch.full((batch, num_locations), BACKGROUND, dtype=torch.int64, device=boxes.device)
    best_iou = torch.full((batch, num_locations), -1.0, device=boxes.device)
    fit = torch.full_like(best_iou, NEVER)
    in_ignored = torch.zeros_like(owner, dtype=torch.bool)
    if count == 0 or num_locations == 0:
        return AlignedAssignment(owner, in_ignored, torch.zeros_like(fit))

    most = min(candidates, num_locations)
    chunk = max(1, _CHUNK_ELEMENTS // (batch * num_locations))
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        rows = boxes[:, part]
        inside = _inside(locations, rows)  # (B, P, g)
        in_ignored |= (inside & (valid & ignore)[:, None, part]).any(-1)
        shape = inside.shape
        iou = matched_iou(predicted[:, :, None].expand(*shape, 4), rows[:, None].expand(*shape, 4))
        logits = class_logits.gather(2, channels[:, None, part].expand(shape))
        fits = score_power * F.logsigmoid(logits) + overlap_power * iou.clamp(min=1e-6).log()
        fits = torch.where(inside & (valid & ~ignore)[:, None, part], fits, NEVER)
        values, taken = fits.topk(most, dim=1)  # (B, N, g)
        chosen = torch.zeros_like(inside).scatter_(1, taken, values > NEVER)
        own, which = torch.where(chosen, iou, -1.0).max(-1)  # (B, P)
        better = own > best_iou
        owner = torch.where(better, which + start, owner)
        best_iou = torch.where(better, own, best_iou)
        fit = torch.where(better, fits.gather(2, which[..., None])[..., 0], fit)

    owned = owner >= 0
    row, iou = owner.clamp(min=0), best_iou.clamp(min=0)  # background adds nothing to the row that it points to
    best_fit = torch.full((batch, count), NEVER, device=boxes.device).scatter_reduce(1, row, fit, "amax")
    best_of = torch.zeros((batch, count), device=boxes.device).scatter_reduce(1, row, iou, "amax")  # (B, G)
    quality = (fit - best_fit.gather(1, row)).exp() * best_of.gather(1, row) * owned
    return AlignedAssignment(owner, in_ignored & ~owned, quality)


def _inside(locations: Tensor, boxes: Tensor) -> Tensor:
    """Which locations (P, 2) lie inside which boxes (B, g, 4): (B, P, g)."""
    x, y = locations[:, 0, None], locations[:, 1, None]  # (P, 1)
    x1, y1, x2, y2 = boxes[:, None].unbind(-1)  # (B, 1, g) each
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def quality_focal_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, keep: Tensor, *, beta: float = 2.0
) -> Tensor:  # fmt: skip
    """Sum of the quality focal loss (Li et al. 2020, equation 2) of logits (B, P, K).

    |y - sigmoid(logit)| ** beta times the cross-entropy against y, the quality (B, P) of a location for its own class
    (labels (B, P), -1 for background) and 0 for every other. keep (B, P) False leaves a location out.
    """
    logits = torch.where(keep[..., None], logits, -1e4)  # a very confident negative: loss 0, gradient 0
    negative = logits.sigmoid().pow(beta) * F.softplus(logits)
    positive = (labels >= 0) & keep
    own = torch.where(positive, logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0], 0.0)  # (B, P)
    score, target = own.sigmoid(), torch.where(positive, quality, 0.0)
    charge = (target - score).abs().pow(beta) * (F.softplus(own) - target * own)
    refund = score.pow(beta) * F.softplus(own)
    return negative.sum() + torch.where(positive, charge - refund, 0.0).sum()
