"""Losses: focal, overlap and cross-entropy, summed over the rows that a mask keeps.

Nothing here indexes by a mask (that would make a GPU wait for the host): rows that do not count are replaced by values
with loss 0 and gradient 0. Shape legend: B = images, P = locations, K = classes; `...` = any shape.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops.processes import meet_

BoxLoss = Literal["iou", "giou", "l1"]


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    keep: Tensor,
    *,
    weights: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sum of the focal loss (Lin et al. 2017, eq. 5) of logits (B, P, K) against labels (B, P), -1 for background.

    Every entry is first summed as a negative; for the entry of a location's own class that term is then replaced by the
    positive one, so no one-hot tensor (B, P, K) is made. keep (B, P) False leaves a location out; weights, such as
    (B, 1) for each image's own, multiply the rest.

    >>> round(focal_loss(torch.zeros(1, 1, 2), torch.tensor([[0]]), torch.tensor([[True]])).item(), 6)
    0.173287
    """
    logits = torch.where(keep[..., None], logits, -1e4)  # a very confident negative: loss 0, gradient 0
    negative = (1 - alpha) * logits.sigmoid().pow(gamma) * F.softplus(logits)
    positive = labels >= 0
    own = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]  # (B, P)
    both = torch.stack([-own, own])  # (2, B, P)
    charge, refund = (both.sigmoid().pow(gamma) * F.softplus(both)).unbind()
    difference = torch.where(positive & keep, alpha * charge - (1 - alpha) * refund, 0.0)
    if weights is None:
        return negative.sum() + difference.sum()
    return ((negative.sum(-1) + difference) * weights).sum()


def label_weights(labels: Tensor, class_weights: Tensor) -> Tensor:
    """The weight of each row from its label (...,), given those of the classes (K,); background (-1) weighs 1.

    >>> label_weights(torch.tensor([1, -1, 0]), torch.tensor([0.5, 4.0])).tolist()
    [4.0, 1.0, 0.5]
    """
    return torch.where(labels >= 0, class_weights[labels.clamp(min=0)], 1.0)


def box_loss(predicted: Tensor, target: Tensor, weights: Tensor, kind: BoxLoss, smoothing: float = 0.0) -> Tensor:
    """Weighted sum of a box loss over matched distances (..., 4) as left, top, right, bottom of one location.

    "iou" is -ln(IoU) (UnitBox; the FCOS paper), "giou" 1 - GIoU (its improvement), "l1" the mean absolute error of the
    four sides (a version of the course). weights (...,) of 0 leave a row out. `smoothing`: see `matched_iou`.
    """
    counts = weights > 0
    predicted = torch.where(counts[..., None], predicted, 1.0)
    target = torch.where(counts[..., None], target, 1.0)
    if kind == "l1":
        return ((predicted - target).abs().mean(-1) * weights).sum()
    overlap = iou_of_distances(predicted, target, generalised=kind == "giou", smoothing=smoothing)
    loss = 1 - overlap if kind == "giou" else -overlap.clamp(min=1e-6).log()
    return (loss * weights).sum()


def matched_iou(
    first: Tensor, second: Tensor, *, generalised: bool = False, eps: float = 1e-7, smoothing: float = 0.0
) -> Tensor:
    """Intersection over union (...,) of boxes (..., 4) row by row, or GIoU (Rezatofighi et al. 2019, eq. 2).

    Unlike `boxes.pairwise_iou` it takes matched rows, and `eps` keeps its gradient finite. `smoothing` is added to both
    areas of the IoU (1 in the FCOS authors' code and AdelaiDet).
    GIoU is IoU - (hull - union) / hull, in (-1, 1]; its gradient also pulls boxes together that do not touch.

    >>> a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    >>> matched_iou(a, b).item(), round(matched_iou(a, b, generalised=True).item(), 4)
    (0.0, -0.3333)
    """
    ax1, ay1, ax2, ay2 = first.unbind(-1)
    bx1, by1, bx2, by2 = second.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    areas = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1)
    hull = None
    if generalised:
        hull_width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
        hull_height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
        hull = hull_width * hull_height
    return _iou(width * height, areas, hull, eps, smoothing)


def iou_of_distances(
    first: Tensor, second: Tensor, *, generalised: bool = False, eps: float = 1e-7, smoothing: float = 0.0
) -> Tensor:
    """`matched_iou` (...,) of boxes given as distances (..., 4) from one point to their left, top, right and bottom.

    What both boxes share reaches as far as the nearer of each side, their hull as far as the farther (UnitBox, Yu et
    al. 2016): the same numbers with fewer operations.

    >>> iou_of_distances(torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 3.0, 1.0]])).item()
    0.5
    """
    left, top, right, bottom = torch.minimum(first, second).unbind(-1)
    intersection = (left + right).clamp(min=0) * (top + bottom).clamp(min=0)
    areas = _area(first) + _area(second)
    hull = _area(torch.maximum(first, second)) if generalised else None
    return _iou(intersection, areas, hull, eps, smoothing)


def _area(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(-1)
    return (left + right) * (top + bottom)


def _iou(intersection: Tensor, areas: Tensor, hull: Tensor | None, eps: float, smoothing: float) -> Tensor:
    """IoU from the intersection and the sum of both areas, GIoU where there is a hull; all (...,)."""
    union = areas - intersection
    smooth, whole = (intersection + smoothing, union + smoothing) if smoothing else (intersection, union)
    iou = smooth / (whole + eps)
    return iou if hull is None else iou - (hull - union) / (hull + eps)


def smooth_l1(predicted: Tensor, target: Tensor, weights: Tensor, beta: float = 0.0) -> Tensor:
    """Weighted sum of the smooth absolute error of offsets (..., 4); weights (...,) of 0 leave a row out.

    Quadratic below `beta` (error^2 / 2 beta), straight above it (Fast R-CNN, equation 3, where beta is 1); 0 is L1.

    >>> smooth_l1(torch.tensor([[3.0, 0.5, 0.0, 0.0]]), torch.zeros(1, 4), torch.ones(1), beta=1.0).item()
    2.625
    """
    counts = (weights > 0)[..., None]
    error = F.smooth_l1_loss(
        torch.where(counts, predicted, 0.0), torch.where(counts, target, 0.0), reduction="none", beta=beta
    )
    return (error.sum(-1) * weights).sum()


def giou_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of 1 - GIoU of boxes (..., 4) row by row; weights (...,) of 0 leave a row out."""
    counts = (weights > 0)[..., None]
    unit = torch.arange(4, device=predicted.device) // 2  # the box (0, 0, 1, 1)
    overlap = matched_iou(torch.where(counts, predicted, unit), torch.where(counts, target, unit), generalised=True)
    return ((1 - overlap) * weights).sum()


def centerness_loss(logits: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """Sum of the binary cross-entropy of logits (...,) against soft targets in [0, 1] where keep (...,)."""
    target = torch.where(keep, target, 0.0)
    logits = torch.where(keep, logits, -1e4)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")


def entropy_floor(target: Tensor, keep: Tensor) -> Tensor:
    """The least that `centerness_loss` can be: the entropy of its soft targets, summed where keep (...,).

    The cross-entropy against a target of 0.5 never falls below ln 2, however good the prediction.

    >>> round(entropy_floor(torch.tensor([0.5, 1.0]), torch.tensor([True, True])).item(), 4)
    0.6931
    """
    target = torch.where(keep, target, 0.0)
    return -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target)).sum()


def process_mean_(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes, written to the tensor itself; nothing changes where there is one.

    Whatever a loss is divided by is such a mean, so that gradients do not depend on which process has which images.
    """
    return meet_(values) if dist.is_available() and dist.is_initialized() else values
