"""The proposal network alone: anchors, proposals on hand-made outputs, and detections of one class."""

from dataclasses import replace

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from boxwright.models.proposal_network import AnchorOutputs, ProposalNetwork, ProposalSettings
from boxwright.models.rpn import RPN, RPNConfig
from boxwright.models.sections import BackboneSection, TrunkSection
from boxwright.ops.coding import decode_boxes
from boxwright.structures import DetectSettings, GroundTruth, ImageBatch, Targets

SETTINGS = ProposalSettings(stem_channels=(8,), anchor_sizes=((16,), (32,)), anchor_ratios=(1.0,), samples=1000)
IMAGES = ImageBatch.of([torch.zeros(3, 64, 64, dtype=torch.uint8)])
LEVELS = [torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ProposalNetwork(SETTINGS, 4, [8, 16])


def outputs_of(scores, boxes, level_counts=None, sizes=(64, 64)):
    """Outputs whose anchors are the boxes themselves."""
    logits = torch.tensor([scores])
    counts = level_counts or (len(scores),)
    return AnchorOutputs(
        logits, torch.zeros(*logits.shape, 4), torch.tensor(boxes), torch.tensor([sizes]), counts, None
    )


class TestAnchors:
    def test_stand_at_the_centres_of_cells_row_by_row(self, network):
        anchors = network(LEVELS, IMAGES, None).anchors
        assert anchors.shape == (64 + 16, 4)
        assert anchors[0].tolist() == [-4, -4, 12, 12]
        assert anchors[1].tolist() == [4, -4, 20, 12]
        assert anchors[64].tolist() == [-8, -8, 24, 24]

    @pytest.mark.parametrize(("grid", "first"), [("corner", [-8, -8, 8, 8]), ("torchvision", [-8, -8, 8, 8])])
    def test_stand_at_corners_for_the_references(self, grid, first):
        settings = ProposalSettings(
            stem_channels=(), anchor_sizes=((16,), (32,)), anchor_ratios=(1.0,), anchor_grid=grid
        )
        anchors = ProposalNetwork(settings, 4, [8, 16])(LEVELS, IMAGES, None).anchors
        assert anchors[0].tolist() == first
        assert anchors[1].tolist() == [0, -8, 16, 8]

    def test_channels_go_by_anchor_within_a_cell(self):
        settings = ProposalSettings(stem_channels=(), anchor_sizes=((16,),), anchor_ratios=(0.5, 1.0, 2.0))
        network = ProposalNetwork(settings, 4, [8])
        with torch.no_grad():
            network.objectness.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
            network.offsets.bias.copy_(torch.arange(12.0))
        found = network([LEVELS[0]], IMAGES, None)
        assert found.objectness[0, :6].tolist() == [1, 2, 3, 1, 2, 3]
        assert found.offsets[0, 4].tolist() == [4, 5, 6, 7]
        sides = found.anchors[:3, 2:] - found.anchors[:3, :2]
        assert (sides[0, 0] > sides[0, 1], sides[2, 0] < sides[2, 1]) == (True, True)  # wide, ..., tall


class TestSampling:
    def test_positives_and_background_are_told_apart_by_overlap(self, network):
        # an anchor of the first level exactly, another half beside it
        targets = Targets.of([GroundTruth.of([[20.0, 20.0, 36.0, 36.0]], [2])])
        outputs = network(LEVELS, IMAGES, targets)
        sampled = outputs.sampled
        positive = outputs.anchors[sampled.rows[0, sampled.positive[0]]]
        assert positive.tolist() == [[20, 20, 36, 36]]
        assert int(sampled.real.sum()) == 76  # its four neighbours overlap by a third: neither
        assert network.loss(outputs)["proposal_box"] < 0.01  # offsets of 0 are right

    def test_an_ignore_region_is_neither_object_nor_background(self, network):
        targets = Targets.of([GroundTruth.of([[0.0, 0.0, 40.0, 40.0]], [0], [True])])
        sampled = network(LEVELS, IMAGES, targets).sampled
        rows = sampled.rows[0, sampled.real[0]]
        assert not sampled.positive.any()
        anchors = network(LEVELS, IMAGES, None).anchors[rows]
        inside = (anchors.clamp(0, 40)[:, 2:] - anchors.clamp(0, 40)[:, :2]).prod(1)
        assert (inside < 0.5 * (anchors[:, 2:] - anchors[:, :2]).prod(1)).all()

    def test_cross_entropy_of_undecided_anchors_is_ln_2_and_the_nominal_count_divides_by_what_was_asked_for(self):
        losses = []
        for normaliser in ("sampled", "nominal"):
            settings = ProposalSettings(
                stem_channels=(), anchor_sizes=((16,), (32,)), anchor_ratios=(1.0,), samples=160, normaliser=normaliser
            )
            network = ProposalNetwork(settings, 4, [8, 16])
            outputs = network(LEVELS, IMAGES, Targets.of([GroundTruth.empty()]))
            losses.append(network.loss(outputs)["objectness"].item())
        assert losses == pytest.approx([0.693147, 0.693147 / 2], rel=1e-5)  # 80 anchors, of 160


class TestBoxLoss:
    TARGETS = Targets.of([GroundTruth.of([[1, 2, 18, 15], [30, 28, 61, 60]], [0, 1])])

    def losses(self, **changes):
        torch.manual_seed(0)
        network = ProposalNetwork(replace(SETTINGS, positive_iou=0.5, **changes), 4, [8, 16])
        with torch.no_grad():
            network.offsets.bias.copy_(torch.tensor([0.1, -0.2, 0.3, 0.05]))
        outputs = network(LEVELS, IMAGES, self.TARGETS)
        return network.loss(outputs), outputs

    def test_giou_is_that_of_the_decoded_boxes_of_positive_anchors(self):
        losses, outputs = self.losses(box_loss="giou")
        rows, positive, real, boxes = (part[0] for part in outputs.sampled)
        assert positive.sum() > 1
        decoded = decode_boxes(outputs.anchors[rows], outputs.offsets[0, rows])[positive]
        expected = generalized_box_iou_loss(decoded, boxes[positive], reduction="sum") / real.sum()
        torch.testing.assert_close(losses["proposal_box"], expected)
        assert not torch.isclose(losses["proposal_box"], self.losses()[0]["proposal_box"])

    @pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
    def test_its_weight_is_of_boxes_alone(self, kind):
        (one, _), (four, _) = self.losses(box_loss=kind), self.losses(box_loss=kind, box_weight=4.0)
        torch.testing.assert_close(four["proposal_box"], 4 * one["proposal_box"])
        assert four["objectness"] == one["objectness"]

    @pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
    def test_a_weight_that_is_none_is_refused(self, weight):
        with pytest.raises(ValueError, match=r"box_weight: expected a number from 0"):
            ProposalSettings(box_weight=weight)

    def test_without_an_object_it_is_zero_and_has_a_gradient(self):
        network = ProposalNetwork(replace(SETTINGS, box_loss="giou", stem_norm="gn"), 4, [8, 16])
        outputs = network(LEVELS, IMAGES, Targets.of([GroundTruth.empty()]))
        loss = network.loss(outputs)["proposal_box"]
        loss.backward()
        assert loss == 0
        assert network.offsets.weight.grad.abs().sum() == 0

    def test_a_norm_follows_each_convolution_of_the_stem(self):
        network = ProposalNetwork(replace(SETTINGS, stem_channels=(64, 64), stem_norm="gn"), 4, [8, 16])
        kinds = [type(layer).__name__ for layer in network.stem]
        assert kinds == ["Conv2d", "GroupNorm", "ReLU"] * 2


class TestProposals:
    def test_overlapping_boxes_of_a_level_leave_the_best(self, network):
        boxes = [[0.0, 0, 20, 20], [0, 0, 20, 19], [40, 40, 60, 60]]
        found = network.propose(outputs_of([0.5, 2.0, -1.0], boxes), 10, 5, 0.7)
        assert found.valid.tolist() == [[True, True, False, False, False]]
        assert found.boxes[0, :2].tolist() == [boxes[1], boxes[2]]
        assert found.scores[0, :2].tolist() == [2.0, -1.0]

    def test_levels_do_not_suppress_one_another(self, network):
        boxes = [[0.0, 0, 20, 20], [0, 0, 20, 19]]
        found = network.propose(outputs_of([0.5, 2.0], boxes, (1, 1)), 10, 5, 0.7)
        assert found.valid.sum() == 2
        assert found.level[0, :2].tolist() == [1, 0]

    def test_only_the_best_candidates_of_each_level_are_looked_at(self, network):
        boxes = [[0.0, 0, 20, 20], [30, 30, 50, 50], [0, 30, 20, 50]]
        found = network.propose(outputs_of([0.5, 2.0, 1.0], boxes, (2, 1)), 1, 5, 0.7)
        assert found.boxes[0, found.valid[0]].tolist() == [boxes[1], boxes[2]]

    def test_what_lies_outside_the_image_is_dropped(self, network):
        boxes = [[70.0, 0, 90, 20], [50, 50, 90, 90]]
        found = network.propose(outputs_of([2.0, 1.0], boxes), 10, 5, 0.7)
        assert found.boxes[0, found.valid[0]].tolist() == [[50, 50, 64, 64]]

    def test_what_is_no_number_is_dropped(self, network):
        outputs = outputs_of([2.0, 1.0], [[0.0, 0, 20, 20], [30, 30, 50, 50]])
        outputs.offsets[0, 0] = float("nan")
        found = network.propose(outputs, 10, 5, 0.7)
        assert found.boxes[0, found.valid[0]].tolist() == [[30, 30, 50, 50]]

    def test_no_gradient_flows_through_them(self, network):
        assert not network.propose(network(LEVELS, IMAGES, None), 10, 5, 0.7).boxes.requires_grad


class TestDetector:
    def test_settings_decide_how_many_and_every_detection_is_an_object(self):
        torch.manual_seed(0)
        settings = ProposalSettings(stem_channels=(8,), anchor_sizes=((8,), (16,), (32,), (64,), (128,)))
        model = RPN(
            RPNConfig(backbone=BackboneSection(name="mobilenet_v3_small"), fpn=TrunkSection(channels=8), rpn=settings),
            1,
        ).eval()
        images = ImageBatch.of([torch.rand(3, 64, 64), torch.rand(3, 48, 64)])
        with torch.no_grad():
            outputs = model(images)
            many = model.detect(outputs, images, DetectSettings(score_threshold=0.0, nms_iou=0.9, max_detections=60))
            few = model.detect(outputs, images, DetectSettings(score_threshold=0.0, nms_iou=0.1, max_detections=900))
            all_ = model.detect(outputs, images, DetectSettings(score_threshold=0.0, nms_iou=1.0, max_detections=900))
            none = model.detect(outputs, images, DetectSettings(score_threshold=0.999))
        assert [len(one) for one in many] == [60, 60]
        assert all(0 < len(one) < len(other) for one, other in zip(few, all_, strict=True))
        assert [len(one) for one in none] == [0, 0]
        assert not many[0].labels.any()
        assert ((many[0].scores > 0.4) & (many[0].scores < 0.6)).all()  # probabilities, undecided at the start

    def test_anchors_must_be_given_for_each_level(self):
        with pytest.raises(ValueError, match=r"rpn.anchor_sizes: expected one entry for each of the 5 levels"):
            RPNConfig(rpn=SETTINGS)
        with pytest.raises(ValueError, match=r"anchor_sizes: expected as many on each level"):
            ProposalSettings(anchor_sizes=((8,), (16, 32)))
        with pytest.raises(ValueError, match=r"samples: expected at least 1, got 0"):
            ProposalSettings(samples=0)
