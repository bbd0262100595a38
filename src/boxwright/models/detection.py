"""What all detectors share around their own mathematics: the contract, pixels in, and detections out.

Shape legend: B = images, N = candidates, D = detections of one picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from boxwright.ops.select import nms_per_class
from boxwright.structures import Detections, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectSettings:
    """How raw predictions become detections."""

    score_threshold: float = 0.05
    nms_iou: float = 0.6
    candidates_per_level: int = 1000
    max_detections: int = 100


class DetectionModel(Protocol):
    """The contract of a detector. Return types do not depend on training mode, and no method reads truth to detect.

    forward gives raw predictions; loss gives named scalars that are safe with zero boxes on any rank; detect_padded
    gives fixed ranks in network pixels; detect gives detections in the pixels of the original pictures.
    """

    training: bool

    def __call__(self, images: ImageBatch, targets: Targets | None = None, proposals: Any = None) -> Any: ...
    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]: ...
    def detect_padded(self, outputs: Any, settings: DetectSettings) -> PaddedDetections: ...
    def detect(self, outputs: Any, images: ImageBatch, settings: DetectSettings) -> list[Detections]: ...


def normalise_and_pad(images: ImageBatch, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels (B, 3, H, W) minus mean over std, with zeros outside each picture (so padding looks like nothing)."""
    pixels = images.pixels
    unit = 255.0 if pixels.dtype == torch.uint8 else 1.0
    scale = torch.tensor([1 / (unit * s) for s in std], device=pixels.device)[:, None, None]
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=pixels.device)[:, None, None]
    normal = torch.addcmul(shift, pixels.float(), scale)
    height, width = pixels.shape[-2:]
    rows = torch.arange(height, device=pixels.device) < images.sizes_hw[:, :1]  # (B, H)
    columns = torch.arange(width, device=pixels.device) < images.sizes_hw[:, 1:]  # (B, W)
    normal = normal * (rows[:, None, :, None] & columns[:, None, None, :])
    return normal.contiguous(memory_format=torch.channels_last)


def pad_detections(boxes: Tensor, scores: Tensor, labels: Tensor, settings: DetectSettings) -> PaddedDetections:
    """NMS within each picture and class, then the best `max_detections` at fixed ranks.

    boxes (B, N, 4), scores (B, N), labels (B, N) with -1 where there is no candidate. Boxes without area are dropped.
    """
    batch, size = len(boxes), settings.max_detections
    good = (labels >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    padded = PaddedDetections(
        boxes.new_zeros(batch, size, 4),
        scores.new_zeros(batch, size),
        labels.new_full((batch, size), -1),
        torch.zeros(batch, dtype=torch.int64, device=boxes.device),
    )
    for index in range(batch):
        rows = good[index].nonzero()[:, 0]
        keep = nms_per_class(boxes[index, rows], scores[index, rows], labels[index, rows], settings.nms_iou)
        rows = rows[keep[:size]]
        count = len(rows)
        padded.boxes[index, :count] = boxes[index, rows]
        padded.scores[index, :count] = scores[index, rows]
        padded.labels[index, :count] = labels[index, rows]
        padded.count[index] = count
    return padded


def restore(padded: PaddedDetections, images: ImageBatch) -> list[Detections]:
    """Detections of each picture on the CPU, from network pixels back to those of the original picture."""
    scale = images.scale_xy.to(padded.boxes.device).repeat(1, 2)[:, None]  # (B, 1, 4)
    offset = images.offset_xy.to(padded.boxes.device).repeat(1, 2)[:, None]
    boxes = ((padded.boxes - offset) / scale).cpu()
    scores, labels, counts = padded.scores.cpu(), padded.labels.cpu(), padded.count.tolist()
    sizes = [(int(h), int(w)) for h, w in images.original_hw.tolist()]
    found = []
    for index, (count, (height, width)) in enumerate(zip(counts, sizes, strict=True)):
        own = boxes[index, :count].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        found.append(Detections(own, scores[index, :count], labels[index, :count], (height, width)))
    return found
