"""RPN: the proposal network as a detector of its own, of one class, "object".

Paper: Ren, He, Girshick, Sun, "Faster R-CNN", NeurIPS 2015, section 3.1. The network stands in `proposal_network.py`.

Shape legend: B = images, N = anchors of all levels, R = proposals. Boxes are absolute (x1, y1, x2, y2) in network
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from boxwright.models.proposal_network import (
    AnchorOutputs,
    ProposalNetwork,
    ProposalSettings,
    check_anchors,
)
from boxwright.models.sections import BackboneSection, PaddingCompat, TrunkSection
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class RPNConfig:
    """What an RPN is made of. The defaults are ResNet-50 with P2 to P6."""

    name: Literal["rpn"] = "rpn"
    """Which detector."""
    backbone: BackboneSection = BackboneSection()
    fpn: TrunkSection = TrunkSection()
    rpn: ProposalSettings = ProposalSettings()
    """Its limits on candidates and proposals are for detectors that hold the network; alone, `detect` has them."""
    compat: PaddingCompat = PaddingCompat()

    def __post_init__(self) -> None:
        check_anchors(self.fpn, self.rpn.pooled_level, self.rpn.anchor_sizes)


class RPN(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise. Every detection has label 0, "object"."""

    def __init__(self, config: RPNConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes  # of the data; all are one class to it
        self.trunk = config.fpn.build(config.backbone, pooled_level=config.rpn.pooled_level)
        self.rpn = ProposalNetwork(config.rpn, self.trunk.channels, self.trunk.strides, config.compat.pad_multiple)
        for name, value in (("pixel_mean", config.backbone.pixel_mean), ("pixel_std", config.backbone.pixel_std)):
            self.register_buffer(name, torch.tensor(value), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> AnchorOutputs:
        """Raw predictions for a batch; with targets, also which anchors the loss is made of."""
        pixels = images.normalised(self.pixel_mean, self.pixel_std, self.config.compat.pad_multiple)
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
