"""Laws of heads, initial weights, losses and training that published detectors and courses have broken, one test each.

The docstrings say how. "The course" is the university assignment of docs/conventions.md; the laws of geometry, targets
and detections are in test_laws.py.
"""

import math

import pytest
import torch
from configs import BASELINE, COURSE, built
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from boxwright.data.records import Split
from boxwright.data.sampler import StepSampler
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.nn.backbones import FeaturePyramid
from boxwright.ops import losses as losses_module
from boxwright.ops import processes
from boxwright.ops.losses import box_loss
from boxwright.recipes import load_recipe, recipe_names
from boxwright.structures import Classes, DetectSettings, GroundTruth, ImageBatch, Targets
from boxwright.training.prepare import CheckedData, image_sets, open_checked

SMALL = {"backbone.name": "resnet18", "fpn.channels": 16, "head.stem_channels": (16,)}
VARIANTS = {"improved": SMALL, "baseline": {**BASELINE, **SMALL}, "course": {**COURSE, **SMALL}}
BOXES = Targets.of([GroundTruth.of([[6.0, 8.0, 44.0, 52.0], [56.0, 20.0, 90.0, 60.0]], [1, 2])])
NO_BOXES = Targets.of([GroundTruth.empty()])


def build(variant="course", changes=None):
    torch.manual_seed(0)
    return built("fcos", 3, {**VARIANTS[variant], **(changes or {})}).train()


def make_images(height=64, width=96):
    return ImageBatch.of([torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))])


def total(losses):
    return sum(losses.values())


class TestHead:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_all_predictors_are_drawn_small(self, variant):
        """The course initialises one convolution and uses another."""
        head = build(variant, {"head.stem_channels": (64,)}).head
        for predictor in (head.class_logits, head.box_distances, head.centerness):
            assert float(predictor.weight.detach().std()) == pytest.approx(0.01, rel=0.1)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_every_location_starts_sure_of_background(self, variant):
        """Focal loss, section 4.1: without the prior, training is unstable at its start."""
        model = build(variant).eval()
        assert model.head.class_logits.bias.tolist() == pytest.approx([-math.log(99)] * 3)
        with torch.no_grad():
            probabilities = model(make_images()).class_logits.sigmoid()
        assert float(probabilities.mean()) == pytest.approx(0.01, rel=0.5)

    @pytest.mark.parametrize(("place", "tower"), [("box", "box_tower"), ("class", "class_tower")])
    def test_centerness_sits_on_the_branch_that_the_config_names(self, place, tower):
        """The course puts it on the class tower, contrary to its own instructions."""
        head = build(changes={"head.centerness_on": place}).head
        head([torch.randn(1, 16, 4, 4)])[2].sum().backward()
        reached = {name.split(".")[0] for name, weight in head.named_parameters() if weight.grad is not None}
        assert reached == {tower, "centerness"}

    def test_each_tower_runs_once_a_level(self):
        """The course runs the class tower twice."""
        head = build().head
        calls = []
        for tower in (head.class_tower, head.box_tower):
            tower.register_forward_hook(lambda *_: calls.append(1))
        head([torch.randn(1, 16, side, side) for side in (4, 2, 1)])
        assert len(calls) == 2 * 3

    def test_rows_of_predictions_and_locations_come_from_the_same_cell(self):
        """Predictions, locations and targets must share one order of levels."""
        model = build("improved").eval()
        with torch.no_grad():
            outputs = model(make_images())
            levels = model.fpn(model.backbone(make_images().normalised(model.pixel_mean, model.pixel_std)))
            start = 0
            for index, level in enumerate(levels):
                height, width = level.shape[2:]
                rows = slice(start, start + height * width)
                logits = model.head.class_logits(model.head.class_tower(level))[0]
                strides = outputs.strides[rows]
                assert strides.unique().tolist() == [8 * 2**index]
                column, row = (outputs.locations[rows] / strides[:, None]).long().unbind(1)
                torch.testing.assert_close(outputs.class_logits[0, rows], logits[:, row, column].T)
                start += height * width
        assert start == len(outputs.locations)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_regression_is_alive_at_the_start(self, variant):
        """clip(min=0) of raw outputs around zero has no gradient, and the loss stays at 1."""
        model = build(variant)
        model.loss(model(make_images()), BOXES)["box"].backward()
        assert (model.head.box_distances.bias.grad.abs() > 1e-4).all()

    def test_a_box_of_clipped_sides_is_dead_which_is_why_it_must_not_start_there(self):
        """The trap itself: GIoU loss 1, gradient 0."""
        raw = torch.full((1, 4), -0.01, requires_grad=True)
        loss = box_loss(raw.clamp(min=0), torch.tensor([[1.0, 1.0, 1.0, 1.0]]), torch.ones(1), "giou")
        loss.backward()
        assert float(loss.detach()) == pytest.approx(1.0)
        assert not raw.grad.any()

    def test_all_raw_outputs_of_the_course_variant_start_above_the_clip(self):
        """That is what its box_bias is for."""
        with torch.no_grad():
            assert (build()(make_images()).distances > 1).all()

    def test_building_a_model_moves_no_statistics(self):
        """The course's forward of noise in training mode moves pretrained BatchNorm statistics."""
        model = build()
        norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        assert norms
        for norm in norms:
            assert norm.training
            assert norm.num_batches_tracked == 0
            assert not norm.running_mean.any()
            assert (norm.running_var == 1).all()

    @pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (72, 40), (33, 33)])
    def test_pyramid_takes_odd_sizes(self, height, width):
        """Upsampling by the factor 2 fails where 17 meets 18."""
        assert torch.isfinite(build().eval()(make_images(height, width)).class_logits).all()
        maps = [torch.randn(1, 4, side, side) for side in (17, 9, 5)]
        assert [level.shape[-1] for level in FeaturePyramid((4, 4, 4), 4)(maps)] == [17, 9, 5]


class TestNumbers:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("factor", [1e3, -1e3, 1e6])
    def test_loss_and_gradient_stay_finite_whatever_the_network_predicts(self, variant, factor):
        """Masking the loss after a division does not stop 0 * inf in the gradient."""
        model = build(variant)
        with torch.no_grad():
            model.head.box_distances.bias += factor / 1e3 * 50  # beyond what exp() can represent
        losses = model.loss(outputs := model(make_images()), BOXES)
        torch.autograd.backward(total(losses))
        assert all(torch.isfinite(value) for value in losses.values())
        for name, weight in model.named_parameters():
            assert weight.grad is None or torch.isfinite(weight.grad).all(), name
        sure = outputs._replace(class_logits=outputs.class_logits.detach() * factor)
        assert torch.isfinite(total(model.loss(sure, BOXES)))

    def test_recipes_warm_up_and_clip_gradients_where_the_head_has_no_norm(self):
        """The FCOS authors clip gradients where the head has no group norm."""
        for name in recipe_names():
            recipe = load_recipe(name)
            assert recipe.schedule.warmup_steps > 0, name
            if recipe.model.name.startswith("fcos"):
                assert recipe.model.head.norm == "gn" or recipe.optim.clip_norm, name

    def test_losses_count_by_owner_and_not_by_the_sign_of_a_target(self):
        """The course masks targets below zero element by element."""
        predicted, target = torch.ones(2, 4), torch.tensor([[-1.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]])
        assert box_loss(predicted, target, torch.tensor([1.0, 0.0]), "l1") == (2 + 1 + 1 + 1) / 4

    def test_raw_outputs_survive_loss_and_detection(self):
        """sigmoid_() on views of the logits (Detectron2, the course) destroys them for any later use."""
        model = build("improved").eval()
        with torch.no_grad():
            outputs = model(make_images())
            before = [value.clone() for value in outputs[:3]]
            model.detect(outputs, make_images(), DetectSettings(score_threshold=0.0))
            model.loss(outputs, BOXES)
        assert all(torch.equal(one, other) for one, other in zip(before, outputs[:3], strict=True))


class FakeRanks:
    """torch.distributed with one other rank, which has `others` positives (and as much weight)."""

    def __init__(self, others):
        self.others, self.calls = others, 0

    def is_available(self):
        return True

    is_initialized = is_available

    def get_world_size(self):
        return 2

    def all_reduce(self, tensor):
        self.calls += 1
        tensor += self.others


class TestNormaliser:
    def test_is_in_the_checkpoint_and_comes_back(self):
        """A Python number (the course, Detectron2) is not, so that a resumed run starts anew."""
        model = build()
        model.loss(model(make_images()), BOXES)
        state = model.state_dict()
        assert state["mean_positives"] != 150
        other = build()
        other.load_state_dict(state)
        assert other.mean_positives == state["mean_positives"]

    def test_follows_the_course_rule(self):
        """0.9 of the old, 0.1 of the positives an image."""
        model = build()
        with torch.no_grad():
            before = model.loss(model(make_images()), BOXES)
            positives = (float(model.mean_positives) - 0.9 * 150) / 0.1
            assert positives == pytest.approx(round(positives), abs=1e-3)
            assert positives > 0
            after = model.loss(model(make_images()), BOXES)
        factor = (0.9 * 150 + 0.1 * positives) / (0.9 * (0.9 * 150 + 0.1 * positives) + 0.1 * positives)
        assert float(after["box"] / before["box"]) == pytest.approx(factor, rel=1e-3)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_never_falls_below_one(self, variant):
        """Else a hundred batches without positives leave 0.004, and the next box costs 250 times too much."""
        model = build(variant)
        with torch.no_grad():
            outputs = model(make_images())
            for _ in range(100):
                losses = model.loss(outputs, NO_BOXES)
            background = model.eval().loss(outputs, NO_BOXES)["classification"]
        assert all(torch.isfinite(value) for value in losses.values())
        if variant == "course":
            assert model.mean_positives < 0.01
        assert losses["classification"] == background
        # divided by 1: it is the plain sum
        everything = torch.ones(outputs.class_logits.shape[:2], dtype=torch.bool)
        plain = losses_module.focal_loss(outputs.class_logits, torch.full(everything.shape, -1), everything)
        torch.testing.assert_close(background, plain)

    def test_stands_still_in_evaluation(self):
        """Validation must not move what training divides by."""
        model = build().eval()
        model.loss(model(make_images()), BOXES)
        assert model.mean_positives == 150

    @pytest.mark.parametrize("normaliser", ["ema", "positives"])
    def test_is_the_mean_over_ranks(self, monkeypatch, normaliser):
        """In Detectron2 each rank keeps its own."""
        model = build(changes={"loss.normaliser": normaliser, "loss.normaliser_momentum": 0.0})
        outputs = model(make_images())
        alone = model.loss(outputs, BOXES)["classification"]
        count = float(model.mean_positives) if normaliser == "ema" else None
        ranks = FakeRanks(others=1000.0)
        for part in (losses_module, processes):
            monkeypatch.setattr(part, "dist", ranks)
        shared = model.loss(outputs, BOXES)["classification"]
        assert ranks.calls == 1
        assert shared < alone
        if count is not None:
            assert float(model.mean_positives) == pytest.approx((count + 1000) / 2)
            assert (alone / shared).item() == pytest.approx((count + 1000) / 2 / count, rel=1e-4)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_a_rank_without_boxes_takes_part_in_everything(self, monkeypatch, variant):
        """A rank that skips a collective or a loss stops all others for ever."""
        model = build(variant)
        ranks = FakeRanks(others=50.0)
        for part in (losses_module, processes):
            monkeypatch.setattr(part, "dist", ranks)
        losses = model.loss(model(make_images()), NO_BOXES)
        assert ranks.calls == 1
        assert all(losses[name].requires_grad for name in ("classification", "box", "centerness"))
        total(losses).backward()
        assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)

    def test_an_evaluating_rank_talks_to_nobody(self, monkeypatch):
        """Ranks validate different numbers of batches: a collective there would hang."""
        model = build().eval()
        ranks = FakeRanks(others=50.0)
        for part in (losses_module, processes):
            monkeypatch.setattr(part, "dist", ranks)
        model.loss(model(make_images()), BOXES)
        assert ranks.calls == 0


class Waits(TorchDispatchMode):
    """Notes the operations for which a GPU would have to wait for the host, or the host for the GPU."""

    ITEMS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "lift_fresh", "unique", "equal")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, kinds, arguments=(), settings=None):
        name = function.__name__.split(".")[0]
        masks = name in ("index", "index_put", "index_put_") and any(
            part is not None and part.dtype == torch.bool for part in arguments[1]
        )
        if masks or any(name.startswith(item) for item in self.ITEMS):
            self.found.append(function.__name__)
        return function(*arguments, **(settings or {}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_step_never_waits_for_the_host(variant):
    """`.item()`, indexing by a mask or a constant made on the host empties the queue of a GPU."""
    model, images = build(variant), make_images()
    with Waits() as waits:
        total(model.loss(model(images), BOXES)).backward()
    assert waits.found == []


def test_the_watch_over_waiting_sees_what_it_should():
    values = torch.randn(4)
    for wait in (lambda: values.sum().item(), lambda: values[values > 0], lambda: torch.tensor([1.0, 2.0])):
        with Waits() as waits:
            wait()
        assert waits.found


class TestData:
    def test_overfitting_really_takes_so_few_images(self, tmp_path):
        """The course's "overfit small data" trains on the whole set."""
        write_shapes(tmp_path / "data", 5, 2, "voc", ShapesConfig(size=64, max_objects=2), 0)
        prepared = open_checked(
            tmp_path / "data", classes=None, train_split="train", val_split="val", overfit=3,
            recipe=load_recipe("fcos-small"), log=lambda _line: None,
        )  # fmt: skip
        assert len(prepared.train) == 3
        assert prepared.val.records == prepared.train.records

    def test_each_epoch_is_shuffled_and_holds_every_image(self):
        """The course's training loader is not shuffled."""
        sampler = StepSampler([1.0] * 24, 4, seed=0, start=0, stop=12)
        drawn = [key.record for keys in sampler for key in keys]
        first, second = drawn[:24], drawn[24:]
        assert sorted(first) == sorted(second) == list(range(24))
        assert first != second
        assert first != list(range(24))

    def test_training_and_test_images_are_resized_by_the_same_rule_but_for_a_centre_crop(self, tmp_path):
        """The course trains on 224 x 224 crops and tests on whole images of any shape."""
        split = Split("train", (), Classes.named(["a"]))
        for name in recipe_names():
            train, val, _ = image_sets(load_recipe(name), CheckedData(split, split, split.classes, None), augment=True)
            assert train.rule == val.rule or (train.rule.mode, val.rule.mode) == ("centre_crop", "short_side")

    def test_the_device_is_nowhere_fixed(self):
        """The course writes torch.device("cuda") in its branch without a GPU."""
        model = build().to("meta")
        with torch.device("meta"):
            images, targets = make_images().to("meta"), BOXES.to("meta")
        losses = model.loss(outputs := model(images), targets)
        assert {value.device.type for value in (*outputs[:5], *losses.values())} == {"meta"}
