"""Mask R-CNN: a Faster R-CNN and a mask branch on the same maps, trained together.

Paper: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017. The detector stands in `faster_rcnn.py`, the branch in
`mask_branch.py`; masks are learnt in the positive regions of the box branch's sample and predicted in final detections.

Shape legend: B = images, R = regions, M = side of a mask. Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from boxwright.models.box_branch import BoxSettings
from boxwright.models.faster_rcnn import FasterRCNN, FasterRCNNConfig, FasterRCNNOutputs
from boxwright.models.mask_branch import MaskBranch, MaskRegions, MaskSettings
from boxwright.models.proposal_network import ProposalSettings
from boxwright.models.sections import BackboneSection, ChannelCompat, TrunkSection
from boxwright.nn.box_head import StageHead
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRCNNConfig:
    """What a Mask R-CNN is made of: the sections of its Faster R-CNN, and its mask branch."""

    name: Literal["mask_rcnn"] = "mask_rcnn"
    """Which detector."""
    backbone: BackboneSection = BackboneSection()
    fpn: TrunkSection = TrunkSection()
    rpn: ProposalSettings = ProposalSettings()
    box: BoxSettings = BoxSettings()
    mask: MaskSettings = MaskSettings()
    compat: ChannelCompat = ChannelCompat()

    def __post_init__(self) -> None:
        _ = self.detector  # whose sections must go together

    @property
    def detector(self) -> FasterRCNNConfig:
        """The config of the Faster R-CNN that it holds."""
        return FasterRCNNConfig(
            backbone=self.backbone, fpn=self.fpn, rpn=self.rpn, box=self.box, compat=self.compat
        )  # fmt: skip


class MaskRCNNOutputs(NamedTuple):
    """A forward pass of the detector and, where ground truth was given, regions whose masks are learnt."""

    detector: FasterRCNNOutputs
    mask_regions: MaskRegions | None


class MaskRCNN(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise."""

    def __init__(self, config: MaskRCNNConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.detector = FasterRCNN(config.detector, num_classes)
        trunk, stage = self.detector.trunk, self._stage()
        channels = trunk.channels if stage is None else stage.channels
        num_channels = len(self.detector.class_of_channel)
        self.mask = MaskBranch(config.mask, num_channels, channels, trunk.strides[: trunk.num_pooled])

    def _stage(self) -> StageHead | None:
        """The box branch's head where that gives maps too (C4): masks are read off the same."""
        head = self.detector.box.head
        return head if isinstance(head, StageHead) else None

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> MaskRCNNOutputs:
        """Maps and proposals of a batch; with targets, also logits of regions drawn to learn from."""
        outputs = self.detector(images, targets)
        regions = None
        if targets is not None:
            sampled = outputs.sampled
            own = replace(targets, labels=self.detector.channel_of_class[targets.labels])
            regions = self.mask.learn(outputs.levels, sampled.boxes, sampled.owner, own, self._stage())
        return MaskRCNNOutputs(outputs, regions)

    def loss(self, outputs: MaskRCNNOutputs, targets: Targets) -> dict[str, Tensor]:
        """The detector's losses and "mask", of a forward pass that was given the same targets."""
        losses: dict[str, Tensor] = self.detector.loss(outputs.detector, targets)
        assert outputs.mask_regions is not None  # the detector has seen to it
        return losses | self.mask.loss(outputs.mask_regions, targets, outputs.detector.sizes_hw)

    def detect_padded(self, outputs: MaskRCNNOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels, and a mask over each."""
        found = self.detector.detect_padded(outputs.detector, settings)
        channels = torch.where(found.labels >= 0, self.detector.channel_of_class[found.labels.clamp(min=0)], -1)
        with_masks = self.mask.add_masks(found._replace(labels=channels), outputs.detector.levels, self._stage())
        return with_masks._replace(labels=found.labels)

    def detect(self, outputs: MaskRCNNOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images, self.config.mask.paste)
