"""NMS by all pairs of boxes: whole batches at once, for a GPU, which must not be waited for image by image.

A look takes the best rows of every image, compares all pairs of them, and settles which are kept. It knows for itself
whether that decided the best `limit` boxes: nearly always it did, and one answer for the whole batch is read back.
Where a crowd hides too many boxes, the next look takes four times as many rows, of those images only.

Shape legend: B = images, N = candidates, M = rows looked at, best first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

from boxwright.ops.boxes import box_area, pairwise_intersection

FIRST_LOOK = 4
"""The first look is at so many times the wanted number of boxes."""
FEWEST_ROWS = 64
"""But at so many at least: fewer save nothing."""
ROUNDS = 16
"""Rounds in which the first look settles its rows."""
GROWTH = 4
"""Each look has so many times the rows and the rounds of the one before."""
PAIR_BYTES = 1 << 27
"""Memory for pairs of boxes where the size of the card is not known."""
MANY_ROWS = 1024
"""From so many rows on, rounds are products of matrices."""
SHARE_OF_CARD = 64
"""On a GPU pairs may take this part of its memory: more than one pass over a batch is rare."""
BYTES_A_PAIR = 32
"""While overlaps are computed."""

looks: ContextVar[list[Tensor] | None] = ContextVar("looks", default=None)
"""Where `one_look` collects its answers; None outside it."""


@contextmanager
def one_look() -> Iterator[list[Tensor]]:
    """Within it NMS never waits for the device, so that a CUDA graph can hold it: it looks once.

    Gives a list to which every NMS adds whether that was enough for each image, (B,) bool. Where it was not, the
    detections are wrong, and whoever asked for one look computes them again without.
    """
    enough: list[Tensor] = []
    token = looks.set(enough)
    try:
        yield enough
    finally:
        looks.reset(token)


def first_look(boxes: Tensor, labels: Tensor, iou_threshold: float, limit: int, enough: list[Tensor]) -> Tensor:
    """Which boxes (B, N, 4) are kept after one look, (B, N) bool; whether that is `enough` is added to the list."""
    keep, decided = look(boxes, labels, iou_threshold, limit, rows=_first_rows(limit), rounds=ROUNDS)
    enough.append(decided)
    return keep


def suppress_by_pairs(boxes: Tensor, labels: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """`ops.select.suppress` on a GPU: (B, N) bool; it waits once, and again only for images that need another look."""
    rows, rounds = _first_rows(limit), ROUNDS
    keep, decided = look(boxes, labels, iou_threshold, limit, rows=rows, rounds=rounds)
    images = _not_yet(decided, range(len(boxes)))
    while images:
        rows, rounds = GROWTH * rows, GROWTH * rounds
        chosen = torch.tensor(images, device=boxes.device)
        more, decided = look(boxes[chosen], labels[chosen], iou_threshold, limit, rows=rows, rounds=rounds)
        keep[chosen] = more
        images = _not_yet(decided, images)
    return keep


def _first_rows(limit: int) -> int:
    return max(FEWEST_ROWS, FIRST_LOOK * limit)


def _not_yet(decided: Tensor, images: range | list[int]) -> list[int]:
    """The images that need another look; this waits for the device."""
    return [image for image, done in zip(images, decided.tolist(), strict=True) if not done]


def look(
    boxes: Tensor, labels: Tensor, iou_threshold: float, limit: int, *, rows: int, rounds: int
) -> tuple[Tensor, Tensor]:
    """Which of the best `rows` boxes are kept, (B, N) bool, and for which images (B,) the best `limit` are certain.

    Nothing is read back. Boxes (B, N, 4) come best first; labels (B, N) are -1 where there is no candidate.
    """
    candidate = labels >= 0  # (B, N)
    keep, settled = torch.zeros_like(candidate), ~candidate
    rows = min(rows, labels.shape[1])
    images = max(1, _pair_bytes(boxes.device) // max(1, rows * rows))
    for start in range(0, len(boxes), images):
        part = (slice(start, start + images), slice(0, rows))
        keep[part], settled[part] = _settle(boxes[part], labels[part], iou_threshold, rounds)
    certain = settled.cumprod(1).bool()  # up to the first row that may still go either way
    keep = keep & certain
    return keep, certain.all(1) | (keep.sum(1) >= limit)


def _settle(boxes: Tensor, labels: Tensor, iou_threshold: float, rounds: int) -> tuple[Tensor, Tensor]:
    """Which boxes (B, M, 4) are kept after so many rounds, and which of them that is certain of, both (B, M) bool.

    A box is kept where no kept better one overlaps it. Repeated from "all are kept", this gives in turn too many and
    too few boxes, and comes closer to the answer of the one-by-one algorithm: the first row is right after one round,
    those that only it overlaps after two. Where two rounds agree about a row, it is settled.
    """
    beaten = _beaten(boxes, labels, iou_threshold)
    candidate = labels >= 0
    keep = before = candidate
    for _ in range(min(rounds, labels.shape[1] + 1)):
        if beaten.dtype == torch.bool:
            lost = (beaten & keep[:, :, None]).any(1)
        else:  # how many kept boxes beat each: a sum of ones is 0 exactly where none does
            lost = (keep[:, None].to(beaten.dtype) @ beaten)[:, 0] > 0
        before, keep = keep, candidate & ~lost
    return keep, keep == before


def _beaten(boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """(B, M, M): whether box j is worse than box i, of its class, and overlapped by it too much, at [b, i, j].

    Few pairs are bool, whose operations start sooner; of many a product reads each once, so they are numbers, 0 and 1.
    """
    batch, count = labels.shape
    area = box_area(boxes)  # (B, M)
    many = torch.float16 if boxes.is_cuda else torch.float32
    kind = torch.bool if count < MANY_ROWS else many
    beaten = torch.empty((batch, count, count), dtype=kind, device=boxes.device)
    step = max(1, _pair_bytes(boxes.device) // BYTES_A_PAIR // max(1, batch * count))
    for start in range(0, count, step):
        rows = slice(start, start + step)
        shared = pairwise_intersection(boxes[:, rows], boxes)  # (B, n, M)
        # not `pairwise_iou`: NaN, of two empty boxes, is above no threshold either, and a pass over all pairs is saved
        overlap = shared / (area[:, rows, None] + area[:, None] - shared)
        beaten[:, rows] = (overlap > largest_below(iou_threshold)) & (labels[:, rows, None] == labels[:, None])
    return beaten.triu_(diagonal=1)


def _pair_bytes(device: torch.device) -> int:
    """Memory that pairs of boxes may take on this device, in bytes."""
    if device.type != "cuda":
        return PAIR_BYTES
    return int(torch.cuda.get_device_properties(device).total_memory) // SHARE_OF_CARD


def largest_below(threshold: float) -> float:
    """The largest float32 number not above a threshold: float32 overlaps above it are those above the threshold.

    >>> largest_below(0.5), largest_below(0.6) < 0.6
    (0.5, True)
    """
    near = np.float32(threshold)  # no tensor: reading one back is what a graph cannot hold
    return float(np.nextafter(near, np.float32(-np.inf)) if float(near) > threshold else near)
