"""Faster R-CNN against torchvision with the same random weights, and the laws that the course broke."""

import math
from dataclasses import replace

import pytest
import torch
import torchvision
from configs import TWO_STAGE_COURSE, built, config_of, dotted, settings_of
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d

from boxwright.convert.torchvision_rcnn import FASTER_RCNN as TORCHVISION
from boxwright.models.box_branch import BoxSettings
from boxwright.models.proposal_network import ProposalSettings
from boxwright.nn.pretrained import load_pretrained
from boxwright.structures import DetectSettings, GroundTruth, ImageBatch, Proposals, Targets

SIZES = [(64, 96), (96, 64)]
GROUND_TRUTHS = [
    GroundTruth.of([[10.0, 12.0, 50.0, 40.0], [4.0, 4.0, 90.0, 60.0]], [1, 2]),
    GroundTruth.of([[20.0, 30.0, 60.0, 90.0]], [0]),
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


def make_images():
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(3, height, width, generator=generator) for height, width in SIZES]


def peer():
    """torchvision's Faster R-CNN with ResNet-18, random weights that tell regions apart, and exhaustive samplers."""
    torch.manual_seed(1)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    model = TorchvisionFasterRCNN(
        backbone, box_head=TwoMLPHead(256 * 49, 32), box_predictor=FastRCNNPredictor(32, 4), min_size=64,
        max_size=1000, rpn_post_nms_top_n_train=40, rpn_post_nms_top_n_test=40,
        rpn_batch_size_per_image=100_000, box_batch_size_per_image=100_000, box_positive_fraction=0.5,
    )  # fmt: skip
    with torch.no_grad():
        model.rpn.head.bbox_pred.weight.mul_(3)
        model.roi_heads.box_predictor.cls_score.weight.mul_(2)
    return model


def ours(theirs):
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
    settings = {
        **dotted(TORCHVISION), "backbone.name": "resnet18", "compat.pad_multiple": 1, "rpn.train_proposals": 40,
        "rpn.test_proposals": 40, "rpn.samples": 100_000, "box.samples": 100_000, "box.positive_fraction": 0.5,
        "box.fc_channels": (32, 32),
    }  # fmt: skip
    model = built("faster_rcnn", 3, settings)
    model.load_state_dict(state)
    return model


class TestTorchvision:
    @pytest.fixture(scope="class")
    def pair(self):
        theirs = peer()
        return theirs, ours(theirs)

    def test_detections_are_equal(self, pair):
        theirs, model = pair
        images = ImageBatch.of(make_images())
        with torch.no_grad():
            expected = theirs.eval()(make_images())
            found = model.eval().detect(model(images), images, DetectSettings(nms_iou=0.5))
        for one, other in zip(found, expected, strict=True):
            assert len(one) == len(other["boxes"]) > 5
            torch.testing.assert_close(one.boxes, other["boxes"], rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(one.scores, other["scores"], rtol=1e-4, atol=1e-5)
            assert torch.equal(one.labels, other["labels"] - 1)

    def test_proposals_are_equal(self, pair):
        theirs, model = pair
        images = ImageBatch.of(make_images())
        transformed, _ = theirs.transform(make_images())
        with torch.no_grad():
            features = theirs.eval().backbone(transformed.tensors)
            boxes, _ = theirs.rpn(transformed, features)
            found = model.eval()(images).proposals
        for image, expected in enumerate(boxes):
            torch.testing.assert_close(found.boxes[image][found.valid[image]], expected, rtol=1e-4, atol=1e-3)

    def test_losses_are_equal(self, pair):
        theirs, model = pair
        ground_truth = [{"boxes": one.boxes, "labels": one.labels + 1} for one in GROUND_TRUTHS]
        targets = Targets.of(GROUND_TRUTHS)
        expected = theirs.train()(make_images(), ground_truth)
        losses = model.train().loss(model(ImageBatch.of(make_images()), targets), targets)
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


SMALL = {"backbone.name": "mobilenet_v3_small", "fpn.channels": 16}
PROPOSE = ProposalSettings(
    stem_channels=(16,), anchor_sizes=((8,), (16,), (32,), (64,), (128,)), train_proposals=30, test_proposals=30,
    samples=32,
)  # fmt: skip
CLASSIFY = BoxSettings(fc_channels=(32,), samples=24)


def small(**changes):
    torch.manual_seed(2)
    model = built("faster_rcnn", 3, {**SMALL, "rpn": PROPOSE, "box": CLASSIFY, **changes})
    with torch.no_grad():  # predictions that differ from region to region
        model.rpn.objectness.weight.mul_(100)
        model.box.class_logits.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def images():
    return ImageBatch.of(make_images())


class TestCourse:
    def test_rows_keep_their_order_in_a_batch(self, images):
        """The course has features level by level and labels image by image; here row r of image b stays there."""
        model = small().eval()
        boxes = torch.tensor([[0, 0, 8, 8], [0, 0, 300, 300], [4, 4, 60, 60], [0, 0, 150, 150], [8, 8, 16, 16]]).float()
        boxes = torch.stack([boxes, boxes.flip(0)])
        with torch.no_grad():
            levels = model(images).levels
            level = model.box.level_by_size(boxes)
            assert level[0].tolist() == [0, 2, 0, 1, 0]
            together = model.box(levels, boxes, level).class_logits
            for image in range(2):
                own = [map_[image : image + 1] for map_ in levels]
                for row in range(5):
                    alone = model.box(own, boxes[image, row][None, None], level[image, row][None, None])
                    torch.testing.assert_close(together[image, row], alone.class_logits[0, 0])

    def test_proposals_and_loss_leave_offsets_as_they_are(self, images):
        """The course clamps dw and dh in place before its loss sees them."""
        model = small()
        with torch.no_grad():
            model.rpn.offsets.bias.fill_(9.0)
        targets = Targets.of(GROUND_TRUTHS)
        anchors = model.rpn(model.trunk(images.normalised(model.pixel_mean, model.pixel_std)), images, targets)
        before = anchors.offsets.clone()
        model.rpn.propose(anchors, 100, 30, 0.7)
        model.rpn.loss(anchors)
        assert torch.equal(anchors.offsets, before)
        assert (before[..., 2:] > 8).all()

    def test_sides_may_grow_by_more_than_224_over_8(self, images):
        model = small(rpn=replace(PROPOSE, anchor_sizes=((1,),) * 5, anchor_ratios=(1.0,)))
        with torch.no_grad():
            model.rpn.offsets.weight.zero_()
            model.rpn.offsets.bias.copy_(torch.tensor([0.0, 0, 4, 4]))
            found = model.eval()(images).proposals
        sides = (found.boxes[..., 2:] - found.boxes[..., :2])[found.valid]
        assert sides.max().item() == pytest.approx(math.exp(4), rel=1e-4)  # 55 pixels from 1

    def test_low_quality_matches_give_every_object_an_anchor(self, images):
        thin = Targets.of([GroundTruth.of([[3.0, 30.0, 91.0, 33.0]], [0])] * 2)
        counts = [
            int(small(rpn=replace(PROPOSE, low_quality=low))(images, thin).anchors.sampled.positive.sum())
            for low in (False, True)
        ]
        assert counts[0] == 0
        assert counts[1] >= 2

    def test_background_and_ignored_rows_never_reach_the_logarithm(self, images):
        model = small()
        targets = Targets.of([GroundTruth.empty(), GroundTruth.of([[0.0, 0.0, 60.0, 60.0]], [1], [True])])
        losses = model.loss(model(images, targets), targets)
        assert all(torch.isfinite(value) for value in losses.values())
        assert losses["box"] == losses["proposal_box"] == 0

    def test_ground_truth_is_among_the_samples_but_not_among_the_proposals(self, images):
        model = small()
        targets = Targets.of(GROUND_TRUTHS)
        outputs = model(images, targets)
        for image, one in enumerate(GROUND_TRUTHS):
            drawn = outputs.sampled.boxes[image][outputs.sampled.positive[image]]
            assert all((drawn == box).all(1).any() for box in one.boxes)
            assert not any((outputs.proposals.boxes[image] == box).all(1).any() for box in one.boxes)

    def test_where_objects_claim_their_best_proposal_learns_them(self, images):
        """MMDetection's Mask R-CNN: from positive_iou on, whatever else it overlaps more; ground truth is its own."""
        large, inner = [0.0, 0, 20, 20], [0.0, 0, 20, 12]
        targets = Targets.of([GroundTruth.of([large, inner], [0, 1]), GroundTruth.of([large], [2])])
        boxes = torch.tensor(
            [[[0.0, 0, 20, 18], [40, 40, 60, 60]]] * 2
        )  # overlaps the large one by 0.9, 0.67 the other
        given = Proposals(boxes, torch.ones(2, 2), torch.ones(2, 2).bool(), torch.zeros(2, 2, dtype=torch.int64))
        for claimed, label in ((True, 1), (False, 0)):
            model = small(box=replace(CLASSIFY, claimed=claimed))
            drawn = model.box.sample(given, targets)
            rows = {tuple(box): (int(own), bool(real)) for box, own, real in zip(
                drawn.boxes[0].tolist(), drawn.labels[0], drawn.real[0], strict=True)}  # fmt: skip
            assert rows[0, 0, 20, 18] == (label, True)
            assert (rows[tuple(large)], rows[tuple(inner)], rows[40, 40, 60, 60]) == ((0, True), (1, True), (-1, True))
            assert sorted(drawn.labels[1][drawn.real[1]].tolist()) == [-1, 2, 2]

    def test_losses_are_divided_by_what_was_drawn(self, images):
        model = small(box=replace(CLASSIFY, samples=10_000))
        targets = Targets.of(GROUND_TRUTHS)
        outputs = model(images, targets)
        sampled, logits = outputs.sampled, outputs.sampled_logits.class_logits
        assert int(sampled.real.sum()) < sampled.real.numel()
        labels = torch.where(sampled.positive, sampled.labels, 3)
        expected = torch.nn.functional.cross_entropy(logits[sampled.real], labels[sampled.real])
        torch.testing.assert_close(model.loss(outputs, targets)["classification"], expected)

    def test_proposals_are_clipped_to_each_image_not_to_the_batch(self, images):
        found = small().eval()(images).proposals
        for image, (height, width) in enumerate(SIZES):
            boxes = found.boxes[image][found.valid[image]]
            assert len(boxes) > 5
            assert (boxes <= torch.tensor([width, height, width, height])).all()
            assert (boxes >= 0).all()

    def test_proposals_are_limited_for_each_level_in_the_course_and_for_all_together_else(self, images):
        for per_level, count in ((False, 7), (True, 35)):
            rpn = replace(PROPOSE, test_proposals=7, per_level=per_level)
            found = small(rpn=rpn).eval()(images).proposals
            assert found.boxes.shape == (2, count, 4)
            assert per_level or (found.scores.diff() <= 0)[found.valid[:, 1:]].all()

    def test_a_region_whose_best_class_is_background_reports_nothing(self, images):
        model = small(box=replace(CLASSIFY, multi_label=False, regression="none")).eval()
        settings = DetectSettings(score_threshold=0.01)
        with torch.no_grad():
            model.box.class_logits.weight.zero_()
            model.box.class_logits.bias.copy_(torch.tensor([1.0, 0.5, 0.0, 1.1]))
            assert model.detect_padded(model(images), settings).counts.tolist() == [0, 0]
            model.box.class_logits.bias[3] = 0.9
            found = model.detect_padded(model(images), settings)
        assert (found.counts > 0).all()
        assert set(found.labels.flatten().tolist()) <= {0, -1}  # and each region its best class only


class TestVariants:
    @pytest.mark.parametrize(
        ("preset", "levels"),
        [
            (settings_of("faster-rcnn-r50-c4-1x"), [16]),
            (settings_of("faster-rcnn-r50-dc5-1x"), [16]),
            (TWO_STAGE_COURSE, [8, 16, 32]),
            (dotted(TORCHVISION), [4, 8, 16, 32, 64]),
        ],
    )
    def test_every_preset_trains_and_detects(self, images, preset, levels):
        settings = {
            "fpn.channels": 16, **preset, "backbone.name": "resnet50", "backbone.widths": (4, 8, 2, 1),
            "backbone.norm": "bn", "rpn.stem_channels": (8,), "rpn.train_candidates": 100, "rpn.test_candidates": 100,
            "rpn.train_proposals": 20, "rpn.test_proposals": 20, "box.samples": 16, "box.fc_channels": (16,),
        }  # fmt: skip
        model = built("faster_rcnn", 2, settings)
        assert model.trunk.strides == levels
        targets = Targets.of([GroundTruth.of([[10.0, 12.0, 50.0, 40.0]], [1]), GroundTruth.empty()])
        losses = model.loss(model(images, targets), targets)
        sum(losses.values()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
        assert all(torch.isfinite(value) for value in losses.values())
        with torch.no_grad():
            found = model.eval().detect(model(images), images, DetectSettings(score_threshold=0.0))
        assert all(len(one) for one in found)

    def test_the_head_of_c4_gets_the_backbones_own_last_stage(self, tmp_path):
        torch.manual_seed(0)
        whole = torchvision.models.resnet50()
        torch.save(whole.state_dict(), tmp_path / "backbone.pth")
        model = built("faster_rcnn", 2, settings_of("faster-rcnn-r50-c4-1x"))
        load_pretrained(model, str(tmp_path / "backbone.pth"))
        assert torch.equal(model.box.head.stage[2].conv3.weight, whole.layer4[2].conv3.weight)

    @pytest.mark.parametrize(("regression", "rows"), [("class", 3), ("agnostic", 1), ("none", 0)])
    def test_boxes_for_each_class_for_all_or_none(self, images, regression, rows):
        model = small(box=replace(CLASSIFY, regression=regression))
        targets = Targets.of(GROUND_TRUTHS)
        outputs = model(images, targets)
        assert outputs.sampled_logits.offsets.shape[2] == rows
        assert ("box" in model.loss(outputs, targets)) == (rows > 0)
        with torch.no_grad():
            model.eval().detect(model(images), images, DetectSettings(score_threshold=0.0))

    def test_giou_of_perfect_regions_is_no_loss(self, images):
        model = small(box=replace(CLASSIFY, box_loss="giou"))
        with torch.no_grad():
            model.box.offsets.weight.zero_()
        sampled = model(images, Targets.of(GROUND_TRUTHS)).sampled
        sampled = sampled._replace(
            boxes=torch.where(sampled.positive[..., None], sampled.ground_truth_boxes, sampled.boxes)
        )
        logits = model.box(model(images).levels, sampled.boxes, sampled.level)
        torch.testing.assert_close(model.box.loss(sampled, logits)["box"], torch.tensor(0.0), atol=1e-5, rtol=0)

    def test_loss_without_targets_in_the_forward_pass_is_refused(self, images):
        model = small()
        with pytest.raises(ValueError, match=r"call model\(images, targets\)"):
            model.loss(model(images), Targets.of(GROUND_TRUTHS))

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"fpn.channels": None}, "levels: expected one without a pyramid"),
            ({"rpn.pooled_level": False}, r"rpn.anchor_sizes: expected one entry for each of the 4 levels"),
        ],
    )
    def test_settings_that_do_not_go_together_are_refused(self, changes, sentence):
        with pytest.raises(ValueError, match=sentence):
            config_of("faster_rcnn", changes)
        with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
            built("faster_rcnn", 0, {})
        with pytest.raises(ValueError, match=r"negative_iou: expected above 0 and up to positive_iou"):
            ProposalSettings(negative_iou=0.8)
