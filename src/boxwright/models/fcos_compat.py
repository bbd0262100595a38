"""What only foreign checkpoints of FCOS need: the rules of its authors, AdelaiDet, Detectron2, torchvision, the course.

`fcos.py` is the method of the paper; where a config's `compat` differs from its defaults, the model comes here. The
table in docs/conventions.md says which library has which rule.

Shape legend: B = images, P = locations of one level or of all, K = classes, N = candidates. Boxes are absolute
(x1, y1, x2, y2) in network pixels; label -1 is background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from boxwright.models.sections import check_channels
from boxwright.ops.channels import report_classes
from boxwright.ops.points import Grid, RangeEnds
from boxwright.ops.select import clip_boxes, clip_detections, select_detections
from boxwright.structures import DetectSettings, PaddedDetections


@dataclass(frozen=True, kw_only=True, slots=True)
class FCOSCompat:
    """What only the checkpoints of other code bases need."""

    level_range_ends: RangeEnds = "half_open"
    """Which ends belong to a range: neither in Detectron2's, torchvision's and the course's checkpoints (which compare
    areas roughly, too), both in AdelaiDet's, MMDetection's and the authors'."""
    locations: Grid = "centre"
    """Where a cell looks; "torchvision" and, for the course's transposed variant, "swapped" are for their
    checkpoints."""
    smoothing: float = 0.0
    """Added to both areas of the IoU in the box loss: 1 in AdelaiDet and the authors' code."""
    multi_label: bool = True
    """Whether one location may report several classes at test; the course keeps the best only."""
    class_threshold: float = 0.0
    """Least class probability of a candidate, whatever its centerness: 0.05 in AdelaiDet, MMDetection and the authors'
    code, where no threshold holds for the final score."""
    scoring: Literal["joint", "class_first"] = "joint"
    """What ranks the candidates of a level, and what is reported: the root of class times centerness for both, or the
    class alone and then the product without the root (MMDetection)."""
    clip: Literal["before_nms", "after_nms"] = "before_nms"
    """When boxes are cut to the image; Detectron2 and AdelaiDet do so at the end."""
    keep_empty: bool = False
    """Whether boxes that clipping left without area are reported, as torchvision does."""
    inclusive_pixels: bool = False
    """Whether x2 and y2 are the last pixel of a box in clipping and NMS, as in the authors' code."""
    class_channels: tuple[int, ...] | None = None
    """The output channel of each class, where a checkpoint has more of them than classes (torchvision's 91)."""
    pad_multiple: int = 1
    """Batches are padded to sides of this multiple: 32 in all references."""

    def __post_init__(self) -> None:
        check_channels(self.class_channels)


def limit_candidates(compat: FCOSCompat, scores: Tensor, probabilities: Tensor) -> Tensor:
    """Scores (B, P, K) with -1 for what may be no candidate, given the class probabilities (B, P, K)."""
    if compat.scoring == "class_first":
        scores = probabilities
    if compat.class_threshold > 0:
        scores = torch.where(probabilities > compat.class_threshold, scores, -1.0)
    if not compat.multi_label:
        best = scores.argmax(-1, keepdim=True)
        scores = torch.where(torch.arange(scores.shape[-1], device=scores.device) == best, scores, -1.0)
    return scores


def reported(
    compat: FCOSCompat, values: Tensor, picked: Tensor, central: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Final scores (B, N) of candidates, and their indices, -1 where the score is not above the threshold.

    `values` are what they were ranked by, `central` (B, N) their centerness.
    """
    if compat.scoring == "joint":
        return values, picked
    values = values * central
    return values, torch.where(values > threshold, picked, -1)


def select(
    compat: FCOSCompat, boxes: Tensor, scores: Tensor, labels: Tensor, sizes_hw: Tensor, settings: DetectSettings,
    class_of_channel: Tensor,
) -> PaddedDetections:  # fmt: skip
    """The best detections of candidates: boxes (B, N, 4), scores and labels (B, N), in images of sizes_hw (B, 2)."""
    if compat.clip == "before_nms":  # what lies outside must not overlap
        boxes = clip_boxes(boxes, sizes_hw - int(compat.inclusive_pixels))
    # 0 0 1 1, made on the device: a copy from the host would make a GPU wait
    extent = torch.arange(4, device=boxes.device) // 2 * 1.0 if compat.inclusive_pixels else 0.0
    found = select_detections(
        boxes + extent, scores, labels, settings.nms_iou, settings.max_detections,
        keep_empty=compat.keep_empty or compat.clip == "after_nms",
    )  # fmt: skip
    if compat.clip == "after_nms":
        found = clip_detections(*found, sizes_hw)
    if compat.class_channels is not None:
        found = report_classes(*found, class_of_channel)
    rows, scores, labels, counts = found
    return PaddedDetections(rows - extent * (labels >= 0)[..., None], scores, labels, counts)
