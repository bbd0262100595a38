"""Mask R-CNN: a Faster R-CNN and a mask branch on the same maps, trained together.

Paper: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017. The detector stands in `faster_rcnn.py`, the branch in
`mask_branch.py`; masks are learnt in the positive regions of the box branch's sample and predicted in final detections.

Shape legend: B = images, R = regions, M = side of a mask. Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from boxwright.models import faster_rcnn
from boxwright.models.faster_rcnn import FasterRCNN, FasterRCNNConfig, FasterRCNNOutputs
from boxwright.models.mask_branch import PYRAMID_MASKS, MaskBranch, MaskRegions, MaskSettings
from boxwright.nn.box_head import StageHead
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRCNNConfig:
    """What a Mask R-CNN is made of: a Faster R-CNN and its mask branch."""

    detector: FasterRCNNConfig
    mask: MaskSettings = PYRAMID_MASKS

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.detector.num_classes


DETECTRON2: dict[str, Any] = {**faster_rcnn.DETECTRON2, "mask": MaskSettings()}
"""Detectron2's `mask_rcnn_R_50_FPN_1x`; all of these are for `config_of`."""

TORCHVISION: dict[str, Any] = {
    **faster_rcnn.TORCHVISION,
    "mask": MaskSettings(
        pool_sampling=2, pool_aligned=False, level_slack=1e-6, targets="soft", paste="torchvision"
    ),
}  # fmt: skip
"""torchvision's `maskrcnn_resnet50_fpn`."""

C4: dict[str, Any] = {**faster_rcnn.C4, "mask": MaskSettings(conv_channels=())}
"""Masks of 14 x 14 from the last stage of the ResNet over each region, which the box branch has as its head."""

DC5: dict[str, Any] = {**faster_rcnn.DC5, "mask": MaskSettings()}
"""One map of stride 16: C5, dilated instead of halved."""


class MaskRCNNOutputs(NamedTuple):
    """A forward pass of the detector and, where ground truth was given, regions whose masks are learnt."""

    detector: FasterRCNNOutputs
    mask_regions: MaskRegions | None


class MaskRCNN(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.detector = FasterRCNN(config.detector)
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
