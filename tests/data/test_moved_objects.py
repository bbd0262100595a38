"""Law: boxes, labels and flags that a device makes for a batch are those of the loader's steps, to the last digit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from boxwright.data import transforms
from boxwright.data.mosaic import Mosaic
from boxwright.data.moved_objects import DrawnObjects, MovedObjects, Part, StoredObjects, padded_count
from boxwright.data.transforms import (
    ColourJitter,
    Compose,
    HorizontalFlip,
    RandomIoUCrop,
    Sample,
    ScaleJitter,
    VerticalFlip,
    place_ground_truth,
)
from boxwright.data.view import View
from boxwright.ops.image import Placement
from boxwright.structures import GroundTruth, Targets

SIZES = [(64, 96), (96, 64), (60, 60), (64, 96), (48, 128), (64, 96)]
COUNTS = (9, 0, 1, 25, 4, 14)


def some_ground_truth(seed, hw, count):
    """Boxes of whole and half pixels, so that many lie at a threshold; every fourth is ignored, some are tiny."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([hw[1], hw[0]])
    corners = (torch.rand(count, 2, generator=generator) * (extent - 2) * 2).floor() / 2
    sides = (torch.rand(count, 2, generator=generator) ** 3 * 40 * 2).ceil() / 2
    boxes = torch.cat([corners, torch.minimum(corners + sides, extent)], 1)
    return GroundTruth.of(boxes, torch.randint(0, 5, (count,), generator=generator), torch.arange(count) % 4 == 3)


IMAGES = [some_ground_truth(number, *pair) for number, pair in enumerate(zip(SIZES, COUNTS, strict=True))]
STORED = StoredObjects.of(IMAGES)


def host(index):
    return Sample(View.whole(index, SIZES[index]), IMAGES[index])


def device(index):
    return Sample(View.whole(index, SIZES[index]), MovedObjects(STORED, (Part(index),)))


def drawn(fetch, seed, steps, mosaic):
    """A batch of samples of all images, as a loader seeds them."""
    samples = []
    for index in range(len(IMAGES)):
        torch.manual_seed(100 * seed + index)
        sample = fetch(index) if mosaic is None else mosaic(fetch, len(IMAGES), fetch(index))
        samples.append(Compose(steps)(sample))
    return samples


def both(seed, steps, mosaic=None):
    """The ground truth of the same draws, of the host and of a device."""
    one, other = drawn(host, seed, steps, mosaic), drawn(device, seed, steps, mosaic)
    assert [sample.image for sample in one] == [sample.image for sample in other]
    made = DrawnObjects.of([sample.ground_truth for sample in other])
    return [sample.ground_truth for sample in one], made.targets(STORED)


def assert_equal(expected, targets):
    """All that is left is the same, in the same order, before the padding."""
    whole = Targets.of(expected, at_least=targets.valid.shape[1])
    for name in ("valid", "labels", "ignore", "boxes"):
        assert torch.equal(getattr(targets, name), getattr(whole, name)), name


CROP = RandomIoUCrop(0.7, least_ious=(0.0, 0.3, 1.0))
EVERYTHING = (CROP, ScaleJitter(0.4, 1.8), HorizontalFlip(0.5), VerticalFlip(0.5), ColourJitter())


@pytest.mark.parametrize(
    ("steps", "mosaic", "drops"),
    [
        ((), None, False),
        ((HorizontalFlip(0.5),), None, False),
        ((VerticalFlip(0.5),), None, False),
        ((ColourJitter(),), None, False),
        ((ScaleJitter(0.2, 1.0),), None, True),
        ((ScaleJitter(1.0, 3.0),), None, True),
        ((CROP,), None, True),
        ((), Mosaic(0.5), True),
        ((VerticalFlip(0.5), ScaleJitter(0.5, 2.0), HorizontalFlip(0.5), ScaleJitter(0.5, 2.0)), None, True),
        (EVERYTHING, None, True),
        (EVERYTHING, Mosaic(0.5), True),
    ],
    ids=[
        "none", "horizontal flip", "vertical flip", "colours", "shrunk", "enlarged", "crop", "mosaic", "another order",
        "all but mosaic", "all",
    ],
)  # fmt: skip
def test_the_same_draws_leave_the_same_boxes_labels_and_flags(steps, mosaic, drops):
    left = 0
    for seed in range(6):
        expected, targets = both(seed, steps, mosaic)
        assert_equal(expected, targets)
        left += sum(map(len, expected))
    assert (left != 6 * sum(COUNTS)) == drops


def test_what_is_left_is_decided_by_the_same_rounding_at_the_threshold():
    """Thirty thousand boxes within a few float32 steps of the least side, the least share and the centre's border."""
    generator = np.random.default_rng(0)
    placement = Placement((3, 5, 40, 42), (64, 50), (7, 1))
    scale, corners = np.array(placement.scale_xy), generator.uniform(6, 20, (30_000, 2))
    sides = generator.uniform(2, 15, (30_000, 2))
    sides[:10_000] = 1 / scale  # as large as a pixel when placed
    boxes = np.concatenate([corners, corners + sides], 1)
    boxes[10_000:20_000, 0] = 3 - sides[10_000:20_000, 0] * 0.7  # 0.3 of the box to be seen
    boxes[10_000:20_000, 2] = 3 + sides[10_000:20_000, 0] * 0.3
    boxes[20_000:, 0], boxes[20_000:, 2] = 40 - sides[20_000:, 0], 40 + sides[20_000:, 0]  # the centre on the border
    near = boxes.astype(np.float32)
    near[:, 2] += np.spacing(near[:, 2]) * generator.integers(-2, 3, 30_000)
    ground_truth = GroundTruth.of(near, np.arange(30_000), np.zeros(30_000))
    stored = StoredObjects.of([ground_truth])
    for share, centred in ((0.3, False), (0.0, True)):
        expected = place_ground_truth(ground_truth, placement, share, centred=centred)
        moved = MovedObjects(stored, (Part(0),)).placed(placement, share, centred=centred)
        assert_equal([expected], DrawnObjects.of([moved]).targets(stored))
        parts = (expected.labels < 10_000, expected.labels >= 20_000 if centred else expected.labels // 10_000 == 1)
        for part in parts:  # both sides of the threshold are there
            assert 1_000 < int(part.sum()) < 9_000


def test_padding_is_known_before_any_box_is_left_out():
    _, targets = both(0, ())
    assert targets.boxes.shape == (6, 32, 4)  # of 25
    expected, targets = both(0, (ScaleJitter(0.011, 0.012),))  # nothing is as large as a pixel
    assert sum(map(len, expected)) == 0
    assert targets.boxes.shape == (6, 32, 4)
    assert not targets.valid.any()
    assert not targets.boxes.any()
    torch.manual_seed(0)
    four = Mosaic(1.0)(device, len(IMAGES), device(3))
    number = sum(COUNTS[part.source] for part in four.ground_truth.parts)
    assert DrawnObjects.of([four.ground_truth]).num_boxes == padded_count(number)


@pytest.mark.parametrize("steps", [(), EVERYTHING], ids=["none", "all"])
def test_images_without_objects_alone_have_none(steps):
    stored = StoredObjects.of([GroundTruth.empty()] * 4)
    for some in ([0], [0, 3]):
        rows = [Sample(View.whole(index, (64, 64)), MovedObjects(stored, (Part(index),))) for index in some]
        torch.manual_seed(1)
        targets = DrawnObjects.of([Compose(steps)(row).ground_truth for row in rows]).targets(stored)
        assert targets.boxes.shape == (len(some), 8, 4)
        assert not targets.valid.any()


def test_an_image_may_be_in_a_mosaic_twice_and_its_objects_come_as_often():
    part = Part(3)
    objects = MovedObjects(STORED, (part,))
    again = MovedObjects.joined([objects.flipped(0, 96), MovedObjects(STORED, (Part(1),)), objects])
    made = again.made()
    assert len(made) == 50
    assert torch.equal(made.labels, IMAGES[3].labels.repeat(2))
    assert torch.equal(made.boxes[25:], IMAGES[3].boxes)
    assert torch.equal(made.boxes[:25, 0], 96 - IMAGES[3].boxes[:, 2])


def test_the_host_makes_no_box_unless_a_crop_is_drawn_by_boxes(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the host has transformed boxes")

    monkeypatch.setattr(transforms, "place_ground_truth", refuse)
    monkeypatch.setattr(transforms, "_turned", refuse)
    monkeypatch.setattr(MovedObjects, "made", refuse)
    drawn(device, 0, EVERYTHING[1:], Mosaic(0.5))
    for fetch, steps in ((device, EVERYTHING), (host, EVERYTHING[1:])):
        with pytest.raises(AssertionError, match="the host has transformed"):
            drawn(fetch, 0, steps, None)


def test_stored_objects_are_those_of_each_image_and_go_to_other_processes():
    again = pickle.loads(pickle.dumps(STORED))
    for index, expected in enumerate(IMAGES):
        found = again.image(index)
        for name in ("boxes", "labels", "ignore"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
