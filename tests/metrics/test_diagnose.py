"""Each mix-up is made on purpose and must be named; a set that is merely bad must not be blamed on one."""

import re
from dataclasses import replace

import pytest
import torch

from boxwright.metrics.diagnose import diagnose
from boxwright.structures import Classes, Detections, Truth

CLASSES = Classes.named(["ant", "bee", "cat", "dog", "elk"])


@pytest.fixture
def good():
    """Twenty pictures (200 high, 320 wide), each object found within a pixel or two."""
    generator = torch.Generator().manual_seed(3)
    detections, truths = [], []
    for _ in range(20):
        count = int(torch.randint(1, 6, (1,), generator=generator))
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([200.0, 100.0]) + 5
        sides = torch.rand(count, 2, generator=generator) * torch.tensor([70.0, 50.0]) + 20
        boxes = torch.cat([corner, corner + sides], 1)
        labels = torch.randint(1, 4, (count,), generator=generator)  # a shift by one stays within the classes
        near = boxes + torch.randn(count, 4, generator=generator)
        scores = torch.rand(count, generator=generator)
        detections.append(Detections(near, scores, labels, (200, 320)))
        truths.append(Truth.of(boxes, labels))
    return detections, truths


def with_boxes(detections, change):
    return [replace(found, boxes=change(found.boxes)) for found in detections]


def size_as_corners(boxes):
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def corners_as_size(boxes):
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def centre_as_corners(boxes):
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


MIX_UPS = {
    "are x, y, width, height but were read as corners": size_as_corners,
    "are corners but were read as x, y, width, height": corners_as_size,
    "are centre x, centre y, width, height but were read as corners": centre_as_corners,
    "have x and y exchanged": lambda boxes: boxes[:, [1, 0, 3, 2]],
    "are fractions of the picture": lambda boxes: boxes / torch.tensor([320.0, 200, 320, 200]),
}


def test_a_good_set_needs_no_diagnosis(good):
    assert diagnose(*good, CLASSES) == ()


@pytest.mark.parametrize("words", MIX_UPS)
def test_boxes(good, words):
    detections, truths = good
    (sentence,) = diagnose(with_boxes(detections, MIX_UPS[words]), truths, CLASSES)
    assert sentence.startswith(f"Boxes of the detections {words}")
    assert after(sentence) > 0.8


@pytest.mark.parametrize("factors", [(2.5, 2.5), (0.4, 0.4), (3, 0.5), (8, 8)])
def test_scale(good, factors):
    detections, truths = good
    scaled = with_boxes(detections, lambda boxes: boxes * torch.tensor(factors * 2))
    (sentence,) = diagnose(scaled, truths, CLASSES)
    words = re.search(r"^Boxes of the detections are scaled by ([\d.]+)(?: in x and ([\d.]+) in y)? against", sentence)
    assert float(words[1]) == pytest.approx(factors[0], rel=0.03)
    assert float(words[2] or words[1]) == pytest.approx(factors[1], rel=0.03)
    assert after(sentence) > 0.8


def after(sentence):
    return float(sentence.split(", and ")[-1].split()[0])


@pytest.mark.parametrize(("shift", "words"), [(1, "one too high"), (-1, "one too low")])
def test_labels_shifted(good, shift, words):
    detections, truths = good
    shifted = [replace(found, labels=found.labels + shift) for found in detections]
    (sentence,) = diagnose(shifted, truths, CLASSES)
    assert f"Labels are shifted: those of the detections are {words}: AP50 is 0.0" in sentence
    assert after(sentence) > 0.95


def test_classes_in_another_order(good):
    detections, truths = good
    other = torch.tensor([0, 3, 1, 2, 4])
    (sentence,) = diagnose([replace(found, labels=other[found.labels]) for found in detections], truths, CLASSES)
    assert sentence.startswith("Classes are in another order: what is called 'bee' is 'cat', 'cat' is 'dog'")
    assert after(sentence) > 0.95


def test_labels_wrong_without_a_pattern(good):
    detections, truths = good
    classes = Classes.named([f"c{index}" for index in range(60)])
    wild = [replace(found, labels=torch.arange(len(found)) + 5 * (index % 9) + 5) for index, found in
            enumerate(detections)]  # fmt: skip
    (sentence,) = diagnose(wild, truths, classes)
    assert "labels are wrong" in sentence or "another order" in sentence


@pytest.mark.parametrize(("shift", "words"), [(1, "one picture too late"), (-1, "one picture too early")])
def test_picture_ids_off_by_one(good, shift, words):
    detections, truths = good
    rolled = [detections[(index - shift) % len(detections)] for index in range(len(detections))]
    (sentence,) = diagnose(rolled, truths, CLASSES)
    assert f"Picture ids are off by one: the detections are filed {words}" in sentence


def test_pictures_mixed_up(good):
    detections, truths = good
    order = torch.randperm(len(detections), generator=torch.Generator().manual_seed(0)).tolist()
    (sentence,) = diagnose([detections[index] for index in order], truths, CLASSES)
    assert sentence.startswith("Pictures are mixed up")
    assert after(sentence) > 0.8


def test_truth_read_wrongly(good):
    detections, truths = good
    wide = [Truth.of(corners_as_size(truth.boxes), truth.labels) for truth in truths]
    (sentence,) = diagnose(detections, wide, CLASSES)
    assert sentence.startswith("Boxes of the truth are corners but were read as x, y, width, height")


def test_two_mix_ups_at_once(good):
    detections, truths = good
    both = [replace(found, labels=found.labels - 1) for found in with_boxes(detections, size_as_corners)]
    (sentence,) = diagnose(both, truths, CLASSES)
    assert "are x, y, width, height but were read as corners, and labels are shifted" in sentence
    assert after(sentence) > 0.8


def test_nothing_to_compare(good):
    detections, truths = good
    assert "no detections" in diagnose([found.above(2) for found in detections], truths, CLASSES)[0]
    assert "undefined" in diagnose(detections, [Truth.empty()] * len(truths), CLASSES)[0]


@pytest.mark.parametrize("seed", range(5))
def test_random_boxes_are_not_blamed_on_a_mix_up(good, seed):
    _, truths = good
    generator = torch.Generator().manual_seed(seed)
    wild = []
    for _ in truths:
        corner = torch.rand(30, 2, generator=generator) * torch.tensor([280.0, 160.0])
        boxes = torch.cat([corner, corner + torch.rand(30, 2, generator=generator) * 12 + 4], 1)
        labels = torch.randint(0, 5, (30,), generator=generator)
        wild.append(Detections(boxes, torch.rand(30, generator=generator), labels, (200, 320)))
    (sentence,) = diagnose(wild, truths, CLASSES)
    assert "none of the usual mix-ups explains it" in sentence
