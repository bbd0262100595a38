"""Selection: from thousands of scored candidates to the few detections of each picture.

Shape legend: B = images, N = candidates, D = detections kept. Order is by falling score everywhere; equal scores keep
the order in which they came, as torchvision's kernel does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms as nms_kernel

from boxwright.ops.boxes import pairwise_iou


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices (D,) of the boxes (N, 4) that no better one overlaps by more than `iou_threshold`, best first.

    The algorithm itself, as the courses ask for it; the library runs torchvision's kernel, which gives the same answer
    (benchmarks/nms.py compares them). Boxes of zero area overlap nothing.

    >>> boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 20.0, 29.0, 29.0]])
    >>> nms(boxes, torch.tensor([0.6, 0.9, 0.5]), 0.5).tolist()
    [1, 2]
    """
    order = scores.argsort(descending=True, stable=True)
    # in float64, as the kernel compares: an overlap of exactly 0.6 in float32 is a little more than 0.6
    overlaps = pairwise_iou(boxes[order], boxes[order]).double() > iou_threshold  # (N, N)
    overlaps = overlaps.triu(diagonal=1)  # only a better box suppresses a worse one
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for index in range(len(order)):
        if alive[index]:
            alive &= ~overlaps[index]
    return order[alive]


def nms_per_class(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Indices (D,) kept by NMS within each class of one picture, best first: boxes (N, 4), scores and labels (N,).

    Classes are told apart by sorting, not by shifting coordinates: a shift costs float32 precision, and with negative
    coordinates it lets one class suppress another.
    """
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    order = labels.argsort(stable=True)
    counts = torch.unique_consecutive(labels[order], return_counts=True)[1].tolist()
    kept = [rows[nms_kernel(boxes[rows], scores[rows], iou_threshold)] for rows in torch.split(order, counts)]
    keep = torch.cat(kept).sort().values  # back to the order of arrival, so that equal scores keep it
    return keep[scores[keep].argsort(descending=True, stable=True)]


def top_candidates(scores: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """The best `count` of scores (B, N) above `threshold`: (values, indices), both (B, n), -1 where none is left.

    n is the smaller of count and N, so shapes depend on shapes only.
    """
    values, indices = scores.topk(min(count, scores.shape[1]), dim=1)
    good = values > threshold
    return values * good, torch.where(good, indices, -1)


def select_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, nms_iou: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NMS within each picture and class, then the best `max_detections` of each picture at fixed ranks.

    boxes (B, N, 4), scores (B, N), labels (B, N) with -1 where there is no candidate; boxes without area are dropped.
    Gives boxes (B, D, 4), scores (B, D), labels (B, D) and how many of the rows are real (B,); the rest is 0, 0, -1.
    """
    batch = len(boxes)
    good = (labels >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    kept_boxes = boxes.new_zeros(batch, max_detections, 4)
    kept_scores = scores.new_zeros(batch, max_detections)
    kept_labels = labels.new_full((batch, max_detections), -1)
    counts = torch.zeros(batch, dtype=torch.int64, device=boxes.device)
    for picture in range(batch):
        rows = good[picture].nonzero()[:, 0]
        keep = nms_per_class(boxes[picture, rows], scores[picture, rows], labels[picture, rows], nms_iou)
        rows = rows[keep[:max_detections]]
        kept_boxes[picture, : len(rows)] = boxes[picture, rows]
        kept_scores[picture, : len(rows)] = scores[picture, rows]
        kept_labels[picture, : len(rows)] = labels[picture, rows]
        counts[picture] = len(rows)
    return kept_boxes, kept_scores, kept_labels, counts
