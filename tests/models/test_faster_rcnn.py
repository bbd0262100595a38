"""Faster R-CNN against torchvision with the same random weights, and the laws that seed 002 broke."""

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d

from boxwright.models import DetectSettings
from boxwright.models.fast_rcnn import BoxSettings
from boxwright.models.faster_rcnn import C4, COURSE, DC5, TORCHVISION, FasterRCNN, FasterRCNNConfig
from boxwright.models.rpn import ProposalSettings
from boxwright.nn.resnet import ResNetVariant
from boxwright.structures import ImageBatch, Targets, Truth

SIZES = [(64, 96), (96, 64)]
TRUTHS = [
    Truth.of([[10.0, 12.0, 50.0, 40.0], [4.0, 4.0, 90.0, 60.0]], [1, 2]),
    Truth.of([[20.0, 30.0, 60.0, 90.0]], [0]),
]
RENAMED = (
    ("backbone.body.", "trunk.backbone.body."),
    ("backbone.fpn.inner_blocks.{}.0.", "trunk.fpn.laterals.{}."),
    ("backbone.fpn.layer_blocks.{}.0.", "trunk.fpn.outputs.{}."),
    ("rpn.head.conv.0.0.", "rpn.stem.0."),
    ("rpn.head.cls_logits.", "rpn.objectness."),
    ("rpn.head.bbox_pred.", "rpn.offsets."),
    ("roi_heads.box_head.fc6.", "box.head.layers.0."),
    ("roi_heads.box_head.fc7.", "box.head.layers.1."),
    ("roi_heads.box_predictor.cls_score.", "box.class_logits."),
    ("roi_heads.box_predictor.bbox_pred.", "box.offsets."),
)


def pictures():
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(3, height, width, generator=generator) for height, width in SIZES]


def peer():
    """torchvision's Faster R-CNN with ResNet-18, random weights that tell regions apart, and exhaustive samplers."""
    torch.manual_seed(1)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    model = TorchvisionFasterRCNN(
        backbone, box_head=TwoMLPHead(256 * 49, 32), box_predictor=FastRCNNPredictor(32, 4), min_size=64, max_size=1000, rpn_post_nms_top_n_train=40, rpn_post_nms_top_n_test=40,
        rpn_batch_size_per_image=100_000, box_batch_size_per_image=100_000, box_positive_fraction=0.5,
    )  # fmt: skip
    with torch.no_grad():
        model.rpn.head.bbox_pred.weight.mul_(3)
        model.roi_heads.box_predictor.cls_score.weight.mul_(2)
    return model


def ours(theirs, **changes):
    """The same detector here: classes moved so that background is last, and boxes of the background left out."""
    state = {}
    for name, value in theirs.state_dict().items():
        for old, new in RENAMED:
            for level in "0123":
                if name.startswith(old.format(level)):
                    state[new.format(level) + name.removeprefix(old.format(level))] = value
    for part in ("weight", "bias"):
        state[f"box.class_logits.{part}"] = state[f"box.class_logits.{part}"].roll(-1, 0)
        state[f"box.offsets.{part}"] = state[f"box.offsets.{part}"][4:]
    rpn = replace(TORCHVISION["rpn"], train_proposals=40, test_proposals=40, samples=100_000)
    box = replace(TORCHVISION["box"], samples=100_000, positive_fraction=0.5, fc_channels=(32, 32))
    model = FasterRCNN(FasterRCNNConfig(num_classes=3, backbone="resnet18", rpn=rpn, box=box, **changes))
    model.load_state_dict(state)
    return model


class TestTorchvision:
    @pytest.fixture(scope="class")
    def pair(self):
        theirs = peer()
        return theirs, ours(theirs)

    def test_detections_are_equal(self, pair):
        theirs, model = pair
        images = ImageBatch.of(pictures())
        with torch.no_grad():
            expected = theirs.eval()(pictures())
            found = model.eval().detect(model(images), images, DetectSettings(nms_iou=0.5))
        for one, other in zip(found, expected, strict=True):
            assert len(one) == len(other["boxes"]) > 5
            torch.testing.assert_close(one.boxes, other["boxes"], rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(one.scores, other["scores"], rtol=1e-4, atol=1e-5)
            assert torch.equal(one.labels, other["labels"] - 1)

    def test_proposals_are_equal(self, pair):
        theirs, model = pair
        images = ImageBatch.of(pictures())
        transformed, _ = theirs.transform(pictures())
        with torch.no_grad():
            features = theirs.eval().backbone(transformed.tensors)
            boxes, _ = theirs.rpn(transformed, features)
            found = model.eval()(images).proposals
        for picture, expected in enumerate(boxes):
            torch.testing.assert_close(found.boxes[picture][found.valid[picture]], expected, rtol=1e-4, atol=1e-3)

    def test_losses_are_equal(self, pair):
        theirs, model = pair
        truth = [{"boxes": one.boxes, "labels": one.labels + 1} for one in TRUTHS]
        targets = Targets.of(TRUTHS)
        expected = theirs.train()(pictures(), truth)
        losses = model.train().loss(model(ImageBatch.of(pictures()), targets), targets)
        names = {"objectness": "loss_objectness", "proposal_box": "loss_rpn_box_reg",
                 "classification": "loss_classifier", "box": "loss_box_reg"}  # fmt: skip
        assert losses.keys() == names.keys()
        for name, other in names.items():
            torch.testing.assert_close(losses[name], expected[other], rtol=1e-4, atol=1e-6)
        sum(losses.values()).backward()
        sum(expected.values()).backward()
        for own, other in (
            (model.box.head.layers[0].weight, theirs.roi_heads.box_head.fc6.weight),
            (model.trunk.fpn.laterals[0].weight, theirs.backbone.fpn.inner_blocks[0][0].weight),
            (model.rpn.stem[0].weight, theirs.rpn.head.conv[0][0].weight),
        ):
            assert (own.grad - other.grad).norm() < 1e-3 * other.grad.norm()
