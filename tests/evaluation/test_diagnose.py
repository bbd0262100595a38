"""Each mix-up is made on purpose and must be named; a set that is merely bad must not be blamed on one."""

import re
import time
from dataclasses import replace
from fnmatch import fnmatch

import pytest
import torch

from boxwright.evaluation.coco_ap import coco_ap
from boxwright.evaluation.diagnosis.diagnose import diagnose
from boxwright.structures import Classes, Detections, GroundTruth

CLASSES = Classes.named(["ant", "bee", "cat", "dog", "elk"])


@pytest.fixture
def good():
    """Twenty images (200 high, 320 wide), each object found within a pixel or two."""
    generator = torch.Generator().manual_seed(3)
    detections, ground_truths = [], []
    for _ in range(20):
        count = int(torch.randint(1, 6, (1,), generator=generator))
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([200.0, 100.0]) + 5
        sides = torch.rand(count, 2, generator=generator) * torch.tensor([70.0, 50.0]) + 20
        boxes = torch.cat([corner, corner + sides], 1)
        labels = torch.randint(1, 4, (count,), generator=generator)  # a shift by one stays within the classes
        near = boxes + torch.randn(count, 4, generator=generator)
        scores = torch.rand(count, generator=generator)
        detections.append(Detections(near, scores, labels, (200, 320)))
        ground_truths.append(GroundTruth.of(boxes, labels))
    return detections, ground_truths


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
    "are fractions of the image": lambda boxes: boxes / torch.tensor([320.0, 200, 320, 200]),
}


def test_a_good_set_needs_no_diagnosis(good):
    assert diagnose(*good, CLASSES) == ()


@pytest.mark.parametrize("words", MIX_UPS)
def test_boxes(good, words):
    detections, ground_truths = good
    (sentence,) = diagnose(with_boxes(detections, MIX_UPS[words]), ground_truths, CLASSES)
    assert sentence.startswith(f"Boxes of the detections {words}")
    assert after(sentence) > 0.8


@pytest.mark.parametrize("factors", [(2.5, 2.5), (0.4, 0.4), (3, 0.5), (8, 8)])
def test_scale(good, factors):
    detections, ground_truths = good
    scaled = with_boxes(detections, lambda boxes: boxes * torch.tensor(factors * 2))
    (sentence,) = diagnose(scaled, ground_truths, CLASSES)
    words = re.search(r"^Boxes of the detections are scaled by ([\d.]+)(?: in x and ([\d.]+) in y)? against", sentence)
    assert float(words[1]) == pytest.approx(factors[0], rel=0.03)
    assert float(words[2] or words[1]) == pytest.approx(factors[1], rel=0.03)
    assert after(sentence) > 0.8


def after(sentence):
    return float(sentence.split(", and ")[-1].split()[0])


@pytest.mark.parametrize(("shift", "words"), [(1, "one too high"), (-1, "one too low")])
def test_labels_shifted(good, shift, words):
    detections, ground_truths = good
    shifted = [replace(found, labels=found.labels + shift) for found in detections]
    (sentence,) = diagnose(shifted, ground_truths, CLASSES)
    assert f"Labels are shifted: those of the detections are {words}: AP50 is 0.0" in sentence
    assert after(sentence) > 0.95


def test_classes_in_another_order(good):
    detections, ground_truths = good
    other = torch.tensor([0, 3, 1, 2, 4])
    (sentence,) = diagnose([replace(found, labels=other[found.labels]) for found in detections], ground_truths, CLASSES)
    assert sentence.startswith("Classes are in another order: what is called 'bee' is 'cat', 'cat' is 'dog'")
    assert after(sentence) > 0.95


def test_labels_wrong_without_a_pattern(good):
    detections, ground_truths = good
    classes = Classes.named([f"c{index}" for index in range(60)])
    wild = [replace(found, labels=torch.arange(len(found)) + 5 * (index % 9) + 5) for index, found in
            enumerate(detections)]  # fmt: skip
    (sentence,) = diagnose(wild, ground_truths, classes)
    assert "labels are wrong" in sentence or "another order" in sentence


@pytest.mark.parametrize(("shift", "words"), [(1, "one image too late"), (-1, "one image too early")])
def test_image_ids_off_by_one(good, shift, words):
    detections, ground_truths = good
    rolled = [detections[(index - shift) % len(detections)] for index in range(len(detections))]
    (sentence,) = diagnose(rolled, ground_truths, CLASSES)
    assert f"Image ids are off by one: the detections are stored {words}" in sentence


def test_images_mixed_up(good):
    detections, ground_truths = good
    order = torch.randperm(len(detections), generator=torch.Generator().manual_seed(0)).tolist()
    (sentence,) = diagnose([detections[index] for index in order], ground_truths, CLASSES)
    assert sentence.startswith("Images are mixed up")
    assert after(sentence) > 0.8


def test_ground_truth_read_wrongly(good):
    detections, ground_truths = good
    wide = [GroundTruth.of(corners_as_size(ground_truth.boxes), ground_truth.labels) for ground_truth in ground_truths]
    (sentence,) = diagnose(detections, wide, CLASSES)
    assert sentence.startswith("Boxes of the ground truth are corners but were read as x, y, width, height")


def test_two_mix_ups_at_once(good):
    detections, ground_truths = good
    both = [replace(found, labels=found.labels - 1) for found in with_boxes(detections, size_as_corners)]
    (sentence,) = diagnose(both, ground_truths, CLASSES)
    assert "are x, y, width, height but were read as corners, and labels are shifted" in sentence
    assert after(sentence) > 0.8


def test_nothing_to_compare(good):
    detections, ground_truths = good
    assert "no detections" in diagnose([found.above(2) for found in detections], ground_truths, CLASSES)[0]
    assert "undefined" in diagnose(detections, [GroundTruth.empty()] * len(ground_truths), CLASSES)[0]


@pytest.mark.parametrize("seed", range(5))
def test_random_boxes_are_not_blamed_on_a_mix_up(good, seed):
    _, ground_truths = good
    generator = torch.Generator().manual_seed(seed)
    wild = []
    for _ in ground_truths:
        corner = torch.rand(30, 2, generator=generator) * torch.tensor([280.0, 160.0])
        boxes = torch.cat([corner, corner + torch.rand(30, 2, generator=generator) * 12 + 4], 1)
        labels = torch.randint(0, 5, (30,), generator=generator)
        wild.append(Detections(boxes, torch.rand(30, generator=generator), labels, (200, 320)))
    (sentence,) = diagnose(wild, ground_truths, CLASSES)
    assert "none of the common mistakes explains it" in sentence


@pytest.fixture
def faces():
    """Images of different sizes with one to three objects, found well; the first of each lies near the corner."""
    generator = torch.Generator().manual_seed(5)
    detections, ground_truths = [], []
    for index in range(30):
        size_hw = [(200, 320), (480, 640), (640, 480), (300, 300), (150, 600)][index % 5]
        limits = torch.tensor([size_hw[1], size_hw[0]])
        count = 1 + index % 3
        corner = torch.rand(count, 2, generator=generator) * limits * 0.6
        corner[0] *= 0.05
        sides = (0.12 + 0.25 * torch.rand(count, 2, generator=generator)) * limits
        boxes = torch.cat([corner, corner + sides], 1)
        labels = torch.randint(0, 4, (count,), generator=generator)
        near = boxes + torch.randn(count, 4, generator=generator)
        detections.append(Detections(near, torch.rand(count, generator=generator), labels, size_hw))
        ground_truths.append(GroundTruth.of(boxes, labels))
    return detections, ground_truths


def figures(detections, ground_truths, classes=CLASSES):
    result = coco_ap(detections, ground_truths, classes)
    return result.ap50 or 0.0, result.ap or 0.0


def of_each(detections, change):
    """Detections with boxes `change(boxes, height, width)`."""
    return [replace(found, boxes=change(found.boxes, *found.size_hw)) for found in detections]


def corners(x1, y1, x2, y2):
    return torch.stack([x1, y1, x2, y2], 1)


SOME_AP_IS_LEFT = {
    "are corners but were read as x, y, width, height": lambda b, h, w: corners_as_size(b),
    "are centre x, centre y, width, height but were read as x, y, width, height":
        lambda b, h, w: corners_as_size(centre_as_corners(b)),
    "are off by ": lambda b, h, w: b + torch.tensor([12.0, 7, 12, 7]),
    "are scaled by 1.15 against the ground truth": lambda b, h, w: 1.15 * b,
    "are mirrored": lambda b, h, w: corners(w - b[:, 2], b[:, 1], w - b[:, 0], b[:, 3]),
    "are upside down": lambda b, h, w: corners(b[:, 0], h - b[:, 3], b[:, 2], h - b[:, 1]),
    "have x and y exchanged": lambda b, h, w: b[:, [1, 0, 3, 2]],
    "are x1, x2, y1, y2": lambda b, h, w: b[:, [0, 2, 1, 3]],
    "are y1, x1, y2, x2 but were read as x, y, width, height": lambda b, h, w: corners_as_size(b[:, [1, 0, 3, 2]]),
    "are fractions of the image, not pixels, and are centre x, centre y, width, height but were read as x, y, width":
        lambda b, h, w: corners_as_size(centre_as_corners(b)) / torch.tensor([w, h, w, h]),
    "are in the pixels of a canvas of ??? x *, to which images were stretched":
        lambda b, h, w: b * 996 / torch.tensor([w, h, w, h]),
    "are in the pixels of images resized to a longer side of 51*": lambda b, h, w: b * 512 / max(h, w),
    "are in the pixels of images resized to a shorter side of 2*": lambda b, h, w: b * 240 / min(h, w),
    "are in the pixels of a canvas of 640 x 640 with each image centred": lambda b, h, w: b * 640 / max(h, w)
        + torch.tensor([max(h, w) - w, max(h, w) - h] * 2) * 320 / max(h, w),
}  # fmt: skip


@pytest.mark.parametrize("words", SOME_AP_IS_LEFT)
def test_boxes_are_explained_whatever_ap_is_left(faces, words):
    detections, ground_truths = faces
    wrong = of_each(detections, SOME_AP_IS_LEFT[words])
    (sentence,) = diagnose(wrong, ground_truths, CLASSES)
    assert fnmatch(sentence, f"Boxes of the detections {words}*: AP* once that is corrected.")
    assert figures(detections, ground_truths)[0] > 0.9
    before = float(re.search(r"is ([\d.]+), and", sentence)[1])
    expected = figures(wrong, ground_truths)["AP50" not in sentence]
    assert before == pytest.approx(expected, abs=0.002)
    assert after(sentence) > before + 0.1
    assert after(sentence) > 0.7


def test_corners_read_as_sizes_are_named_at_an_ap50_above_nothing(faces):
    detections, ground_truths = faces
    wrong = with_boxes(detections, corners_as_size)
    assert figures(wrong, ground_truths)[0] > 0.04
    (sentence,) = diagnose(wrong, ground_truths, CLASSES)
    assert sentence.startswith("Boxes of the detections are corners but were read as x, y, width, height")


def test_ground_truth_that_was_read_as_corners(good):
    """Objects far from the origin would be inside out, and are not read at all."""
    detections, sizes = [], []
    for found, ground_truth in zip(*good, strict=True):
        shift = ground_truth.boxes[:, :2].repeat(1, 2) * 0.8  # nearer to the origin
        boxes = size_as_corners(ground_truth.boxes - shift)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        sizes.append(GroundTruth.of(boxes[keep], ground_truth.labels[keep]))
        detections.append(replace(found, boxes=found.boxes - shift))
    assert sum(map(len, sizes)) > 30
    (sentence,) = diagnose(detections, sizes, CLASSES)
    assert sentence.startswith("Boxes of the ground truth are x, y, width, height but were read as corners")


def test_some_classes_exchanged(good):
    detections, ground_truths = good
    other = torch.tensor([0, 2, 1, 3, 4])  # two of three; the third keeps an AP above nothing
    wrong = [replace(found, labels=other[found.labels]) for found in detections]
    assert figures(wrong, ground_truths)[0] > 0.3
    (sentence,) = diagnose(wrong, ground_truths, CLASSES)
    assert sentence.startswith("Classes are in another order: what is called 'bee' is 'cat', 'cat' is 'bee'")


def test_ids_without_gaps_against_ids_with_gaps(good):
    """COCO's 80 classes with ids up to 90 are the known case: what has the id 3 is the class of number 3."""
    detections, ground_truths = good
    classes = Classes(CLASSES.names, (1, 3, 2, 4, 9))
    found = torch.tensor([0, 2, 1, 3, 4])
    (sentence,) = diagnose([replace(one, labels=found[one.labels]) for one in detections], ground_truths, classes)
    assert sentence.startswith("Class ids of the detections count the classes from 1 without gaps")


def test_alphabetical_order_of_classes(good):
    detections, ground_truths = good
    classes = Classes.named(["dog", "cat", "elk", "ant", "bee"])
    places = torch.tensor([sorted(classes.names).index(name) for name in classes.names])
    (sentence,) = diagnose([replace(one, labels=places[one.labels]) for one in detections], ground_truths, classes)
    assert sentence.startswith("Classes of the detections are numbered in alphabetical order")


def test_one_class_under_two_spellings(good):
    detections, ground_truths = good
    classes = Classes.named(["ant", "traffic light", "Traffic_Light", "dog", "elk"])
    other = torch.tensor([0, 2, 1, 3, 4])
    mixed = [replace(one, labels=other[one.labels]) if index % 2 else one for index, one in enumerate(detections)]
    (sentence,) = diagnose(mixed, ground_truths, classes)
    assert sentence.startswith("One class has several spellings: 'traffic light' and 'Traffic_Light'")


def test_scores_upside_down(good):
    detections, ground_truths = good
    wrong = []
    for found in detections:
        wild = 320 - found.boxes[:, [2, 1, 0, 3]].flip(0) * torch.tensor([1.0, 0.4, 1, 0.4])
        scores = torch.cat([found.scores * 0.3, 0.5 + found.scores / 2])
        wrong.append(replace(found, boxes=torch.cat([found.boxes, wild]), scores=scores, labels=found.labels.repeat(2)))
    (sentence,) = diagnose(wrong, ground_truths, CLASSES)
    assert sentence.startswith("Scores of the detections are inverted")


def test_objects_found_or_labelled_more_than_once(good):
    detections, ground_truths = good
    often = [
        replace(one, boxes=one.boxes.repeat(5, 1), scores=(one.scores + 0.01 * torch.arange(5)[:, None]).flatten(),
                labels=one.labels.repeat(5)) for one in detections
    ]  # fmt: skip
    (sentence,) = diagnose(often, ground_truths, CLASSES)
    assert sentence.startswith("Objects are detected more than once: non-maximum suppression is missing")
    twice = [GroundTruth.of(one.boxes.repeat(2, 1), one.labels.repeat(2)) for one in ground_truths]
    (sentence,) = diagnose(detections, twice, CLASSES)
    assert sentence.startswith("Objects are in the ground truth more than once")


@pytest.mark.parametrize("first", [0, 1])
def test_images_numbered_in_the_order_of_text(good, first):
    detections, ground_truths = good
    as_text = sorted(range(len(detections)), key=lambda number: str(number + first))
    (sentence,) = diagnose([detections[index] for index in as_text], ground_truths, CLASSES)
    assert sentence.startswith("Images are in the order of their numbers as text (1, 10, 11, ..., 2) in the detections")
    (sentence,) = diagnose(detections, [ground_truths[index] for index in as_text], CLASSES)
    assert sentence.startswith(
        "Images are in the order of their numbers as text (1, 10, 11, ..., 2) in the ground truth"
    )


def test_images_in_reverse_order(good):
    detections, ground_truths = good
    (sentence,) = diagnose(detections[::-1], ground_truths, CLASSES)
    assert sentence.startswith("Images are in reverse order")


@pytest.mark.parametrize("seed", range(6))
def test_a_detector_that_is_merely_bad_is_not_blamed_on_a_mix_up(random_set, seed):
    detections, ground_truths = random_set(seed, images=14)
    assert 0.1 < figures(detections, ground_truths)[0] < 0.9
    assert diagnose(detections, ground_truths, CLASSES) == ()


def test_a_large_set_is_searched_in_seconds(good):
    """A thousand images of a hundred detections: about as long as one evaluation, and the same cause."""
    detections, ground_truths = good
    generator = torch.Generator().manual_seed(0)
    many, wanted = [], []
    for index in range(1000):
        found = detections[index % 20]
        corner = torch.rand(95, 2, generator=generator) * 150
        wild = torch.cat([corner, corner + 5 + 40 * torch.rand(95, 2, generator=generator)], 1)
        many.append(
            replace(
                found, boxes=torch.cat([found.boxes, wild]),
                scores=torch.cat([0.5 + found.scores / 2, 0.4 * torch.rand(95, generator=generator)]),
                labels=torch.cat([found.labels, torch.randint(0, 5, (95,), generator=generator)]),
            )
        )  # fmt: skip
        wanted.append(ground_truths[index % 20])
    start = time.perf_counter()
    (sentence,) = diagnose(with_boxes(many, corners_as_size), wanted, CLASSES)
    assert time.perf_counter() - start < 20
    assert sentence.startswith("Boxes of the detections are corners but were read as x, y, width, height")
