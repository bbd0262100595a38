"""The aligned assignment of `benchmarks.aligned` equals a loop that does what the paper says, and its laws hold."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from tiny_detectors import BOXES, build, forward, image, total
from torchvision.ops import sigmoid_focal_loss

from boxwright.ops.boxes import pairwise_iou
from boxwright.ops.points import pyramid_locations
from boxwright.structures import DetectSettings, ImageBatch, Targets

sys.path.insert(0, str(Path(__file__).parents[1]))
alignment = importlib.import_module("benchmarks.aligned_assignment")
benchmark = importlib.import_module("benchmarks.aligned")
sys.path.pop(0)
quality_focal_loss = alignment.quality_focal_loss

LOCATIONS, STRIDES = pyramid_locations([(8, 8), (4, 4)], [8, 16])
RULE = {"candidates": 5, "score_power": 1.0, "overlap_power": 6.0}


def scene(seed, batch=3, count=6, num_classes=4):
    """Random predictions and objects; the last object of each image is padding, the one before it is to be ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, len(LOCATIONS), num_classes, generator=generator) - 1
    sides = torch.rand(batch, len(LOCATIONS), 4, generator=generator) * 30
    predicted = torch.cat([LOCATIONS - sides[..., :2], LOCATIONS + sides[..., 2:]], -1)
    corner = torch.rand(batch, count, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 4 + torch.rand(batch, count, 2, generator=generator) * 40], -1)
    channels = torch.randint(0, num_classes, (batch, count), generator=generator)
    valid, ignore = torch.ones(batch, count, dtype=torch.bool), torch.zeros(batch, count, dtype=torch.bool)
    valid[:, -1], ignore[:, -2] = False, True
    return logits, predicted, boxes, channels, valid, ignore


def assigned(one, **changes):
    logits, predicted, boxes, channels, valid, ignore = one
    return alignment.assign_aligned(logits, predicted, LOCATIONS, boxes, channels, valid, ignore, **{**RULE, **changes})


def oracle(one, candidates, score_power, overlap_power):
    """The rule, one object and one location after the other."""
    owners, ignored, qualities = [], [], []
    for logits, predicted, boxes, channels, valid, ignore in zip(*one, strict=True):
        scores, overlaps = logits.sigmoid(), pairwise_iou(predicted, boxes)
        taken = [[] for _ in LOCATIONS]  # objects that take each location
        fits = {}
        for thing in range(len(boxes)):
            if not valid[thing] or ignore[thing]:
                continue
            x1, y1, x2, y2 = boxes[thing].tolist()
            inside = [n for n, (x, y) in enumerate(LOCATIONS.tolist()) if x1 < x < x2 and y1 < y < y2]
            for place in inside:
                score, iou = float(scores[place, channels[thing]]), max(float(overlaps[place, thing]), 1e-6)
                fits[place, thing] = score**score_power * iou**overlap_power
            for place in sorted(inside, key=lambda place: -fits[place, thing])[:candidates]:
                taken[place].append(thing)
        owner = [max(things, key=lambda n: overlaps[p, n]) if things else -1 for p, things in enumerate(taken)]
        quality = [0.0] * len(owner)
        for thing in set(owner) - {-1}:
            mine = [place for place, one in enumerate(owner) if one == thing]
            largest = max(float(overlaps[place, thing]) for place in mine)
            best = max(fits[place, thing] for place in mine)
            for place in mine:
                quality[place] = fits[place, thing] / best * largest
        regions = [boxes[n].tolist() for n in range(len(boxes)) if valid[n] and ignore[n]]
        free = [
            one < 0 and any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in regions)
            for one, (x, y) in zip(owner, LOCATIONS.tolist(), strict=True)
        ]
        owners.append(owner)
        ignored.append(free)
        qualities.append(quality)
    return torch.tensor(owners), torch.tensor(ignored), torch.tensor(qualities)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rule", [RULE, {"candidates": 13, "score_power": 0.5, "overlap_power": 2.0}])
def test_it_is_what_a_loop_over_objects_and_locations_finds(seed, rule):
    one = scene(seed)
    owner, ignored, quality = oracle(one, **rule)
    found = assigned(one, **rule)
    assert torch.equal(found.owner, owner)
    assert torch.equal(found.ignored, ignored)
    torch.testing.assert_close(found.quality, quality, rtol=1e-3, atol=1e-6)
    assert ignored.any()
    assert len(owner.unique()) > 3


def test_chunks_change_nothing(monkeypatch):
    one = scene(5, count=9)
    whole = assigned(one)
    monkeypatch.setattr(alignment, "_CHUNK_ELEMENTS", 1)
    for part, other in zip(assigned(one), whole, strict=True):
        assert torch.equal(part, other)


def test_images_do_not_see_each_other_and_padding_owns_nothing():
    one = scene(6)
    whole = assigned(one)
    for index in range(3):
        alone = assigned(tuple(part[index : index + 1, :-1] if part.dim() < 3 or part.shape[1] == 6 else
                               part[index : index + 1] for part in one))  # fmt: skip
        assert torch.equal(alone.owner[0], whole.owner[index])
        torch.testing.assert_close(alone.quality[0], whole.quality[index])
    assert (whole.owner < 4).all()


def test_the_best_location_of_an_object_is_to_score_its_own_overlap_and_all_are_within_0_and_1():
    one = scene(7)
    found = assigned(one)
    overlaps = torch.stack([pairwise_iou(p, b) for p, b in zip(one[1], one[2], strict=True)])
    for index in range(3):
        for thing in found.owner[index].unique().tolist():
            mine = found.owner[index] == thing
            best = overlaps[index, mine, thing].amax() if thing >= 0 else torch.tensor(0.0)
            torch.testing.assert_close(found.quality[index, mine].amax(), best)
    assert 0 <= found.quality.amin() <= found.quality.amax() <= 1


@pytest.mark.parametrize("count", [0, 2])
def test_without_objects_everything_is_background(count):
    logits, predicted, boxes, channels, valid, ignore = scene(0)
    nothing = assigned((logits, predicted, boxes[:, :count], channels[:, :count], valid[:, :count] & False,
                        ignore[:, :count]))  # fmt: skip
    assert (nothing.owner == -1).all()
    assert not nothing.ignored.any()
    assert not nothing.quality.any()


def test_a_prediction_that_overlaps_nothing_still_learns_what_it_lies_in():
    """Boxes without extent, as relu gives them at the start, have no overlap with anything."""
    logits, _, boxes, channels, valid, ignore = scene(1)
    predicted = torch.cat([LOCATIONS, LOCATIONS], -1).expand(3, -1, -1)
    found = assigned((logits, predicted, boxes, channels, valid, ignore))
    assert (found.owner >= 0).any()
    assert torch.isfinite(found.quality).all()


class TestQualityFocalLoss:
    def test_a_quality_of_1_without_alpha_is_the_focal_loss(self):
        logits, labels = torch.randn(2, 7, 3), torch.randint(-1, 3, (2, 7))
        keep = torch.rand(2, 7) < 0.8
        ones = (labels >= 0).float()
        found = quality_focal_loss(logits, labels, ones, keep)
        one_hot = torch.nn.functional.one_hot(labels + 1, 4)[..., 1:].float()
        each = sigmoid_focal_loss(logits, one_hot, alpha=-1, gamma=2.0).sum(-1)
        torch.testing.assert_close(found, each[keep].sum())

    @pytest.mark.parametrize("beta", [1.0, 2.0])
    def test_it_is_the_definition_entry_by_entry(self, beta):
        logits, labels, quality = torch.randn(2, 7, 3), torch.randint(-1, 3, (2, 7)), torch.rand(2, 7)
        target = torch.nn.functional.one_hot(labels + 1, 4)[..., 1:] * quality[..., None]
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        each = ((target - logits.sigmoid()).abs() ** beta * entropy).sum(-1)
        found = quality_focal_loss(logits, labels, quality, torch.ones(2, 7, dtype=torch.bool), beta=beta)
        torch.testing.assert_close(found, each.sum())

    def test_the_least_of_it_is_at_the_quality_and_the_gradient_is_finite_everywhere(self):
        labels, quality, keep = torch.tensor([[0]]), torch.tensor([[0.7]]), torch.tensor([[True]])
        at = torch.tensor([0.7]).logit()
        assert quality_focal_loss(at[None, None], labels, quality, keep).item() < 1e-12
        extreme = torch.tensor([[[80.0], [-80.0], [1e4]]])
        labels, quality = torch.tensor([[0, 0, -1]]), torch.tensor([[0.5, 0.5, 0.0]])
        keep = torch.tensor([[True, True, False]])
        extreme.requires_grad_(True)
        for beta in (1.0, 2.0):
            quality_focal_loss(extreme, labels, quality, keep, beta=beta).backward()
        assert torch.isfinite(extreme.grad).all()


class TestDetector:
    IMAGES = ImageBatch.of([image(1), image(2)])

    @pytest.mark.parametrize("contents", [("one", "none"), ("none", "none"), ("region", "one"), ("two", "two")])
    def test_every_parameter_gets_a_finite_gradient_even_without_boxes(self, contents):
        model, targets = build("improved").train(), Targets.of([BOXES[name] for name in contents])
        with benchmark.aligned(benchmark.Rules(warm_part=0.0), steps=1):
            losses = model.loss(forward(model, self.IMAGES), targets)
            total(losses).backward()
        assert all(torch.isfinite(value) for value in losses.values())
        for name, parameter in model.named_parameters():
            assert not parameter.requires_grad or torch.isfinite(parameter.grad).all(), name

    def test_its_own_assignment_comes_first_where_asked_and_all_is_as_it_was_afterwards(self):
        model, targets = build("improved").train(), Targets.of([BOXES["one"], BOXES["two"]])
        outputs = forward(model, self.IMAGES)
        before = {name: value.item() for name, value in model.loss(outputs, targets).items()}
        with benchmark.aligned(benchmark.Rules(warm_part=0.5), steps=2):
            first, second = (model.loss(outputs, targets) for _ in range(2))
        assert first["classification"].item() == before["classification"] != second["classification"].item()
        assert first["box"].item() == before["box"]
        assert {name: value.item() for name, value in model.loss(outputs, targets).items()} == before

    def test_detections_are_ranked_by_class_scores_alone(self):
        model = build("improved", {"head.box_output": "exp"}).eval()  # no box is empty
        settings = DetectSettings(score_threshold=0.0, max_detections=1)
        with torch.no_grad(), benchmark.aligned(benchmark.Rules(), steps=1):
            outputs = forward(model, self.IMAGES)
            best = model.detect_padded(outputs, settings).scores[:, 0]
        torch.testing.assert_close(best, outputs.class_logits.sigmoid().flatten(1).amax(1).sqrt())
