"""NMS of rotated boxes: within each image and label, a box goes that a better one overlaps by the threshold or more.

At the threshold itself the box goes, as in Detectron2's `nms_rotated`; its NMS of upright boxes, and ours
(`ops.select`), keep it there. Boxes are (cx, cy, w, h, degrees), see `ops.rotated`. Shape legend: B = images,
N = candidates, D = detections kept. Order is by falling score everywhere; equal scores keep the order in which they
came.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.ops.rotated_iou import rotated_iou

FEWEST_ROWS = 256
"""On a CPU NMS looks at so many rows at a time at least."""
ROUNDS = 32
"""Rounds in which an exported graph settles its rows: chains of boxes each beaten by the one before are shorter."""


def rotated_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices (D,) of the boxes (N, 5) that no better one overlaps by `iou_threshold` or more, best first.

    >>> boxes = torch.tensor([[0.0, 0, 9, 9, 0], [0, 0, 9, 8, 0], [0, 0, 2, 9, 0]])
    >>> rotated_nms(boxes, torch.tensor([0.6, 0.9, 0.5]), 0.5).tolist()
    [1, 2]
    """
    order = scores.argsort(descending=True, stable=True)
    one_image = boxes[order][None], order.new_zeros(1, len(order))
    return order[rotated_suppress(*one_image, iou_threshold, len(order))[0]]


def rotated_suppress(boxes: Tensor, labels: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Which boxes NMS keeps within each image and label, (B, N) bool: `ops.select.suppress` of rotated boxes (B, N, 5).

    Boxes come best first; rows of label -1 are no candidates and never kept. The best `limit` kept boxes of an image
    are found for certain; those after them may be left undecided, that is, False. On a CPU row by row, in chunks; a GPU
    compares all pairs of an image, and so does an exported graph, whose answer is right unless more than 32 boxes
    beat each other in a chain.
    """
    if torch.compiler.is_compiling():
        return _in_rounds(_beaten(boxes, labels, boxes, labels, iou_threshold), labels >= 0)
    keep = torch.zeros_like(labels, dtype=torch.bool)
    for own, candidates, of in zip(keep, boxes, labels, strict=True):
        if boxes.device.type == "cpu":
            own[:] = _row_by_row(candidates, of, iou_threshold, limit)
        else:
            own[:] = _until_settled(_beaten(candidates, of, candidates, of, iou_threshold), of >= 0)
    return keep


def _beaten(boxes: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, iou_threshold: float) -> Tensor:
    """(..., N, M): whether a box (..., N, 5) overlaps one of the others (..., M, 5) of its label too much."""
    return (rotated_iou(boxes, others) >= iou_threshold) & (labels[..., :, None] == other_labels[..., None, :])


def _row_by_row(boxes: Tensor, labels: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Which boxes (N, 5) of one image are kept, (N,) bool: the greedy algorithm, until `limit` are."""
    keep = torch.zeros_like(labels, dtype=torch.bool)
    known = (labels >= 0).nonzero()[:, 0]
    kept = known[:0]
    for rows in known.split(max(FEWEST_ROWS, limit)):  # worse rows cannot change what better ones have decided
        before = _beaten(boxes[kept], labels[kept], boxes[rows], labels[rows], iou_threshold).any(0)
        rows = rows[~before]
        beaten = _beaten(boxes[rows], labels[rows], boxes[rows], labels[rows], iou_threshold).numpy()
        alive = torch.ones(len(rows), dtype=torch.bool)
        seen = alive.numpy()  # the same memory
        for index in range(len(rows)):
            if seen[index]:
                seen[index + 1 :] &= ~beaten[index, index + 1 :]
        kept = torch.cat([kept, rows[alive]])
        if len(kept) >= limit:
            break
    keep[kept] = True
    return keep


def _until_settled(beaten: Tensor, candidate: Tensor) -> Tensor:
    """Which boxes (N,) are kept: "no kept better one beats it", repeated until nothing changes (`suppress_pairs`)."""
    beaten = beaten.triu(diagonal=1)  # only a better box suppresses a worse one
    keep, before = candidate, ~candidate
    while not torch.equal(keep, before):
        before, keep = keep, candidate & ~(beaten & keep[:, None]).any(0)
    return keep


def _in_rounds(beaten: Tensor, candidate: Tensor) -> Tensor:
    """The same for a batch, (B, N), in a fixed number of rounds, which a graph can hold."""
    later = torch.ones_like(beaten[0]).triu(diagonal=1)
    beats = (beaten & later).float()  # (B, N, N)
    keep = candidate
    for _ in range(ROUNDS):
        keep = candidate & ~((keep[:, None].float() @ beats)[:, 0] > 0)
    return keep


def select_rotated(
    boxes: Tensor, scores: Tensor, labels: Tensor, nms_iou: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NMS within each image and class, then the best `max_detections` of each image, padded to that number.

    boxes (B, N, 5), scores (B, N), labels (B, N) with -1 where there is no candidate; boxes without area are dropped.
    Gives boxes (B, D, 5), scores (B, D), labels (B, D) and how many of the rows are real (B,); the rest is 0, 0, -1.
    """
    good = (labels >= 0) & (boxes[..., 2:4] > 0).all(-1)
    order = torch.where(good, scores, -torch.inf).argsort(dim=1, descending=True, stable=True)  # (B, N)
    scores, labels = scores.gather(1, order), torch.where(good, labels, -1).gather(1, order)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 5))
    keep = rotated_suppress(boxes, labels, nms_iou, max_detections)
    kept = keep.cumsum(1)  # (B, N): how many are kept up to here, which is the place of each kept box, counted from 1
    place = torch.where(keep & (kept <= max_detections), kept, 0)
    # a table with one column more: boxes that are not wanted go to column 0, which is cut off
    source = order.new_zeros(order.shape[0], max_detections + 1)
    source = source.scatter(1, place, torch.arange(order.shape[1], device=order.device).expand_as(order))[:, 1:]
    counts = keep.sum(1, keepdim=True).clamp(max=max_detections)  # (B, 1)
    real = torch.arange(max_detections, device=order.device) < counts  # (B, D)
    if not order.shape[1]:  # nothing to gather from
        empty = boxes.new_zeros(len(boxes), max_detections)
        return empty[..., None].expand(-1, -1, 5).clone(), empty, source - 1, counts[:, 0]
    return (
        torch.where(real[..., None], boxes.gather(1, source[..., None].expand(-1, -1, 5)), 0.0),
        torch.where(real, scores.gather(1, source), 0.0),
        torch.where(real, labels.gather(1, source), -1),
        counts[:, 0],
    )
