"""Peers that torchvision has no builder for, made of the parts of its detectors, for training steps.

RPN is its Faster R-CNN without the regions, Fast R-CNN the same without its proposal network on stored proposals, and
FCOS-Mask is its FCOS whose detections, with the true boxes, go into its Mask R-CNN's pooling, head and loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_loss
from torchvision.ops import MultiScaleRoIAlign, box_iou

from boxwright.models.fcos_mask import PROPOSED


class ProposalPart(torch.nn.Module):
    """The losses of torchvision's proposal network alone. (In training, too, it makes proposals.)"""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.transform, self.backbone, self.rpn = model.transform, model.backbone, model.rpn

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch, targets = self.transform(images, targets)
        losses: dict[str, Tensor] = self.rpn(batch, self.backbone(batch.tensors), targets)[1]
        return losses


class RegionPart(torch.nn.Module):
    """The losses of the regions of torchvision's Faster R-CNN, on given proposals of images that keep their size."""

    def __init__(self, model: Any, proposals: list[Tensor]) -> None:
        super().__init__()
        self.transform, self.backbone, self.roi_heads = model.transform, model.backbone, model.roi_heads
        self.proposals = proposals

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch, targets = self.transform(images, targets)
        features = self.backbone(batch.tensors)
        losses: dict[str, Tensor] = self.roi_heads(features, self.proposals, batch.image_sizes, targets)[1]
        return losses


class FCOSWithMasks(torch.nn.Module):
    """The losses of torchvision's FCOS and of a mask branch over P3 to P5, on what it finds and on the true boxes."""

    def __init__(self, fcos: Any, num_classes: int) -> None:
        super().__init__()
        self.fcos = fcos
        fcos.score_thresh, fcos.nms_thresh = PROPOSED.score_threshold, PROPOSED.nms_iou
        fcos.topk_candidates, fcos.detections_per_img = PROPOSED.candidates_per_level, PROPOSED.max_detections
        self.pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=14, sampling_ratio=2)
        self.head = MaskRCNNHeads(256, (256, 256, 256, 256), dilation=1)
        self.predictor = MaskRCNNPredictor(256, 256, num_classes)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch, targets = self.fcos.transform(images, targets)
        features = self.fcos.backbone(batch.tensors)
        levels = list(features.values())
        outputs = self.fcos.head(levels)
        anchors = self.fcos.anchor_generator(batch, levels)
        counts = [level.shape[2] * level.shape[3] for level in levels]
        losses: dict[str, Tensor] = self.fcos.compute_loss(targets, outputs, anchors, counts)
        regions, owners = self._regions(outputs, anchors, counts, batch.image_sizes, targets)
        logits = self.predictor(self.head(self.pool(features, regions, batch.image_sizes)))
        masks, labels = ([target[key] for target in targets] for key in ("masks", "labels"))
        return losses | {"mask": maskrcnn_loss(logits, regions, masks, labels, owners)}

    @torch.no_grad()
    def _regions(
        self, outputs: dict[str, Tensor], anchors: list[Tensor], counts: list[int], sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
        """Boxes (R, 4) of each image that overlap an object by a half, and which object (R,)."""
        parts = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
        found = self.fcos.postprocess_detections(parts, [list(one.split(counts)) for one in anchors], sizes)
        regions, owners = [], []
        for one, target in zip(found, targets, strict=True):
            boxes = torch.cat([one["boxes"], target["boxes"]])
            overlap, owner = box_iou(boxes, target["boxes"]).max(1)
            regions.append(boxes[overlap >= 0.5])
            owners.append(owner[overlap >= 0.5])
        return regions, owners
