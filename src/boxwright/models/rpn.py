"""RPN: the proposal network as a detector of its own, of one class, "object".

Paper: Ren, He, Girshick, Sun, "Faster R-CNN", NeurIPS 2015, section 3.1. The network stands in `proposal_network.py`.

Shape legend: B = images, N = anchors of all levels, R = proposals. Boxes are absolute (x1, y1, x2, y2) in network
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwright.models.proposal_network import (
    PYRAMID_PROPOSALS,
    AnchorOutputs,
    ProposalNetwork,
    ProposalSettings,
    check_trunk,
)
from boxwright.nn.backbones import TORCHVISION_RESNET
from boxwright.nn.norm import Norm
from boxwright.nn.resnet import ResNetVariant
from boxwright.nn.trunk import Trunk
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class RPNConfig:
    """What an RPN is made of. The defaults are ResNet-50 with P2 to P6."""

    num_classes: int
    """Of the data; all are one class to a proposal network."""
    backbone: str = "resnet50"
    backbone_weights: str | None = None
    backbone_norm: Norm = "frozen_bn"
    backbone_variant: ResNetVariant = TORCHVISION_RESNET
    frozen_stages: int = 2
    """Stem and C2 are not trained (Detectron2's FREEZE_AT 2)."""
    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    """Maps of the backbone, finest first; ["c4"] without a pyramid is the original RPN."""
    fpn_channels: int | None = 256
    """Width of the pyramid; null for none."""
    pooled_level: bool = True
    """P6, every other cell of P5."""
    rpn: ProposalSettings = PYRAMID_PROPOSALS
    """Its limits on candidates and proposals are for detectors that hold the network; alone, `detect` has them."""
    pad_multiple: int = 1
    """Batches are padded to sides of this multiple: 32 in Detectron2 (with a pyramid) and torchvision."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {self.num_classes}")
        check_trunk(self.levels, self.fpn_channels, self.pooled_level, self.rpn)


class RPN(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise. Every detection has label 0, "object"."""

    def __init__(self, config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(
            config.backbone, config.levels, weights=config.backbone_weights, norm=config.backbone_norm,
            variant=config.backbone_variant, frozen_stages=config.frozen_stages, fpn_channels=config.fpn_channels,
            pooled_level=config.pooled_level,
        )  # fmt: skip
        self.rpn = ProposalNetwork(config.rpn, self.trunk.channels, self.trunk.strides, config.pad_multiple)
        for name, value in (("pixel_mean", config.pixel_mean), ("pixel_std", config.pixel_std)):
            self.register_buffer(name, torch.tensor(value), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> AnchorOutputs:
        """Raw predictions for a batch; with targets, also which anchors the loss is made of."""
        pixels = images.normalised(self.pixel_mean, self.pixel_std, self.config.pad_multiple)
        return self.rpn(self.trunk(pixels), images, targets)  # type: ignore[no-any-return]

    def loss(self, outputs: AnchorOutputs, targets: Targets) -> dict[str, Tensor]:
        """Losses "objectness" and "proposal_box" of a forward pass that was given the same targets."""
        return self.rpn.loss(outputs)

    def detect_padded(self, outputs: AnchorOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best proposals of each image in network pixels, scored by the probability of an object."""
        found = self.rpn.propose(outputs, settings.candidates_per_level, settings.max_detections, settings.nms_iou)
        scores = found.scores.sigmoid()
        keep = found.valid & (scores > settings.score_threshold)  # a prefix of each row: best first
        return PaddedDetections(
            found.boxes * keep[..., None], scores * keep, torch.where(keep, 0, -1), keep.sum(1)
        )  # fmt: skip

    def detect(self, outputs: AnchorOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Proposals of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)
