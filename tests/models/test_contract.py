"""What every detector of `MODELS` promises, held to at once: one class of tests, run for each."""

import dataclasses
import inspect

import pytest
import torch
from tiny_detectors import (
    BOXES,
    QUICK,
    TINY,
    build,
    detects,
    forward,
    ground_truth,
    image,
    is_one_class,
    tensors,
    total,
    without_map,
)  # fmt: skip
from torch.utils._python_dispatch import TorchDispatchMode

from boxwright.models import MODELS
from boxwright.ops.boxes import pairwise_iou
from boxwright.structures import Detections, DetectSettings, GroundTruth, ImageBatch, Losses, PaddedDetections, Targets

LONGER = {
    "faster_rcnn": 75,
    "mask_rcnn": 75,
    "keypoint_rcnn": 150,
    "panoptic_fpn": 75,
    "rotated_faster_rcnn": 110,
    "two_stage_course": 75,
}  # steps: stage two learns from what stage one has learnt
SLOWEST = ("keypoint_rcnn", "panoptic_fpn", "rotated_faster_rcnn")
"""Of learning by heart: `test_golden.py` follows their first steps."""
EVERYTHING = DetectSettings(score_threshold=0.0, max_detections=50)


def assert_same(one, other, **tolerance):
    torch.testing.assert_close(one.boxes, other.boxes, **(tolerance or {"rtol": 1e-4, "atol": 1e-2}))
    torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(one.labels, other.labels)
    assert one.size_hw == other.size_hw


def losses_of(model, images, targets):
    return model.loss(forward(model, images, targets), targets)


@pytest.fixture(params=TINY)
def model(request):
    return build(request.param)


@pytest.fixture(scope="module")
def images():
    return ImageBatch.of([image(1), image(2)])


def test_every_model_is_held_to_the_contract():
    assert {kind for kind, _ in TINY.values()} == set(MODELS)


class TestForm:
    def test_config_is_a_frozen_dataclass_and_no_two_models_share_one(self):
        for entry in MODELS.values():
            assert dataclasses.is_dataclass(entry.config)
            assert entry.config.__dataclass_params__.frozen
        assert len({entry.config for entry in MODELS.values()}) == len(MODELS)

    def test_methods_take_what_the_contract_says(self, model):
        expected = {
            "forward": ["images", "targets", "proposals"],
            "loss": ["outputs", "targets"],
            "detect_padded": ["outputs", "settings"],
            "detect": ["outputs", "images", "settings"],
        }
        for method, names in expected.items():
            assert list(inspect.signature(getattr(model, method)).parameters) == names

    def test_forward_gives_the_same_fields_in_training_and_evaluation(self, model, images):
        found = []
        for training in (True, False):
            outputs = forward(model.train(training), images)
            found.append([(type(outputs), name, type(value)) for name, value in
                          zip(outputs._fields, outputs, strict=True)])  # fmt: skip
        assert found[0] == found[1]

    def test_losses_are_named_scalars_with_a_graph(self, model, images):
        losses = losses_of(model.train(), images, Targets.of([BOXES["one"], BOXES["two"]]))
        assert all(value.shape == () and value.dtype == torch.float32 for value in losses.values())
        assert all(value.requires_grad for value in losses.values())
        assert not any(floor.requires_grad for floor in getattr(losses, "floors", {}).values())

    def test_detections_are_sorted_valid_and_inside_the_image(self, model, images):
        with torch.no_grad():
            found = model.detect(forward(model.eval(), images), images, EVERYTHING)
        assert len(found) == 2
        for one in found:
            assert isinstance(one, Detections)
            assert (0 < len(one) <= EVERYTHING.max_detections) if detects(model) else not len(one)
            assert (one.scores.diff() <= 0).all()
            assert ((one.boxes >= 0) & (one.boxes <= 64)).all()
            assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
            assert ((one.labels >= 0) & (one.labels < 3)).all()

    def test_padded_detections_have_fixed_ranks_and_empty_padding(self, model, images):
        for count in (5, 40):
            settings = DetectSettings(score_threshold=0.0, max_detections=count)
            with torch.no_grad():
                padded = model.eval().detect_padded(forward(model, images), settings)
            assert isinstance(padded, PaddedDetections)
            assert (padded.boxes.shape, padded.scores.shape) == ((2, count, 4), (2, count))
            assert (padded.labels.shape, padded.counts.shape) == ((2, count), (2,))
            rest = torch.arange(count) >= padded.counts[:, None]
            assert not padded.boxes[rest].any()
            assert not padded.scores[rest].any()
            assert (padded.labels[rest] == -1).all()

    def test_nothing_above_the_threshold_gives_empty_detections(self, model, images):
        with torch.no_grad():
            found = model.detect(forward(model.eval(), images), images, DetectSettings(score_threshold=1.0))
        assert [len(one) for one in found] == [0, 0]

    def test_detections_come_back_in_the_pixels_of_the_original(self, model):
        images = ImageBatch.of([image(1)])
        with torch.no_grad():
            outputs = forward(model.eval(), images)
            (there,) = model.detect(outputs, images, EVERYTHING)
            scale_y = 0.5 if there.rotated is None else 2.0  # by unequal factors a turned box is no rectangle any more
            network = ImageBatch.of([image(1)], [(int(64 / scale_y), 32)], [(2.0, scale_y)])
            (back,) = model.detect(outputs, network, EVERYTHING)
        assert back.size_hw == (int(64 / scale_y), 32)
        torch.testing.assert_close(back.boxes, there.boxes * torch.tensor([0.5, 1 / scale_y] * 2), atol=1e-4, rtol=1e-5)


class TestGroundTruth:
    @pytest.mark.parametrize("contents", [("one", "none"), ("none", "none"), ("region", "one"), ("two", "two")])
    def test_every_parameter_gets_a_finite_gradient_even_without_boxes(self, model, images, contents):
        losses = losses_of(model.train(), images, Targets.of([BOXES[name] for name in contents]))
        total(losses).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name
        assert all(torch.isfinite(value) for value in losses.values())

    def test_without_boxes_only_the_background_is_learnt(self, model, images):
        losses = losses_of(model.train(), images, Targets.of([BOXES["none"]] * 2))
        background = [losses.pop(name) for name in ("classification", "objectness") if name in losses]
        assert background or not detects(model)
        assert all(value > 0 for value in background)
        assert all(value == 0 for value in losses.values())

    def test_forward_and_detect_read_no_ground_truth(self, model, images):
        model.eval()
        targets = Targets.of([BOXES["one"], BOXES["two"]])
        with torch.no_grad():
            without, given = forward(model, images), forward(model, images, targets)
            for one, other in zip(model.detect(without, images, EVERYTHING), model.detect(given, images, EVERYTHING),
                                  strict=True):  # fmt: skip
                assert_same(one, other, rtol=0, atol=0)

    def test_outputs_of_one_forward_serve_loss_and_detections(self, model, images):
        targets = Targets.of([BOXES["one"], BOXES["two"]])
        with torch.no_grad():
            outputs = forward(model.eval(), images, targets)
            before = model.loss(outputs, targets)
            found = model.detect(outputs, images, EVERYTHING)
            after = model.loss(outputs, targets)
            again = model.detect(outputs, images, EVERYTHING)
        assert {name: float(value) for name, value in before.items()} == {k: float(v) for k, v in after.items()}
        for one, other in zip(found, again, strict=True):
            assert_same(one, other, rtol=0, atol=0)

    def test_the_order_of_boxes_and_padding_do_not_matter(self, model, images):
        model.eval()
        straight = Targets.of([BOXES["two"], BOXES["one"]])
        two = BOXES["two"]
        assert two.masks is not None
        turned = Targets.of(
            [
                GroundTruth(two.boxes.flip(0), two.labels.flip(0), two.ignore, two.masks[::-1], two.keypoints.flip(0),
                            two.semantic, two.rotated.flip(0)),
                BOXES["one"],
            ]
        )  # fmt: skip
        wide = Targets.of([two, BOXES["one"], ground_truth([[1.0, 1, 2, 2]] * 5, [0] * 5)])
        masks = type(wide.masks)(*(part[:2] if part.shape[:2] == (3, 5) else part for part in wide.masks))
        wide = Targets(wide.boxes[:2], wide.labels[:2], wide.ignore[:2], wide.valid[:2], masks, wide.keypoints[:2],
                       wide.semantic[:2], wide.rotated[:2])  # fmt: skip
        expected = losses_of(model, images, straight)
        for targets in (turned, wide):
            for name, value in losses_of(model, images, targets).items():
                torch.testing.assert_close(value, expected[name])


class TestBatch:
    def test_each_image_alone_gives_what_it_gives_in_a_batch(self, model, images):
        with torch.no_grad():
            together = model.detect(forward(model.eval(), images), images, EVERYTHING)
            for index, expected in enumerate(together):
                alone = ImageBatch.of([images.pixels[index]])
                (found,) = model.detect(forward(model, alone), alone, EVERYTHING)
                assert_same(found, expected)

    def test_the_order_of_images_does_not_matter(self, model, images):
        turned = ImageBatch.of(list(images.pixels.flip(0)))
        with torch.no_grad():
            straight = model.detect(forward(model.eval(), images), images, EVERYTHING)
            for found, expected in zip(
                model.detect(forward(model, turned), turned, EVERYTHING), straight[::-1], strict=True
            ):
                assert_same(found, expected)
            ground_truths = [BOXES["one"], BOXES["two"]]
            one = losses_of(model, images, Targets.of(ground_truths))
            other = losses_of(model, turned, Targets.of(ground_truths[::-1]))
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("sizes", [[(64, 96), (80, 48)], [(65, 97), (33, 70)], [(40, 200)]])
    def test_mixed_and_odd_sizes(self, model, sizes):
        mixed = ImageBatch.of([image(3, *size) for size in sizes])
        targets = Targets.of([without_map(BOXES["one"])] * len(sizes))
        losses = model.train().loss(outputs := forward(model, mixed, targets), targets)
        total(losses).backward()
        assert torch.isfinite(total(losses))
        for found, (height, width) in zip(model.detect(outputs, mixed, EVERYTHING), sizes, strict=True):
            assert found.size_hw == (height, width)
            assert (found.boxes <= torch.tensor([width, height, width, height])).all()

    def test_what_lies_in_the_padding_does_not_matter(self, model):
        clean = ImageBatch.of([image(3, 64, 96), image(4, 48, 64)])
        dirty = dataclasses.replace(clean, pixels=clean.pixels.clone())
        dirty.pixels[1, :, 48:], dirty.pixels[1, :, :, 64:] = 255, 255
        with torch.no_grad():
            for one, other in zip(tensors(forward(model.eval(), clean)), tensors(forward(model, dirty)), strict=True):
                assert torch.equal(one, other)

    def test_whole_and_float_pixels_give_the_same(self, model, images):
        floats = ImageBatch.of(list(images.pixels / 255))
        with torch.no_grad():
            for one, other in zip(tensors(forward(model.eval(), images)), tensors(forward(model, floats)), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


class TestState:
    def test_is_kept_whole_by_a_round_trip_through_a_file(self, model, images, tmp_path):
        model.train()
        losses_of(model, images, Targets.of([BOXES["one"], BOXES["two"]]))  # moves statistics and normaliser
        torch.save(model.state_dict(), tmp_path / "state.pt")
        torch.manual_seed(9)
        other = type(model)(model.config, model.num_classes)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        with torch.no_grad():
            for one, two in zip(tensors(forward(model.eval(), images)), tensors(forward(other.eval(), images)),
                                strict=True):  # fmt: skip
                assert torch.equal(one, two)

    def test_does_not_move_in_evaluation(self, model, images):
        before = {key: value.clone() for key, value in model.eval().state_dict().items()}
        targets = Targets.of([BOXES["one"], BOXES["two"]])
        outputs = forward(model, images, targets)
        model.loss(outputs, targets)
        model.detect(outputs, images, EVERYTHING)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    @pytest.mark.parametrize("name", TINY)
    def test_the_same_seed_gives_the_same_losses_bit_for_bit(self, name, images):
        targets = Targets.of([BOXES["one"], BOXES["two"]])
        losses = []
        for _ in range(2):
            fresh = build(name).train()
            losses.append({key: value.item() for key, value in losses_of(fresh, images, targets).items()})
        assert losses[0] == losses[1]

    def test_bfloat16_networks_give_float32_outputs_and_losses(self, model, images):
        targets = Targets.of([BOXES["one"], BOXES["two"]])
        with torch.autocast("cpu", torch.bfloat16):
            outputs = forward(model.train(), images, targets)
        predictions = [value for value in outputs if isinstance(value, torch.Tensor) and value.requires_grad]
        assert all(value.dtype == torch.float32 for value in predictions)
        losses = model.loss(outputs, targets)
        assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
    def test_a_gpu_gives_what_the_cpu_gives(self, model, images):
        targets = Targets.of([BOXES["one"], BOXES["two"]])
        with torch.no_grad():
            expected = losses_of(model.eval(), images, targets)
            moved = losses_of(model.cuda(), images.to("cuda"), targets.to("cuda"))
        for name, value in expected.items():
            torch.testing.assert_close(value, moved[name].cpu(), rtol=1e-2, atol=1e-2)


ONE_STAGE = [name for name, (kind, _) in TINY.items() if kind in ("fcos", "retinanet")]


def training_step(name, device):
    """A step of a one-stage detector, ready to be taken."""
    model = build(name, QUICK).to(device).train()
    images = ImageBatch.of([image(1), image(2)]).to(device)
    targets = Targets.of([BOXES["one"], BOXES["two"]]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        total(losses_of(model, images, targets)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class Reads(TorchDispatchMode):
    """Notes the operations that bring a value to the host, or whose shape depends on values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, kinds, arguments=(), settings=None):
        if function.__name__.startswith(("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")):
            self.found.append(function.__name__)
        return function(*arguments, **(settings or {}))


@pytest.mark.parametrize("name", ONE_STAGE)
def test_a_one_stage_step_reads_no_value_back(name):
    """On a GPU each of these operations would make the host wait."""
    step = training_step(name, "cpu")
    step()
    with Reads() as reads:
        step()
    assert reads.found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("name", ONE_STAGE)
def test_a_one_stage_step_does_not_wait_for_the_gpu(name):
    step = training_step(name, "cuda")
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOWEST else name for name in TINY]
)
def test_one_image_is_learnt_by_heart(name):
    """The sanity check of all training code: the loss collapses, and the image's boxes come back."""
    model = build(name, QUICK).train()
    objects = ground_truth([[6.0, 8.0, 44.0, 52.0], [56.0, 20.0, 90.0, 60.0]], [1, 2], size_hw=(64, 96))
    pixels = torch.full((3, 64, 96), 90, dtype=torch.uint8)
    if MODELS[model.config.name].needs_semantic:
        pixels[0, 32:] = 160  # stuff
    for box, colour in zip(objects.boxes.int().tolist(), ([250, 30, 30], [20, 60, 240]), strict=True):
        pixels[:, box[1] : box[3], box[0] : box[2]] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    images, targets = ImageBatch.of([pixels]), Targets.of([objects])
    rate = 2e-3 if name == "keypoint_rcnn" else 3e-3  # most of its gradient is that of keypoints
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    course, steps = [], LONGER.get(name, 45)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)  # so that the end does not depend on rounding
        losses = losses_of(model, images, targets)
        floor = sum(losses.floors.values()) if isinstance(losses, Losses) else 0.0
        course.append(float((total(losses) - floor).detach()))
        optimizer.zero_grad()
        total(losses).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    assert max(course[-5:]) < course[0] / 4
    with torch.no_grad():  # still with the statistics of this image: those of evaluation need longer
        found = model.detect(forward(model, images), images, DetectSettings(score_threshold=0.3))[0]
    if found.semantic is not None:
        assert (found.semantic == objects.semantic).float().mean() > 0.9
    if not detects(model):
        return
    labels = torch.zeros_like(objects.labels) if is_one_class(model) else objects.labels
    for box, label in zip(objects.boxes, labels, strict=True):
        assert pairwise_iou(found.boxes[found.labels == label], box[None]).amax() > 0.5
