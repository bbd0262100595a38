"""Fast R-CNN: a backbone, a pyramid and the box branch, on proposals that are stored in a file.

Paper: Girshick, "Fast R-CNN", ICCV 2015. The branch stands in `box_branch.py`.

Shape legend: B = images, R = proposals, K = classes. Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from boxwright.models.box_branch import PYRAMID_BOXES, BoxSettings, RegionLogits, SampledRegions, box_branch, drawn
from boxwright.nn.backbones import TORCHVISION_RESNET
from boxwright.nn.box_head import StageHead
from boxwright.nn.norm import Norm
from boxwright.nn.resnet import ResNetVariant
from boxwright.nn.trunk import Trunk
from boxwright.ops.select import clip_boxes
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Proposals, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class FastRCNNConfig:
    """What a Fast R-CNN is made of. The defaults are ResNet-50 with P2 to P5."""

    num_classes: int
    backbone: str = "resnet50"
    backbone_weights: str | None = None
    backbone_norm: Norm = "frozen_bn"
    backbone_variant: ResNetVariant = TORCHVISION_RESNET
    frozen_stages: int = 2
    """Stem and C2 are not trained (Detectron2's FREEZE_AT 2)."""
    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    """Maps of the backbone, finest first; one of them without a pyramid."""
    fpn_channels: int | None = 256
    """Width of the pyramid; null for none."""
    box: BoxSettings = PYRAMID_BOXES
    pad_multiple: int = 1
    """Batches are padded to sides of this multiple: 32 in Detectron2 (with a pyramid) and torchvision."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {self.num_classes}")
        if self.fpn_channels is None and len(self.levels) != 1:
            raise ValueError(f"levels: expected one without a pyramid (fpn_channels: null), got {list(self.levels)}")
        if self.box.pool_from == "source":
            raise ValueError("box.pool_from: stored proposals come from no level; expected size, got source")


class FastRCNNOutputs(NamedTuple):
    """Maps and proposals to detect in and, where targets were given, the sampled regions that the loss is made of."""

    levels: tuple[Tensor, ...]  # (B, C, h, w) each
    proposals: Proposals
    sizes_hw: Tensor  # (B, 2) of the images within the batch
    sampled: SampledRegions | None
    sampled_logits: RegionLogits | None


class FastRCNN(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise. Proposals are given, and not learnt."""

    def __init__(self, config: FastRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(
            config.backbone, config.levels, weights=config.backbone_weights, norm=config.backbone_norm,
            variant=config.backbone_variant, frozen_stages=config.frozen_stages, fpn_channels=config.fpn_channels,
            pooled_level=False,
        )  # fmt: skip
        stage = None
        if config.box.stage_head:
            stage = StageHead(
                config.backbone, config.backbone_variant, config.backbone_norm, config.backbone_weights
            )  # fmt: skip
        self.box = box_branch(config.box, config.num_classes, self.trunk, stage)
        for name, value in (("pixel_mean", config.pixel_mean), ("pixel_std", config.pixel_std)):
            self.register_buffer(name, torch.tensor(value), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor

    def forward(
        self, images: ImageBatch, targets: Targets | None = None, proposals: Proposals | None = None
    ) -> FastRCNNOutputs:
        """Maps of a batch with its proposals; with targets, also logits of regions drawn to learn from."""
        if proposals is None:
            raise ValueError("Fast R-CNN finds no regions itself: give it proposals, as a file with --proposals FILE")
        levels = self.trunk(images.normalised(self.pixel_mean, self.pixel_std, self.config.pad_multiple))
        proposals = replace(proposals, boxes=clip_boxes(proposals.boxes, images.sizes_hw))
        sampled, logits = None, None
        if targets is not None:
            sampled = self.box.sample(proposals, targets)
            logits = self.box(levels, sampled.boxes, sampled.level)
        return FastRCNNOutputs(tuple(levels), proposals, images.sizes_hw, sampled, logits)

    def loss(self, outputs: FastRCNNOutputs, targets: Targets) -> dict[str, Tensor]:
        """Losses "classification" and "box" of a forward pass that was given the same targets."""
        return self.box.loss(*drawn(outputs.sampled, outputs.sampled_logits))

    def detect_padded(self, outputs: FastRCNNOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels: all its proposals classified, refined, NMS."""
        logits = self.box(outputs.levels, outputs.proposals.boxes, self.box.level_of(outputs.proposals))
        return self.box.select(outputs.proposals, logits, outputs.sizes_hw, settings)

    def detect(self, outputs: FastRCNNOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)
