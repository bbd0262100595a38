"""FCOS-Mask: an FCOS whose detections are the regions of a mask branch; its boxes are final, there is no box head.

Papers: Tian et al., "FCOS", ICCV 2019; He et al., "Mask R-CNN", ICCV 2017. The detector stands in `fcos.py`, the
branch in `mask_branch.py`. In training the regions are what FCOS finds at its training thresholds, and the true boxes;
no gradient flows through their coordinates. All of it is trained together.

Shape legend: B = images, N = detections, G = ground-truth boxes, S = candidate regions (N + G), R = regions, M = side
of a mask. Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from boxwright.models.fcos import (
    FCOS,
    FCOSAssignment,
    FCOSConfig,
    FCOSHeadSection,
    FCOSLossSection,
    FCOSOutputs,
    FCOSPyramid,
)
from boxwright.models.fcos_compat import FCOSCompat
from boxwright.models.mask_branch import MaskBranch, MaskRegions, MaskSettings
from boxwright.models.sections import BackboneSection
from boxwright.ops.match import match_boxes, sample_balanced
from boxwright.structures import Detections, DetectSettings, ImageBatch, Losses, PaddedDetections, Targets

PROPOSED = DetectSettings(score_threshold=0.05, nms_iou=0.6, candidates_per_level=1000, max_detections=100)
"""What FCOS finds of the regions to learn from (AdelaiDet's thresholds for training)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FCOSMaskConfig:
    """What an FCOS-Mask is made of: the sections of its FCOS, its mask branch, and which regions learn masks."""

    name: Literal["fcos_mask"] = "fcos_mask"
    """Which detector."""
    backbone: BackboneSection = BackboneSection()
    fpn: FCOSPyramid = FCOSPyramid()
    head: FCOSHeadSection = FCOSHeadSection()
    assignment: FCOSAssignment = FCOSAssignment()
    loss: FCOSLossSection = FCOSLossSection()
    compat: FCOSCompat = FCOSCompat()
    mask: MaskSettings = MaskSettings()
    mask_iou: float = 0.5
    """Overlap with an object from which a region owns it."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_iou <= 1:
            raise ValueError(f"mask_iou: expected above 0, up to 1, got {self.mask_iou}")
        _ = self.detector  # whose sections must go together

    @property
    def detector(self) -> FCOSConfig:
        """The config of the FCOS that it holds."""
        return FCOSConfig(
            backbone=self.backbone, fpn=self.fpn, head=self.head, assignment=self.assignment, loss=self.loss,
            compat=self.compat,
        )  # fmt: skip


class FCOSMaskOutputs(NamedTuple):
    """A forward pass of FCOS, the maps that masks are pooled from and, where targets were given, regions to learn."""

    detector: FCOSOutputs
    levels: tuple[Tensor, ...]  # (B, C, h, w) each, finest first: P3 to P5, or P2 to P5
    mask_regions: MaskRegions | None


class FCOSMask(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise."""

    def __init__(self, config: FCOSMaskConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.detector = FCOS(config.detector, num_classes)
        strides = [4, 8, 16, 32] if config.fpn.with_p2 else [8, 16, 32]
        self.mask = MaskBranch(config.mask, num_classes, config.fpn.channels, strides)

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> FCOSMaskOutputs:
        """Raw predictions and maps of a batch; with targets, also mask logits of regions to learn from."""
        levels = self.detector.pyramid(images)
        outputs = self.detector.predict(levels, images)
        regions = None
        if targets is not None:
            boxes, owner = self._regions(outputs, targets)
            regions = self.mask.learn(levels, boxes, owner, targets)
        return FCOSMaskOutputs(outputs, tuple(levels[: len(self.mask.strides)]), regions)

    @torch.no_grad()
    def _regions(self, outputs: FCOSOutputs, targets: Targets) -> tuple[Tensor, Tensor]:
        """Regions (B, S, 4) to learn masks in, and the object (B, S) that each owns, -1 for padding."""
        found = self.detector.detect_padded(outputs, PROPOSED)
        boxes = torch.cat([found.boxes, targets.boxes], dim=1)  # (B, N + G, 4)
        usable = torch.cat([found.labels >= 0, targets.valid & ~targets.ignore], dim=1)
        iou = self.config.mask_iou
        owner, _ = match_boxes(
            boxes, targets.boxes, targets.valid, targets.ignore, positive_iou=iou, negative_iou=iou, low_quality=False
        )
        positive = (owner >= 0) & usable
        count = self.config.mask.samples or boxes.shape[1]
        rows, chosen, _ = sample_balanced(positive, torch.zeros_like(positive), count, 1.0)
        boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
        return boxes, torch.where(chosen, owner.gather(1, rows), -1)

    def loss(self, outputs: FCOSMaskOutputs, targets: Targets) -> Losses:
        """FCOS's losses and "mask", of a forward pass that was given the same targets."""
        if outputs.mask_regions is None:
            raise ValueError("loss: this forward pass was given no targets; call model(images, targets)")
        losses = self.detector.loss(outputs.detector, targets)
        losses.update(self.mask.loss(outputs.mask_regions, targets, outputs.detector.sizes_hw))
        return losses

    def detect_padded(self, outputs: FCOSMaskOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels, and a mask over each."""
        return self.mask.add_masks(self.detector.detect_padded(outputs.detector, settings), outputs.levels)

    def detect(self, outputs: FCOSMaskOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images, self.config.mask.paste)
