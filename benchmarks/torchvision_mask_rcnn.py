"""The peer with masks: torchvision's own Mask R-CNN on a pyramid of the same backbone, trained by the same short loop.

It has the widths, anchors, samples and proposals of `mask-rcnn-small`; its model, losses and selection are
torchvision's. Shape legend: B = images of a batch, D = detections, H W = size of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from benchmarks.torchvision_fcos import CPU, InPrecision, as_it_is, images_of
from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Batch, make_loader
from boxwright.nn.backbones import TORCHVISION_RESNET, Backbone
from boxwright.nn.resnet import ResNetVariant
from boxwright.runtime.precision import choose_precision
from boxwright.structures import CroppedMask, Detections

LEVELS = ("c2", "c3", "c4", "c5")


class Pyramid(nn.Module):
    """P2 to P6, each of `width` channels, on any of our backbones: what `MaskRCNN` calls a backbone."""

    def __init__(self, name: str, width: int, variant: ResNetVariant) -> None:
        super().__init__()
        self.body = Backbone(name, LEVELS, variant=variant)
        self.fpn = FeaturePyramidNetwork(self.body.channels, width, extra_blocks=LastLevelMaxPool())
        self.out_channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.fpn(dict(zip(("0", "1", "2", "3"), self.body(images), strict=True)))
        return levels


def build_mask_peer(
    num_classes: int,
    *,
    backbone: str = "regnet_x_400mf",
    variant: ResNetVariant = TORCHVISION_RESNET,
    anchor_sizes: Sequence[float] = (10, 20, 40, 80, 160),
    width: int = 64,
    precision: str = "auto",
    seed: int = 0,
) -> MaskRCNN:
    """The peer from random weights; class 0 is background, as torchvision has it."""
    torch.manual_seed(seed)
    model = MaskRCNN(
        Pyramid(backbone, width, variant),
        rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in anchor_sizes), ((0.5, 1.0, 2.0),) * 5),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_level=5),
        box_head=TwoMLPHead(49 * width, 256),
        box_predictor=FastRCNNPredictor(256, num_classes + 1),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2, canonical_level=5),
        mask_head=MaskRCNNHeads(width, (64, 64), 1),
        mask_predictor=MaskRCNNPredictor(64, 64, num_classes + 1),
        rpn_pre_nms_top_n_train=400,
        rpn_pre_nms_top_n_test=400,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=200,
        box_batch_size_per_image=128,
        box_detections_per_img=100,
    )
    model.transform.resize = as_it_is  # the loader has brought the images to network size
    model.backbone = InPrecision(model.backbone, choose_precision(precision, CPU))
    model.backbone.out_channels = width
    return model.to(memory_format=torch.channels_last)


def mask_targets(batch: Batch) -> list[dict[str, Any]]:
    """The ground truth of a batch in torchvision's form: labels from 1, masks as whole planes."""
    targets = []
    for index in range(len(batch.indices)):
        ground_truth, size_hw = batch.targets.image(index), batch.images.sizes_hw[index].tolist()
        # torchvision knows no regions to ignore; a missing object is less wrong than a false one
        rows = (~ground_truth.ignore).nonzero()[:, 0].tolist()
        planes = torch.zeros(len(rows), *size_hw, dtype=torch.uint8)
        for plane, row in zip(planes, rows, strict=True):
            assert ground_truth.masks is not None
            ground_truth.masks[row].draw(plane)
        targets.append({"boxes": ground_truth.boxes[rows], "labels": ground_truth.labels[rows] + 1, "masks": planes})
    return targets


@torch.inference_mode()
def detect_mask_peer(model: MaskRCNN, images: DetectionDataset, batch: int = 4) -> list[Detections]:
    """What the peer finds in each image, in the pixels of the original; its soft masks are resized before the cut."""
    model.eval()
    rows = [list(range(start, min(start + batch, len(images)))) for start in range(0, len(images), batch)]
    found: list[Detections] = []
    for loaded in make_loader(images, rows, workers=0):
        scales = loaded.images.scale_xy.repeat(1, 2)
        sizes = [(int(h), int(w)) for h, w in loaded.images.original_hw.tolist()]
        for one, scale, size in zip(model(images_of(loaded)), scales, sizes, strict=True):
            masks = []
            for soft in one["masks"]:  # (1, H, W) each
                drawn = F.interpolate(soft[None], size, mode="bilinear", align_corners=False)[0, 0] > 0.5
                masks.append(CroppedMask(0, 0, drawn).tight())
            labels = one["labels"] - 1
            found.append(Detections(one["boxes"] / scale, one["scores"], labels, size, masks=tuple(masks)))
    return found
