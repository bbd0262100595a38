import math
from functools import cache

import pytest
import torch
from configs import built, config_of, dotted
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from boxwright.convert.detectron2 import RETINANET as DETECTRON2
from boxwright.convert.torchvision import RETINANET as TORCHVISION
from boxwright.convert.torchvision import RETINANET_V2 as TORCHVISION_V2
from boxwright.models.retinanet import RetinaNetHead, RetinaNetOutputs
from boxwright.ops.coding import encode_boxes
from boxwright.structures import DetectSettings, GroundTruth, ImageBatch, Targets

SMALL = {"backbone.name": "mobilenet_v3_small", "fpn.channels": 16, "head.stem_channels": (16,)}


UNIT = {"fpn.extra_levels": 0, "anchors.sizes": (1, 1, 1)}


def build(settings=None):
    return cached(tuple((settings or {}).items()))


@cache
def cached(settings):
    torch.manual_seed(0)
    return built("retinanet", 3, {**SMALL, **dict(settings)})


def image(seed, height=64, width=96):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def hand_made(anchors, logits=None, offsets=None, batch=1, sizes=(100, 100)):
    """Outputs of one level with these anchors; sure of background everywhere unless told otherwise."""
    anchors = torch.tensor(anchors)
    count = len(anchors)
    logits = torch.full((batch, count, 3), -20.0) if logits is None else logits
    offsets = torch.zeros(batch, count, 4) if offsets is None else offsets
    return RetinaNetOutputs(logits, offsets, anchors, torch.tensor([sizes] * batch), (count,))


ANCHORS = [[0.0, 0, 20, 20], [0, 0, 20, 9], [0, 0, 20, 5], [60, 60, 80, 80]]
BOX = GroundTruth.of([[0.0, 0, 20, 20]], [1])


class TestConfig:
    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"fpn.extra_levels": 0}, "anchors.sizes: expected 3 for 3 levels"),
            ({"anchors.ratios": ()}, "at least one of each"),
            ({"anchors.scales": (1.0, 0.0)}, "above 0"),
            ({"assignment.negative_iou": 0.6}, "negative_iou: expected 0 to positive_iou 0.5, got 0.6"),
        ],
    )
    def test_values_that_do_not_go_together_are_refused(self, wrong, words):
        with pytest.raises(ValueError, match=words):
            config_of("retinanet", {**SMALL, **wrong})
        with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
            built("retinanet", 0, SMALL)

    @pytest.mark.parametrize("preset", [DETECTRON2, TORCHVISION, TORCHVISION_V2])
    def test_presets_are_configs(self, preset):
        assert config_of("retinanet", dotted(preset)).compat.pad_multiple == 32


class TestHead:
    def test_starts_with_the_prior_probability_everywhere(self):
        model = build({"head.prior_probability": 0.02}).eval()
        torch.nn.init.zeros_(model.head.class_logits.weight)
        with torch.no_grad():
            logits = model(ImageBatch.of([image(0)])).class_logits
        torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.02))

    def test_the_rows_of_a_class_lie_together(self):
        """Nine rows a class: what moves one class's rows moves that class of all anchors, and no other."""
        head = RetinaNetHead(config_of("retinanet", SMALL).head, 16, 3, 9)
        levels = [torch.randn(1, 16, 2, 3)]
        before, _ = head(levels)
        with torch.no_grad():
            head.class_logits.bias[9:18] += 1
        after, _ = head(levels)
        torch.testing.assert_close(after - before, torch.tensor([0.0, 1, 0]).expand(1, 54, 3), rtol=0, atol=1e-5)

    def test_anchors_of_a_cell_are_told_apart_in_order(self):
        head = RetinaNetHead(config_of("retinanet", SMALL).head, 16, 3, 9)
        with torch.no_grad():
            for predictor in (head.class_logits, head.box_offsets):
                predictor.weight.zero_()
                predictor.bias.copy_(torch.arange(len(predictor.bias)))
        logits, offsets = head([torch.zeros(1, 16, 1, 2)])
        assert logits[0, :, 1].tolist() == [9, 10, 11, 12, 13, 14, 15, 16, 17] * 2
        assert offsets[0, 10].tolist() == [4, 5, 6, 7]

    @pytest.mark.parametrize(("bias", "keys"), [(True, 3), (False, 2)])
    def test_bias_beside_a_norm_is_a_switch(self, bias, keys):
        config = config_of("retinanet", {**SMALL, "head.norm": "gn", "head.bias": bias})
        tower = RetinaNetHead(config.head, 16, 3, 9).class_tower
        assert len([name for name, _ in tower.named_parameters() if name.startswith(("0.", "1."))]) == keys + 1


class TestAnchors:
    def test_nine_at_every_cell_at_cell_centres(self):
        outputs = build()(ImageBatch.of([image(0)]))
        assert outputs.level_counts == (9 * 96, 9 * 24, 9 * 6, 9 * 2, 9)
        assert outputs.anchors.shape == (sum(outputs.level_counts), 4)
        centres = (outputs.anchors[:, :2] + outputs.anchors[:, 2:]) / 2
        torch.testing.assert_close(centres[:9], torch.full((9, 2), 4.0))
        torch.testing.assert_close(centres[9:18], torch.tensor([[12.0, 4.0]]).expand(9, 2))
        sides = (outputs.anchors[:, 2:] - outputs.anchors[:, :2]).prod(1).sqrt()
        expected = [32 * 2 ** (third / 3) for third in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
        torch.testing.assert_close(sides[:9], torch.tensor(expected))
        torch.testing.assert_close(sides[-9:], torch.tensor(expected) * 16)

    def test_stand_at_cell_corners_for_detectron2(self):
        outputs = build({"compat.anchor_grid": "corner"})(ImageBatch.of([image(0)]))
        torch.testing.assert_close(outputs.anchors[:9, :2], -outputs.anchors[:9, 2:])

    def test_three_levels_for_small_machines(self):
        model = build({"fpn.extra_levels": 0, "anchors.sizes": (24, 48, 96), "anchors.scales": (1.0,)})
        outputs = model(ImageBatch.of([image(0)]))
        assert outputs.level_counts == (3 * 96, 3 * 24, 3 * 6)


class TestLoss:
    def test_of_a_sure_and_perfect_prediction_is_nothing(self):
        model = build(UNIT)
        logits = torch.full((1, 4, 3), -20.0)
        logits[0, 0, 1] = 20.0
        losses = model.loss(hand_made(ANCHORS, logits), Targets.of([BOX]))
        assert losses["classification"] < 1e-6
        assert losses["box"] == 0

    def test_between_the_thresholds_nothing_is_charged(self):
        """The second anchor overlaps by 0.45: its logits may be what they like. The third, by 0.25, is background."""
        model = build(UNIT)
        logits = torch.full((1, 4, 3), -20.0, requires_grad=True)
        model.loss(hand_made(ANCHORS, logits + 20), Targets.of([BOX]))["classification"].backward()
        assert logits.grad.abs().sum(-1).gt(0).tolist() == [[True, False, True, True]]

    def test_box_loss_is_the_sum_of_four_errors_over_the_positives(self):
        model = build(UNIT)
        offsets = torch.zeros(1, 4, 4)
        offsets[0, 0] = torch.tensor([0.5, -0.25, 0.25, 1.0])
        offsets[0, 1:] = 77.0  # nobody asks for these
        assert model.loss(hand_made(ANCHORS, None, offsets), Targets.of([BOX]))["box"] == 2.0

    def test_a_box_that_fits_no_anchor_well_teaches_its_best(self):
        model = build(UNIT)
        thin = torch.tensor([0.0, 0, 20, 2])
        offsets = torch.zeros(1, 4, 4)
        offsets[0, 2] = encode_boxes(torch.tensor(ANCHORS[2]), thin)
        losses = model.loss(hand_made(ANCHORS, None, offsets), Targets.of([GroundTruth.of([thin.tolist()], [0])]))
        assert losses["box"] == 0
        assert losses["classification"] > 1  # it was sure of background

    def test_giou_is_that_of_the_decoded_box(self):
        model = build({**UNIT, "loss.box": "giou"})
        offsets = torch.zeros(1, 4, 4)
        offsets[0, 0, 0] = 0.5  # half a width to the right: overlap 1/3, hull 30 wide
        loss = model.loss(hand_made(ANCHORS, None, offsets), Targets.of([BOX]))["box"]
        torch.testing.assert_close(loss, torch.tensor(1 - 1 / 3))

    def test_each_normaliser_divides_as_it_says(self):
        twice = [[0.0, 0, 20, 20], [1, 0, 21, 20], [60, 60, 80, 80]]
        targets = Targets.of([BOX, GroundTruth.of([[60.0, 60, 80, 80]], [0])])  # two positives, and one
        offsets = torch.full((2, 3, 4), 1.0)
        offsets[0, 1, 0] = 1.0 - 1 / 20  # its box lies a twentieth of a width to the left
        outputs = hand_made(twice, None, offsets, batch=2)
        sums = {}
        for kind in ("positives", "image", "ema", "one_each"):
            model = build({**UNIT, "loss.normaliser": kind, "loss.normaliser_start": 13.0}).train()
            sums[kind] = float(model.loss(outputs, targets)["box"])
        assert sums["positives"] == pytest.approx(12 / 3)
        assert sums["image"] == pytest.approx((8 / 2 + 4 / 1) / 2)
        assert sums["ema"] == pytest.approx(12 / (0.9 * 13 + 0.1 * 3))
        assert sums["one_each"] == sums["positives"]

    def test_with_one_each_an_image_without_positives_counts_for_one(self):
        """Sum over images of at least one (MMDetection), where others take at least one of the sum."""
        offsets = torch.full((2, len(ANCHORS), 4), 1.0)
        targets = Targets.of([BOX, GroundTruth.empty()])
        each, plain = (
            float(
                build({**UNIT, "loss.normaliser": kind}).loss(hand_made(ANCHORS, None, offsets, batch=2), targets)[
                    "box"
                ]
            )
            for kind in ("one_each", "positives")
        )
        assert each == pytest.approx(plain / 2)

    def test_the_running_mean_moves_in_training_only_and_never_below_one(self):
        model = build({**UNIT, "loss.normaliser": "ema", "loss.normaliser_start": 1.0})
        nothing = Targets.of([GroundTruth.empty()])
        for _ in range(3):
            model.train().loss(hand_made(ANCHORS), nothing)
        assert model.mean_positives == 1.0
        model.train().loss(hand_made(ANCHORS[:1] * 11), Targets.of([BOX]))
        assert model.mean_positives == 2.0
        model.eval().loss(hand_made(ANCHORS[:1] * 11), Targets.of([BOX]))
        assert model.mean_positives == 2.0


class TestDetect:
    settings = DetectSettings(score_threshold=0.5, nms_iou=0.5, max_detections=4)

    def detections(self, anchors, logits, offsets=None, settings=None):
        model = build({**UNIT, **(settings or {})})
        return model.detect_padded(hand_made(anchors, logits, offsets), self.settings)

    def test_a_score_is_the_probability_of_the_class_and_a_box_the_decoded_anchor(self):
        logits = torch.full((1, 4, 3), -20.0)
        logits[0, 3] = torch.tensor([-1.0, 3.0, 2.0])
        offsets = torch.zeros(1, 4, 4)
        offsets[0, 3] = torch.tensor([0.0, 0.5, math.log(0.5), 0.0])
        found = self.detections(ANCHORS, logits, offsets)
        assert found.counts.tolist() == [2]  # an anchor may report several classes
        assert found.labels[0].tolist() == [1, 2, -1, -1]
        torch.testing.assert_close(found.scores[0], torch.tensor([3.0, 2.0, -99, -99]).sigmoid())
        torch.testing.assert_close(found.boxes[0, 0], torch.tensor([65.0, 70, 75, 90]))

    def test_only_boxes_of_one_class_suppress_each_other(self):
        logits = torch.full((1, 4, 3), -20.0)
        logits[0, :2, 0], logits[0, 0, 1] = torch.tensor([2.0, 1.0]), 1.5
        found = self.detections([[0.0, 0, 20, 20], [0, 0, 20, 18], *ANCHORS[2:]], logits)
        assert found.labels[0].tolist() == [0, 1, -1, -1]

    @pytest.mark.parametrize("clip", ["before_nms", "after_nms"])
    def test_boxes_are_cut_to_the_image_before_or_after_nms(self, clip):
        """Two boxes over the left border: alike inside the image, unlike as a whole."""
        logits = torch.full((1, 3, 3), -20.0)
        logits[0, :, 0] = torch.tensor([2.0, 1.0, 3.0])
        anchors = [[-100.0, 0, 20, 20], [-10, 0, 20, 20], [-80, 0, -40, 20]]  # the third lies outside
        found = self.detections(anchors, logits, settings={"compat.clip": clip})
        inside = [0.0, 0, 20, 20]
        assert found.counts.tolist() == [1 if clip == "before_nms" else 2]
        assert all(box == inside for box in found.boxes[0, : found.counts[0]].tolist())
        assert found.labels[0, found.counts[0] :].tolist() == [-1] * (4 - int(found.counts[0]))
        assert not found.scores[0, found.counts[0] :].any()

    def test_boxes_without_area_take_no_place_unless_torchvision_is_to_be_equalled(self):
        logits = torch.full((1, 2, 3), -20.0)
        logits[0, :, 0] = torch.tensor([2.0, 1.0])
        anchors = [[-50.0, 0, -10, 20], [0, 0, 20, 20]]
        assert self.detections(anchors, logits).boxes[0, 0].tolist() == [0, 0, 20, 20]
        kept = self.detections(anchors, logits, settings={"compat.keep_empty": True})
        assert kept.boxes[0, :2].tolist() == [[0, 0, 0, 20], [0, 0, 20, 20]]
        assert kept.counts.tolist() == [2]


def torchvision_state(theirs, num_classes):
    """Their weights under our names; rows of predictors sorted by class, size, ratio instead of ratio, size, class."""
    names = {"backbone.fpn.inner_blocks.": "fpn.laterals.", "backbone.fpn.layer_blocks.": "fpn.outputs."}
    state = {}
    for key, value in theirs.items():
        if key.startswith(tuple(names)):
            (prefix,) = (prefix for prefix in names if key.startswith(prefix))
            level, _, kind = key.removeprefix(prefix).split(".")
            state[f"{names[prefix]}{level}.{kind}"] = value
        elif key.startswith("backbone.fpn.extra_blocks."):
            state[key.replace("backbone.fpn.extra_blocks.p6", "fpn.extras.0").replace(
                "backbone.fpn.extra_blocks.p7", "fpn.extras.1")] = value  # fmt: skip
        elif ".conv." in key and key.startswith("head."):
            _, branch, _, layer, part, kind = key.split(".")
            per_layer = 3 if any(".conv.0.1." in other for other in theirs) else 2
            tower = "class_tower" if branch == "classification_head" else "box_tower"
            state[f"head.{tower}.{per_layer * int(layer) + int(part)}.{kind}"] = value
        elif key.startswith("head.classification_head.cls_logits."):
            rows = value.view(3, 3, num_classes, *value.shape[1:]).permute(2, 1, 0, *range(3, value.dim() + 2))
            state["head.class_logits." + key.rsplit(".", 1)[1]] = rows.reshape(value.shape)
        elif key.startswith("head.regression_head.bbox_reg."):
            rows = value.view(3, 3, 4, *value.shape[1:]).transpose(0, 1)
            state["head.box_offsets." + key.rsplit(".", 1)[1]] = rows.reshape(value.shape)
        else:
            state[key] = value
    return state


def in_our_order(rows):
    """(B, N, ...) with the nine anchors of a cell by size, then ratio."""
    return rows.unflatten(1, (-1, 3, 3)).transpose(2, 3).flatten(1, 3)


GROUND_TRUTHS = [
    GroundTruth.of([[4.0, 4, 40, 60], [30, 10, 62, 30], [0, 0, 12, 9]], [1, 4, 2]),
    GroundTruth.of([[10.0, 8, 44, 52]], [3]),
    GroundTruth.empty(),
]


@pytest.fixture(scope="module", params=["v1", "v2"])
def pair(request):
    """torchvision's model with random weights that give detections, and ours with the same."""
    torch.manual_seed(1)
    make = retinanet_resnet50_fpn if request.param == "v1" else retinanet_resnet50_fpn_v2
    theirs = make(weights=None, weights_backbone=None, num_classes=5, min_size=64, max_size=400).eval()
    with torch.no_grad():
        seen = theirs.head(list(theirs.backbone(torch.randn(1, 3, 64, 96)).values()))
        for name, branch, spread in (("cls_logits", "classification_head", 2.0),
                                     ("bbox_regression", "regression_head", 0.4)):  # fmt: skip
            predictor = getattr(getattr(theirs.head, branch), {"cls_logits": name}.get(name, "bbox_reg"))
            predictor.weight *= spread / seen[name].std()
    preset = TORCHVISION if request.param == "v1" else TORCHVISION_V2
    own = {"backbone.norm": "bn", "backbone.frozen_stages": 0, "compat.pad_multiple": 1}
    settings = {**dotted(preset), **own}
    ours = built("retinanet", 5, settings).eval()
    state = {**torchvision_state(theirs.state_dict(), 5), "mean_positives": torch.tensor(100.0)}
    ours.load_state_dict(state)  # strict
    return theirs, ours


@pytest.mark.parametrize(
    "sizes",
    [
        [(64, 96), (80, 64), (64, 65)],
        pytest.param([(64, 230)], marks=pytest.mark.slow),
        pytest.param([(211, 64), (64, 64)], marks=pytest.mark.slow),
    ],
)
class TestTorchvision:
    def outputs(self, pair, sizes):
        theirs, ours = pair
        pixels = [image(seed, *size) for seed, size in enumerate(sizes)]
        with torch.no_grad():
            listed, _ = theirs.transform(pixels)
            features = list(theirs.backbone(listed.tensors).values())
            raw = theirs.head(features)
            anchors = theirs.anchor_generator(listed, features)
            images = ImageBatch.of(pixels, multiple_of=32)
            return raw, anchors, images, ours(images)

    def test_raw_outputs_and_anchors_are_the_same(self, pair, sizes):
        raw, anchors, _, outputs = self.outputs(pair, sizes)
        assert torch.equal(outputs.anchors, in_our_order(anchors[0][None])[0])
        torch.testing.assert_close(outputs.class_logits, in_our_order(raw["cls_logits"]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(outputs.offsets, in_our_order(raw["bbox_regression"]), rtol=1e-4, atol=1e-4)

    def test_losses_are_the_same(self, pair, sizes):
        raw, anchors, _, outputs = self.outputs(pair, sizes)
        ground_truths = GROUND_TRUTHS[: len(sizes)]
        expected = pair[0].compute_loss([{"boxes": t.boxes, "labels": t.labels} for t in ground_truths], raw, anchors)
        losses = pair[1].loss(outputs, Targets.of(ground_truths))
        torch.testing.assert_close(losses["classification"], expected["classification"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses["box"], expected["bbox_regression"], rtol=1e-4, atol=1e-5)

    def test_detections_are_the_same(self, pair, sizes):
        *_, images, outputs = self.outputs(pair, sizes)
        with torch.no_grad():
            expected = pair[0]([image(seed, *size) for seed, size in enumerate(sizes)])
        settings = DetectSettings(score_threshold=0.05, nms_iou=0.5, max_detections=300)
        for found, one in zip(pair[1].detect(outputs, images, settings), expected, strict=True):
            assert len(found) == len(one["boxes"]) > 20
            torch.testing.assert_close(found.scores, one["scores"], rtol=0, atol=1e-5)
            # one to one, since scores nearer than their tolerance may swap places
            apart = (found.boxes[:, None] - one["boxes"]).abs().amax(-1)
            same = (apart < 2e-3) & ((found.scores[:, None] - one["scores"]).abs() < 1e-5)
            same &= found.labels[:, None] == one["labels"]
            assert same.any(0).all()
            assert same.any(1).all()
