"""Mask R-CNN and FCOS-Mask: the branch that both hold, what it learns where, and torchvision's mask head as oracle."""

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from configs import built as built_of
from configs import config_of
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_inference, maskrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from boxwright.models.fcos_mask import FCOSMask
from boxwright.models.mask_branch import MaskBranch, MaskSettings
from boxwright.structures import CroppedMask, DetectSettings, GroundTruth, ImageBatch, PaddedDetections, Targets

NARROW = {"mask.conv_channels": (8,), "mask.upsampled_channels": 8}
SLIM = {"backbone.widths": (8, 16, 4, 1)}
FCOS_MASK = {"backbone.name": "resnet18", "fpn.channels": 16, "head.stem_channels": (16,), **NARROW, "mask.samples": 8}
TWO_STAGE = {"rpn.stem_channels": (16,), "rpn.test_proposals": 20, "rpn.train_proposals": 20, "rpn.samples": 16,
             "box.fc_channels": (16,), "box.samples": 12, "fpn.channels": 16}  # fmt: skip
ONE_LEVEL = {
    "rpn": {"stem_channels": (16,), "anchor_sizes": ((16.0, 32.0),), "test_proposals": 9, "train_proposals": 9,
            "pooled_level": False}
}  # fmt: skip
ONE_MAP = {"fpn.channels": None}
CASES = {
    "fcos_mask": ("fcos_mask", FCOS_MASK),
    "fcos_mask_p2": ("fcos_mask", {**FCOS_MASK, "fpn.with_p2": True}),
    "mask_rcnn": ("mask_rcnn", {**TWO_STAGE, "backbone.name": "resnet18", **NARROW}),
    "mask_rcnn_c4": (
        "mask_rcnn",
        {
            **ONE_MAP, **SLIM, **ONE_LEVEL, **NARROW, "fpn.levels": ("c4",), "mask.conv_channels": (),
            "box": {"stage_head": True, "pool_size": 14, "samples": 6},
        },
    ),
    "mask_rcnn_dc5": (
        "mask_rcnn",
        {
            **ONE_MAP, **SLIM, **ONE_LEVEL, **NARROW, "fpn.levels": ("c5",), "backbone.dilated_c5": True,
            "box": {"fc_channels": (16,), "samples": 6},
        },
    ),
}  # fmt: skip
EVERYTHING = DetectSettings(score_threshold=0.0, max_detections=7)


@cache
def built(name):
    kind, settings = CASES[name]
    torch.manual_seed(0)
    return built_of(kind, 3, settings)


def build(name):
    return copy.deepcopy(built(name))


def make_images(*sizes):
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.of([torch.randint(0, 256, (3, *hw), dtype=torch.uint8, generator=generator) for hw in sizes])


def half_disc(x, y, side):
    """An object whose mask is the upper left triangle of its box."""
    return [x, y, x + side, y + side], CroppedMask(x, y, torch.ones(side, side, dtype=torch.bool).tril().flip(1))


def ground_truth(*objects, labels=None):
    boxes, masks = zip(*objects, strict=True)
    return GroundTruth.of(list(boxes), labels or [0] * len(boxes), masks=masks)


@pytest.fixture(params=CASES)
def model(request):
    return build(request.param)


class TestModels:
    def test_every_loss_has_a_gradient_for_every_parameter_that_it_trains(self, model):
        images = make_images((64, 64), (64, 64))
        targets = Targets.of([ground_truth(half_disc(8, 8, 40)), ground_truth(half_disc(4, 20, 30), labels=[2])])
        torch.manual_seed(0)
        losses = model.train().loss(model(images, targets), targets)
        assert losses["mask"] > 0
        sum(losses.values()).backward()
        missing = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert missing == []
        assert all(part.grad.abs().sum() > 0 for part in model.mask.parameters())

    @pytest.mark.parametrize("case", ["no object", "no mask", "no masks at all", "ignored"])
    def test_without_a_mask_the_branch_costs_nothing_and_stays_in_the_graph(self, model, case):
        images = make_images((64, 64), (64, 64))
        box, mask = half_disc(8, 8, 40)
        unknown = CroppedMask(8, 8, torch.zeros(1, 1, dtype=torch.bool))
        one = {
            "no object": GroundTruth.empty(),
            "no mask": GroundTruth.of([box], [1], masks=[unknown]),
            "no masks at all": GroundTruth.of([box], [1]),
            "ignored": GroundTruth.of([box], [1], [True], masks=[mask]),
        }[case]
        targets = Targets.of([one, GroundTruth.empty()])
        losses = model.train().loss(model(images, targets), targets)
        assert losses["mask"] == 0
        losses["mask"].backward()
        assert all(part.grad is not None and part.grad.abs().sum() == 0 for part in model.mask.parameters())

    def test_detections_have_a_mask_each_of_their_own_class(self, model):
        images = make_images((60, 70), (64, 50))
        with torch.no_grad():
            outputs = model.eval()(images)
            padded = model.detect_padded(outputs, EVERYTHING)
            found = model.detect(outputs, images, EVERYTHING)
        side = padded.masks.shape[-1]
        assert padded.masks.shape == (2, 7, side, side)
        assert side == (14 if model.config.mask.conv_channels == () else 28)
        assert (padded.masks[padded.labels < 0] == 0).all()
        assert (padded.masks[padded.labels >= 0] > 0).all()
        assert [len(one.masks) for one in found] == padded.counts.tolist()
        for one, size_hw in zip(found, ((60, 70), (64, 50)), strict=True):
            assert len(one)
            assert one.whole_masks().shape == (len(one), *size_hw)

    def test_ground_truth_plays_no_part_in_detections(self, model):
        images = make_images((64, 64))
        targets = Targets.of([ground_truth(half_disc(8, 8, 40))])
        with torch.no_grad():
            without = model.eval().detect_padded(model(images), EVERYTHING)
            beside = model.detect_padded(model(images, targets), EVERYTHING)
        for one, other in zip(without, beside, strict=True):
            assert one is other is None or torch.equal(one, other)

    def test_losses_of_a_forward_pass_without_targets_are_refused(self, model):
        images = make_images((64, 64))
        with pytest.raises(ValueError, match="was given no targets"):
            model.loss(model(images), Targets.of([GroundTruth.empty()]))

    def test_an_image_in_a_batch_learns_the_masks_that_it_learns_alone(self, model):
        """Rows of regions keep their order in a batch, for masks too."""
        images = make_images((64, 64), (64, 64), (64, 64))
        ground_truths = [
            ground_truth(half_disc(8, 8, 40)),
            GroundTruth.empty(),
            ground_truth(half_disc(4, 20, 30), half_disc(30, 2, 20)),
        ]
        with torch.no_grad():
            outputs = model.eval()(images)
        levels = outputs.levels if isinstance(model, FCOSMask) else outputs.detector.levels
        stage = None if isinstance(model, FCOSMask) else model._stage()
        targets = Targets.of(ground_truths)
        owner = torch.where(targets.valid, torch.arange(2), -1)
        whole = model.mask.learn(levels, targets.boxes, owner, targets, stage)
        parts = []
        for index in (0, 2):
            alone = Targets.of([ground_truths[index]])
            rows = owner[index : index + 1, : len(ground_truths[index])]
            own = [level[index : index + 1] for level in levels]
            parts.append(model.mask.learn(own, alone.boxes, rows, alone, stage).logits)
        torch.testing.assert_close(whole.logits, torch.cat(parts))
        assert whole.image.tolist() == [0, 2, 2]


class TestBranch:
    def branch(self, **changes):
        torch.manual_seed(3)
        settings = MaskSettings(**{"conv_channels": (6, 6), "upsampled_channels": 6, **changes})
        branch = MaskBranch(settings, 4, 5, [4, 8])
        torch.nn.init.normal_(branch.head.predictor.weight)
        return branch

    def levels(self):
        return [torch.randn(2, 5, 32, 32), torch.randn(2, 5, 16, 16)]

    def test_a_mask_is_that_of_its_class_alone(self):
        branch, levels = self.branch(), self.levels()
        boxes = torch.tensor([[10.0, 10.0, 60.0, 50.0]]).repeat(4, 1)
        logits = branch(levels, boxes, torch.zeros(4, dtype=torch.int64), torch.arange(4))
        pooled = branch.head.convolutions
        assert logits.shape == (4, 28, 28)
        assert not torch.allclose(logits[0], logits[1])
        with torch.no_grad():
            branch.head.predictor.weight[1:] = 0
            again = branch(levels, boxes, torch.zeros(4, dtype=torch.int64), torch.arange(4))
        torch.testing.assert_close(again[0], logits[0])
        assert pooled is branch.head.convolutions

    def test_a_loss_of_right_and_of_undecided_logits(self):
        box, mask = half_disc(8, 8, 28)
        targets = Targets.of([ground_truth((box, mask))])
        branch, sizes = self.branch(), torch.tensor([[64, 64]])
        regions = branch.learn(self.levels(), targets.boxes, torch.zeros(1, 1, dtype=torch.int64), targets)
        sure = torch.where(mask.bitmap, 20.0, -20.0)[None]
        assert branch.loss(regions._replace(logits=sure), targets, sizes)["mask"] < 1e-6
        undecided = branch.loss(regions._replace(logits=torch.zeros(1, 28, 28)), targets, sizes)["mask"]
        assert undecided.item() == pytest.approx(torch.tensor(2.0).log().item())

    def test_head_pooling_loss_and_inference_equal_torchvision(self):
        torch.manual_seed(0)
        settings = {"pool_sampling": 2, "pool_aligned": False, "level_slack": 1e-6, "targets": "soft"}
        branch, levels = self.branch(**settings), self.levels()
        head, predictor = MaskRCNNHeads(5, (6, 6), 1), MaskRCNNPredictor(6, 6, 5)  # class 0 is background there
        for index, part in enumerate(p for p in branch.head.convolutions if isinstance(p, torch.nn.Conv2d)):
            head[index][0].load_state_dict(part.state_dict())
        predictor.conv5_mask.load_state_dict(branch.head.upsampled.state_dict())
        with torch.no_grad():
            predictor.mask_fcn_logits.weight[1:] = branch.head.predictor.weight
            predictor.mask_fcn_logits.bias[1:] = branch.head.predictor.bias
        bitmaps = [torch.rand(30, 40) > 0.4, torch.rand(25, 20) > 0.3]
        things = [([20.0, 8.0, 60.0, 38.0], CroppedMask(20, 8, bitmaps[0])),
                  ([70.0, 60.0, 90.0, 85.0], CroppedMask(70, 60, bitmaps[1]))]  # fmt: skip
        targets = Targets.of([ground_truth(things[0], labels=[2]), ground_truth(*things, labels=[1, 3])])
        boxes = torch.tensor([[[15.0, 5, 70, 41], [22, 9, 58, 30]], [[60.0, 50, 99, 90], [18, 8, 63, 36]]])
        owner = torch.tensor([[0, 0], [1, 0]])
        regions = branch.learn(levels, boxes, owner, targets)
        loss = branch.loss(regions, targets, torch.tensor([[128, 128]] * 2))["mask"]

        pool = MultiScaleRoIAlign(["0", "1"], 14, 2)
        pooled = pool({"0": levels[0], "1": levels[1]}, list(boxes), [(128, 128)] * 2)
        theirs = predictor(head(pooled))
        labels = [torch.tensor([3, 3]), torch.tensor([4, 2])]
        torch.testing.assert_close(
            regions.logits, theirs[torch.arange(4), torch.cat(labels)], rtol=1e-4, atol=1e-5
        )  # fmt: skip
        planes = [torch.zeros(1, 128, 128), torch.zeros(2, 128, 128)]
        for image, row, thing in ((0, 0, 0), (1, 0, 0), (1, 1, 1)):
            things[thing][1].draw(planes[image][row])
        gt_labels = [torch.tensor([3]), torch.tensor([2, 4])]
        expected = maskrcnn_loss(theirs, list(boxes), planes, gt_labels, list(owner))
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)

        scores = torch.ones(2, 2)
        found = PaddedDetections(boxes, scores, torch.stack(labels) - 1, torch.tensor([2, 2]))
        masks = branch.add_masks(found, levels).masks
        expected = torch.stack(maskrcnn_inference(theirs, labels))[:, :, 0]
        torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-5)

    def test_regions_of_the_finest_maps_are_pooled_from_them(self):
        branch, levels = self.branch(canonical_level=4), self.levels()
        small, large = torch.tensor([[0.0, 0.0, 20.0, 20.0]]), torch.tensor([[0.0, 0.0, 128.0, 128.0]])
        one = torch.zeros(1, dtype=torch.int64)
        for box, level in ((small, 0), (large, 1)):
            changed = [map_ if index == level else map_ * 0 for index, map_ in enumerate(levels)]
            torch.testing.assert_close(branch(levels, box, one, one), branch(changed, box, one, one))


def test_fcos_regions_are_its_detections_and_the_ground_truth():
    model = build("fcos_mask")
    images = make_images((64, 64), (64, 64))
    targets = Targets.of([ground_truth(half_disc(8, 8, 40), half_disc(2, 2, 9)), GroundTruth.empty()])
    with torch.no_grad():
        outputs = model.train()(images, targets)
        boxes, owner = model._regions(outputs.detector, targets)
    assert set(owner[0].tolist()) >= {0, 1}  # the true boxes are among them, whatever FCOS finds
    assert (owner[1] == -1).all()
    assert boxes.shape[1] <= 8
    assert not boxes.requires_grad


def test_settings_of_the_detector_stand_beside_those_of_the_masks():
    config = config_of("fcos_mask", {"fpn.channels": 16, "mask_iou": 0.7})
    assert config.mask_iou == 0.7
    assert config.detector == config_of("fcos", {"fpn.channels": 16})
    with pytest.raises(ValueError, match=r"model\.no_such_field: unknown key"):
        config_of("fcos_mask", {"no_such_field": 1})


def test_the_branch_learns_a_mask_by_heart():
    """From a map on which the object can be seen, to a pasted mask with its outline."""
    box, mask = half_disc(10, 14, 36)
    plane = torch.zeros(64, 64, dtype=torch.bool)
    mask.draw(plane)
    levels = [F.avg_pool2d(plane[None, None].float(), 4)]
    targets = Targets.of([ground_truth((box, mask))])
    torch.manual_seed(0)
    branch = MaskBranch(MaskSettings(conv_channels=(16, 16), upsampled_channels=16), 1, 1, [4])
    optimizer = torch.optim.AdamW(branch.parameters(), lr=5e-3)
    owner, sizes = torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[64, 64]])
    for _ in range(60):
        loss = branch.loss(branch.learn(levels, targets.boxes, owner, targets), targets, sizes)["mask"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    one = torch.ones(1, dtype=torch.int64)
    found = PaddedDetections(targets.boxes, torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), one)
    with torch.no_grad():
        (detections,) = branch.add_masks(found, levels).restore(make_images((64, 64)))
    drawn = detections.whole_masks()[0]
    assert (drawn & plane).sum() / (drawn | plane).sum() > 0.9
