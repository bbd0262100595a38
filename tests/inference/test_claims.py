"""Objects that no location can claim are counted by class before training, with what helps, and explain an AP of 0."""

import pytest
import torch

from boxwright.data.proposals import read_proposals, write_proposals
from boxwright.data.records import Annotation, Record, Split
from boxwright.inference import claims
from boxwright.inference.claims import unclaimed
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, Detections, GroundTruth

CLASSES = Classes.named(["dot", "line", "block"])
HD = (1080, 1920)


def spread(sides, count=200, size_hw=HD, label=0):
    """Images of one object of these sides, at places all over the image."""
    generator = torch.Generator().manual_seed(0)
    limits = torch.tensor([size_hw[1] - sides[0], size_hw[0] - sides[1]])
    corners = torch.rand(count, 2, generator=generator) * limits
    return [(GroundTruth.of([[x, y, x + sides[0], y + sides[1]]], [label]), size_hw) for x, y in corners.tolist()]


def recipe(*settings, name="fcos-small"):
    return load_recipe(name, [*settings, "data.train_scales=[]"])


@pytest.mark.parametrize(("side", "share"), [(12, 0.90), (24, 0.54), (60, 0.0)])
def test_the_share_of_small_objects_in_large_images(side, share):
    found = unclaimed(spread((side, side)), recipe(), CLASSES)
    lost = 0 if found is None else found.lost["dot"]
    assert lost / 200 == pytest.approx(share, abs=0.08)


def test_classes_are_counted_and_advice_is_tried(monkeypatch):
    monkeypatch.setattr(claims, "PAIRS_TRIED", 10**9)
    images = spread((12, 12), 40) + spread((300, 300), 20, label=2) + spread((900, 6), 30, label=1)
    found = unclaimed(images, recipe(), CLASSES)
    assert found.objects == {"dot": 40, "block": 20, "line": 30}
    assert set(found.lost) == {"dot", "line"}
    assert found.serious
    sentence = found.sentence()
    total = sum(found.lost.values())
    assert f"{total} of 90 objects can be claimed by no location with this recipe" in sentence
    assert f"dot {found.lost['dot']} of 40" in sentence
    assert f"line {found.lost['line']} of 30" in sentence
    size = int(sentence.split("data.resize.size=")[1].split()[0])
    left = int(sentence.split(" leaves ")[1].split(";")[0])
    longest = int(sentence.split("data.resize.max_size=")[1].split()[0])
    better = unclaimed(images, recipe(f"data.resize.size={size}", f"data.resize.max_size={longest}"), CLASSES)
    assert (sum(better.lost.values()) if better else 0) == left < total


def test_objects_of_one_to_fifty_own_no_anchor_above_the_threshold():
    images = spread((1000, 20), 30, label=1)
    course = "faster-rcnn-regnetx400mf-224"
    found = unclaimed(images, load_recipe(course), CLASSES)
    assert found.lost == {"line": 30}
    assert found.unit == "anchor"
    assert "model.rpn.low_quality=true leaves 0" in found.sentence()


def test_nothing_is_said_where_every_object_is_claimed():
    assert unclaimed(spread((300, 200)), recipe(), CLASSES) is None
    assert unclaimed([(GroundTruth.empty(), HD)], recipe(), CLASSES) is None
    assert unclaimed(spread((2, 2)), load_recipe("fast-rcnn-small"), CLASSES) is None


def test_ignored_regions_are_not_counted():
    tiny = [(GroundTruth.of([[9.0, 9, 10, 10], [20, 20, 21, 21]], [0, 0], [True, False]), (240, 320))]
    assert unclaimed(tiny, recipe(), CLASSES).objects == {"dot": 1}


def test_an_object_is_claimed_where_one_of_the_training_scales_does():
    images = spread((24, 24), 50)
    scaled = load_recipe("fcos-small", ["data.train_scales=[1.0,4.0]"])
    assert unclaimed(images, scaled, CLASSES) is None
    assert unclaimed(images, recipe(), CLASSES) is not None


def test_images_as_they_are_are_advised_a_resizing():
    images = spread((2, 2), 40, (60, 80))
    found = unclaimed(images, load_recipe("fcos-shapes", ["data.train_scales=[]"]), CLASSES)
    assert "data.resize.mode=short_side data.resize.size=" in found.sentence()


def test_of_a_large_set_some_images_are_looked_at(monkeypatch):
    monkeypatch.setattr(claims, "PAIRS", 50_000)
    found = unclaimed(spread((12, 12), 300), recipe(), CLASSES)
    assert 10 < found.looked_at < 100
    assert f"of the {found.looked_at} images looked at" in found.sentence()


def test_objects_without_a_stored_proposal_are_counted_by_class(tmp_path):
    """The IoU of (0, 0, 10, 10) and (0, 0, 10, 8) is 0.8; ignored objects do not count."""
    boxes = torch.tensor([[0.0, 0, 10, 8], [50, 50, 60, 60]])
    found = Detections(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2).long(), (100, 100))
    write_proposals(tmp_path / "p.npz", [("a.png", found), ("b.png", found.above(1.0))])
    stored = read_proposals(tmp_path / "p.npz")

    def record(name, *rows):
        things = tuple(Annotation(box, label, name, ignore) for label, box, ignore in rows)
        return Record(tmp_path / name, name, (100, 100), things, name)

    first = record("a.png", (0, (0, 0, 10, 10), False), (1, (0, 0, 10, 10), False), (1, (20, 20, 30, 30), False),
                   (2, (70, 70, 80, 80), True))  # fmt: skip
    second = record("b.png", (0, (0, 0, 10, 10), False))
    split = Split("val", (first, second), CLASSES, ())
    assert claims.without_proposal(stored, split.with_records((first,)), 0.5).startswith(
        "val: 1 of 3 objects have no proposal with an IoU of 0.5 or more in "
    )
    sentence = claims.without_proposal(stored, split, 0.9)
    assert "val: 4 of 4 objects" in sentence
    assert "dot 2 of 2, line 2 of 2" in sentence
    near = record("a.png", (0, (0, 0, 10, 9), False))
    assert claims.without_proposal(stored, split.with_records((near,)), 0.8) is None
