"""Fast R-CNN on given proposals: what it samples, what it learns, what it reports."""

from dataclasses import replace

import pytest
import torch

from boxwright.models.box_branch import BoxSettings, RegionLogits
from boxwright.models.fast_rcnn import FastRCNN, FastRCNNConfig
from boxwright.models.sections import BackboneSection, TrunkSection
from boxwright.structures import DetectSettings, GroundTruth, ImageBatch, Proposals, Targets

SETTINGS = BoxSettings(fc_channels=(16,), samples=8)
IMAGES = ImageBatch.of([torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))])
GROUND_TRUTH = Targets.of([GroundTruth.of([[10.0, 10.0, 50.0, 50.0]], [1])])
NEAR, FAR, HALF = [12.0, 10.0, 50.0, 50.0], [60.0, 10.0, 90.0, 40.0], [10.0, 10.0, 50.0, 30.0]


def detector(**changes):
    torch.manual_seed(0)
    config = FastRCNNConfig(
        backbone=BackboneSection(name="mobilenet_v3_small"),
        fpn=TrunkSection(channels=8),
        box=replace(SETTINGS, **changes),
    )
    return FastRCNN(config, num_classes=2)


def proposals(*boxes):
    return Proposals.of([torch.tensor(boxes).reshape(-1, 4)])


class TestSampling:
    def test_overlap_of_a_half_is_positive_and_below_it_background(self):
        sampled = detector().box.sample(proposals(NEAR, FAR, HALF), GROUND_TRUTH)
        real = sampled.real[0]
        kinds = dict(zip(map(tuple, sampled.boxes[0, real].tolist()), sampled.labels[0, real].tolist(), strict=True))
        # a quarter of 8 may be positive: two of near, half and the ground truth itself
        assert kinds.pop(tuple(FAR)) == -1
        assert len(kinds) == 2
        assert set(kinds.values()) == {1}
        assert int(sampled.real.sum()) == 3

    def test_positives_know_their_box_and_come_first(self):
        sampled = detector(positive_fraction=1.0).box.sample(proposals(FAR, NEAR), GROUND_TRUTH)
        assert sampled.positive.tolist() == [[True, True, False]]
        assert sampled.owner.tolist() == [[0, 0, -1]]
        assert sampled.ground_truth_boxes[0, :2].tolist() == [[10, 10, 50, 50]] * 2
        assert not sampled.ground_truth_boxes[0, 2].any()

    def test_proposals_in_an_ignore_region_are_left_out(self):
        crowd = Targets.of([GroundTruth.of([[0.0, 0.0, 55.0, 55.0]], [0], [True])])
        sampled = detector().box.sample(proposals(NEAR, FAR), crowd)
        assert sampled.boxes[sampled.real].tolist() == [FAR]

    def test_padding_is_never_drawn(self):
        given = Proposals.of([torch.tensor([NEAR, FAR]), torch.zeros(0, 4)])
        targets = Targets.of([GroundTruth.empty(), GroundTruth.empty()])
        sampled = detector().box.sample(given, targets)
        assert sampled.real.sum(1).tolist() == [2, 0]


class TestLoss:
    def test_refinement_is_learnt_times_its_weights(self):
        model = detector(positive_fraction=1.0)
        sampled = model.box.sample(proposals(NEAR), GROUND_TRUTH)
        size = sampled.boxes.shape[1]
        logits = RegionLogits(torch.zeros(1, size, 3), torch.zeros(1, size, 2, 4))
        losses = model.box.loss(sampled, logits)
        # near is 38 wide, its centre 1 to the right, the ground truth 40: dx = -1 / 38, dw = ln(40 / 38), dy = dh = 0
        expected = (10 / 38 + 5 * torch.tensor(40 / 38).log()) / 2  # the ground truth itself needs none; two were drawn
        torch.testing.assert_close(losses["box"], expected)
        torch.testing.assert_close(losses["classification"], torch.tensor(3.0).log())

    def test_only_the_offsets_of_the_own_class_are_charged(self):
        model = detector(positive_fraction=1.0)
        sampled = model.box.sample(proposals(NEAR), GROUND_TRUTH)
        offsets = torch.zeros(1, sampled.boxes.shape[1], 2, 4)
        offsets[:, :, 0] = 100.0
        logits = RegionLogits(torch.zeros(*offsets.shape[:2], 3), offsets)
        assert model.box.loss(sampled, logits)["box"] < 1
        offsets[:, :, 1] = 100.0
        assert model.box.loss(sampled, logits)["box"] > 100


class TestDetection:
    def logits(self, *rows):
        classes = torch.tensor([rows]).log()
        return RegionLogits(classes, torch.zeros(1, len(rows), 2, 4))

    def test_a_region_may_report_several_classes_and_never_background(self):
        model = detector()
        found = model.box.select(
            proposals(NEAR, FAR), self.logits([0.5, 0.3, 0.2], [0.02, 0.04, 0.94]), IMAGES.sizes_hw, DetectSettings()
        )
        assert found.labels[0, :3].tolist() == [0, 1, -1]
        assert found.scores[0, :2].tolist() == pytest.approx([0.5, 0.3])
        assert found.boxes[0, 0].tolist() == NEAR

    def test_padding_reports_nothing(self):
        given = Proposals.of([torch.tensor([NEAR, FAR]), torch.tensor([NEAR])])
        sure = RegionLogits(torch.tensor([[[9.0, 0, 0]] * 2] * 2), torch.zeros(2, 2, 2, 4))
        sizes = torch.tensor([[64, 96], [64, 96]])
        assert detector().box.select(given, sure, sizes, DetectSettings()).counts.tolist() == [2, 1]

    def test_boxes_are_refined_by_the_offsets_of_their_class(self):
        model = detector()
        logits = self.logits([0.5, 0.4, 0.1])
        logits.offsets[0, 0, 1] = torch.tensor([10.0, 0.0, 0.0, 0.0])  # one width to the right
        found = model.box.select(proposals([10.0, 10.0, 30.0, 30.0]), logits, IMAGES.sizes_hw, DetectSettings())
        assert found.boxes[0, :2].tolist() == [[10, 10, 30, 30], [30, 10, 50, 30]]

    def test_more_candidates_than_the_limit_leave_the_best(self):
        logits = self.logits([0.5, 0.3, 0.2], [0.4, 0.35, 0.25])
        found = detector().box.select(
            proposals(NEAR, FAR), logits, IMAGES.sizes_hw, DetectSettings(candidates_per_level=2)
        )
        assert found.scores[0, : found.counts[0]].tolist() == pytest.approx([0.5, 0.4])


class TestDetector:
    def test_without_proposals_it_says_what_it_needs(self):
        with pytest.raises(ValueError, match="give it proposals"):
            detector()(IMAGES)

    def test_proposals_beyond_the_image_are_cut(self):
        outputs = detector()(IMAGES, None, proposals([50.0, 20.0, 200.0, 100.0]))
        assert outputs.proposals.boxes.tolist() == [[[50, 20, 96, 64]]]

    def test_one_forward_pass_gives_detections_of_all_proposals_and_the_loss(self):
        model = detector().eval()
        given = proposals(NEAR, FAR, HALF)
        with torch.no_grad():
            outputs = model(IMAGES, GROUND_TRUTH, given)
            found = model.detect(outputs, IMAGES, DetectSettings(score_threshold=0.0, nms_iou=1.0))[0]
            alone = model.detect(model(IMAGES, None, given), IMAGES, DetectSettings(score_threshold=0.0, nms_iou=1.0))[
                0
            ]
        assert len(found) == 6  # three regions, two classes
        assert torch.equal(found.boxes, alone.boxes)
        assert set(model.loss(outputs, GROUND_TRUTH)) == {"classification", "box"}

    def test_stored_proposals_have_no_level_of_their_own(self):
        with pytest.raises(ValueError, match=r"box.pool_from: stored proposals come from no level"):
            FastRCNNConfig(box=BoxSettings(pool_from="source"))
