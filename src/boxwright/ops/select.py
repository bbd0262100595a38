"""Selection: from thousands of scored candidates to the detections of each image.

Shape legend: B = images, N = candidates, D = detections kept. Order is by falling score everywhere; equal scores keep
the order in which they came, as torchvision's kernel does. Shapes never depend on what is in an image, so all of it
can be exported; the one step that needs more than tensor arithmetic is the operator `boxwright::suppress`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms as nms_kernel

from boxwright.ops.boxes import pairwise_iou
from boxwright.ops.outside_graphs import splits
from boxwright.ops.suppress_pairs import first_look, looks, suppress_by_pairs

ROWS_AT_ONCE = 4
"""NMS looks at so many times the wanted number of boxes first, and at more only while too few of them are kept."""


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices (D,) of the boxes (N, 4) that no better one overlaps by more than `iou_threshold`, best first.

    The algorithm to be read: nothing in the library calls it. What runs is `suppress`, for a batch and class by class,
    with torchvision's kernel on a CPU and by all pairs (`suppress_pairs.py`) on a GPU; tests show that all of them
    keep the same boxes, and benchmarks/nms.py what that saves. Boxes of zero area overlap nothing.

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


@torch.library.custom_op("boxwright::suppress", mutates_args=(), device_types="cpu")
def suppress(boxes: Tensor, labels: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Which boxes NMS keeps within each image and label, (B, N) bool: those that no better one overlaps too much.

    Boxes (B, N, 4) come best first; rows of label -1 are no candidates and never kept. The best `limit` kept boxes of
    an image are found for certain; those after them may be left undecided, that is, False. An operator of its own,
    because an exported graph cannot loop over images and classes: `deploy.export.onnx` writes it as ONNX's
    NonMaxSuppression.
    """
    keep = torch.zeros_like(labels, dtype=torch.bool)
    step = max(1, ROWS_AT_ONCE * limit)
    for own, candidates, of in zip(keep, boxes, labels, strict=True):
        known = (of >= 0).nonzero()[:, 0]
        rows = known[:0]
        for start in range(0, len(known), step):  # worse rows cannot change what better ones have decided
            rows = torch.cat([rows, known[start : start + step]])
            rows = rows[_kept(candidates[rows], of[rows], iou_threshold)]
            if len(rows) >= limit:
                break
        own[rows] = True
    return keep


def _kept(boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Which of the boxes (N, 4) of one image NMS keeps, class by class: (N,) bool."""
    keep = torch.zeros_like(labels, dtype=torch.bool)
    order = labels.argsort(stable=True)
    _, counts = torch.unique_consecutive(labels[order], return_counts=True)
    falling = torch.arange(len(order), 0, -1, dtype=torch.float32)  # scores that keep this order
    for rows in torch.split(order, counts.tolist()):
        keep[rows[nms_kernel(boxes[rows], falling[: len(rows)], iou_threshold)]] = True
    return keep


@suppress.register_fake
def _(boxes: Tensor, labels: Tensor, iou_threshold: float, limit: int) -> Tensor:
    return torch.empty_like(labels, dtype=torch.bool)


suppress.register_kernel(("cuda", "mps"))(suppress_by_pairs)


def best_rows(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best `count` of scores (B, N), best first: (values, rows), both (B, n), n the smaller of count and N.

    In an exported graph n is count (a number of rows that depends on sizes would spread through the graph): missing
    rows have the value -inf and the index 0.
    """
    available = scores.shape[1]
    if not torch.compiler.is_exporting():
        values, rows = scores.topk(min(count, available), dim=1)
        return values, rows
    values, rows = F.pad(scores, (0, count), value=-torch.inf).topk(count, dim=1)
    return values, torch.where(rows < available, rows, 0)


def top_candidates(scores: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """The best `count` of scores (B, N) above `threshold`: (values, indices), both (B, n), -1 where none is left.

    n is that of `best_rows`, so shapes depend on shapes only.
    """
    values, indices = best_rows(scores, count)
    good = values > threshold
    return torch.where(good, values, 0.0), torch.where(good, indices, -1)


def top_pairs(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best `count` pairs of row and class of logits (B, N, K), best first: (values, rows, classes), each (B, n).

    They lie within the `count` rows whose best class is best, so only those are sorted class by class.

    >>> [part.tolist() for part in top_pairs(torch.tensor([[[1.0, 5.0], [4.0, 3.0], [0.0, 2.0]]]), 3)]
    [[[5.0, 4.0, 3.0]], [[0, 1, 1]], [[1, 0, 1]]]
    """
    num_classes = logits.shape[2]
    highest, best = best_rows(logits.amax(2), count)  # (B, m)
    near = logits.gather(1, best[..., None].expand(-1, -1, num_classes))  # (B, m, K)
    if torch.compiler.is_exporting():
        near = torch.where(highest[..., None] == -torch.inf, -torch.inf, near)
    values, place = best_rows(near.flatten(1), count)
    return values, best.gather(1, place // num_classes), place % num_classes


def clip_boxes(boxes: Tensor, sizes_hw: Tensor) -> Tensor:
    """Boxes (B, N, 4) clipped to their images of sizes_hw (B, 2): x to the width, y to the height, on both sides.

    >>> clip_boxes(torch.tensor([[[-5.0, -5.0, 50.0, 50.0]]]), torch.tensor([[20, 30]])).tolist()
    [[[0.0, 0.0, 30.0, 20.0]]]
    """
    limits = sizes_hw.flip(-1).to(boxes.dtype).repeat(1, 2)[:, None]  # (B, 1, 4): width, height, width, height
    return boxes.clamp(min=0).minimum(limits)


def clip_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, counts: Tensor, sizes_hw: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Padded detections clipped to their images of sizes_hw (B, 2) after NMS; those that lie outside are removed."""
    boxes = clip_boxes(boxes, sizes_hw)
    good = (labels >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(-1)  # (B, D)
    order = (~good).to(torch.uint8).argsort(dim=1, stable=True)  # the others move to the front
    good = good.gather(1, order)
    return (
        boxes.gather(1, order[..., None].expand(-1, -1, 4)) * good[..., None],
        scores.gather(1, order) * good,
        torch.where(good, labels.gather(1, order), -1),
        good.sum(1),
    )


def select_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, nms_iou: float, max_detections: int, *, keep_empty: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NMS within each image and class, then the best `max_detections` of each image, padded to that number.

    boxes (B, N, 4), scores (B, N), labels (B, N) with -1 where there is no candidate; boxes without area are dropped,
    unless `keep_empty` (torchvision's one-stage detectors report those that clipping left so).
    Gives boxes (B, D, 4), scores (B, D), labels (B, D) and how many of the rows are real (B,); the rest is 0, 0, -1.
    """
    good = labels >= 0
    if not keep_empty:
        good &= (boxes[..., 2:] > boxes[..., :2]).all(-1)
    order = torch.where(good, scores, -torch.inf).argsort(dim=1, descending=True, stable=True)  # (B, N)
    labels = torch.where(good, labels, -1).gather(1, order)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    found = (boxes, labels, nms_iou, max_detections)
    enough = looks.get()
    # a detection that is captured cannot wait for an answer: NMS looks once, and says whether it was enough; in a
    # training step that is captured it is done between two graphs
    if enough is not None:
        keep = first_look(*found, enough)
    else:
        keep = splits[-1](suppress, *found) if splits else suppress(*found)
    kept = keep.cumsum(1)  # (B, N): how many are kept up to here, which is the place of each kept box, counted from 1
    place = torch.where(keep & (kept <= max_detections), kept, 0)
    # a table with one column more: boxes that are not wanted go to column 0, which is cut off
    source = order.new_zeros(order.shape[0], max_detections + 1)
    source = source.scatter(1, place, torch.arange(order.shape[1], device=order.device).expand_as(order))[:, 1:]
    counts = keep.sum(1, keepdim=True).clamp(max=max_detections)  # (B, 1)
    real = torch.arange(max_detections, device=order.device) < counts  # (B, D)
    return (
        torch.where(real[..., None], boxes.gather(1, source[..., None].expand(-1, -1, 4)), 0.0),
        torch.where(real, scores.gather(1, order).gather(1, source), 0.0),
        torch.where(real, labels.gather(1, source), -1),
        counts[:, 0],
    )
