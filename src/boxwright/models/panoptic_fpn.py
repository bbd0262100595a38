"""Panoptic FPN: a Mask R-CNN and a semantic branch on the same pyramid, trained together and merged to one map.

Paper: Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019. The parts stand in
`mask_rcnn.py` and `semantic_branch.py`, the merge in `ops/panoptic.py`.

Shape legend: B = images, S = semantic classes, h w = height and width of the finest map (stride 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from boxwright.models.box_branch import BoxSettings
from boxwright.models.mask_branch import MaskSettings
from boxwright.models.mask_rcnn import MaskRCNN, MaskRCNNConfig, MaskRCNNOutputs
from boxwright.models.proposal_network import ProposalSettings
from boxwright.models.sections import BackboneSection, ChannelCompat, TrunkSection
from boxwright.models.semantic_branch import SemanticBranch, SemanticSettings, check_pyramid
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, PanopticSettings, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class PanopticFPNConfig:
    """What a Panoptic FPN is made of: the sections of its Mask R-CNN, its semantic branch, and how both are merged."""

    name: Literal["panoptic_fpn"] = "panoptic_fpn"
    """Which model."""
    backbone: BackboneSection = BackboneSection()
    fpn: TrunkSection = TrunkSection()
    rpn: ProposalSettings = ProposalSettings()
    box: BoxSettings = BoxSettings()
    mask: MaskSettings = MaskSettings()
    semantic: SemanticSettings = SemanticSettings()
    panoptic: PanopticSettings = PanopticSettings()
    compat: ChannelCompat = ChannelCompat()

    def __post_init__(self) -> None:
        _ = self.instances  # whose sections must go together
        check_pyramid(self.fpn)
        if self.semantic.outputs < 2:
            raise ValueError("semantic.num_classes: expected at least 2, of which the first is any thing, got 1")

    @property
    def instances(self) -> MaskRCNNConfig:
        """The config of the Mask R-CNN that it holds."""
        return MaskRCNNConfig(
            backbone=self.backbone, fpn=self.fpn, rpn=self.rpn, box=self.box, mask=self.mask, compat=self.compat
        )  # fmt: skip


class PanopticFPNOutputs(NamedTuple):
    """A forward pass of the Mask R-CNN, and logits (B, S, h, w) at stride 4."""

    instances: MaskRCNNOutputs
    logits: Tensor


class PanopticFPN(nn.Module):
    """The model; see `DetectionModel` for what its methods promise."""

    def __init__(self, config: PanopticFPNConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.instances = MaskRCNN(config.instances, num_classes)
        trunk = self.instances.detector.trunk
        self.semantic = SemanticBranch(config.semantic, trunk.channels, trunk.num_pooled)

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> PanopticFPNOutputs:
        """Maps, proposals and semantic logits of a batch; with targets, also logits of regions to learn from."""
        outputs: MaskRCNNOutputs = self.instances(images, targets)
        return PanopticFPNOutputs(outputs, self.semantic(outputs.detector.levels))

    def loss(self, outputs: PanopticFPNOutputs, targets: Targets) -> dict[str, Tensor]:
        """The losses of the Mask R-CNN and "semantic", of a forward pass that was given the same targets."""
        losses = self.instances.loss(outputs.instances, targets)
        return losses | self.semantic.loss(outputs.logits, targets)

    def detect_padded(self, outputs: PanopticFPNOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels, a mask over each, and the semantic logits."""
        return self.instances.detect_padded(outputs.instances, settings)._replace(semantic=outputs.logits)

    def detect(self, outputs: PanopticFPNOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections, semantic map and panoptic map of each image, at the pixels of the original images."""
        return self.detect_padded(outputs, settings).restore(images, self.config.mask.paste, self.config.panoptic)
