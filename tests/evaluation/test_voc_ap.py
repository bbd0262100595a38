"""VOC AP: the recorded figures of Cartucho/mAP, and the rules one by one on sets that are checked by eye."""

import json
from types import SimpleNamespace

import pytest
import torch

from boxwright.evaluation.joining import join_results, read_text_ground_truth
from boxwright.evaluation.matching import one_pixel_kept
from boxwright.evaluation.result_files import read_results
from boxwright.evaluation.voc_ap import voc_ap
from boxwright.structures import Classes, Detections, GroundTruth

ONE = Classes.named(["thing"])


def found(boxes, scores, labels=None):
    labels = torch.tensor(labels or [0] * len(boxes))
    return Detections(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), labels, (99, 99))


def naive(detections, ground_truths, num_classes, iou, plus_one, eleven_point):
    """The loop of the VOC kit, written plainly."""
    extra = 1.0 if plus_one else 0.0
    aps = []
    for label in range(num_classes):
        rows = [
            (float(s), image, box)
            for image, d in enumerate(detections)
            for box, s, k in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True)
            if k == label
        ]
        rows.sort(key=lambda row: -row[0])
        total = sum(int(((t.labels == label) & ~t.ignore).sum()) for t in ground_truths)
        used, hits, misses = set(), 0, 0
        points = []
        for _, image, box in rows:
            best, which = 0.0, None
            for thing, (other, k) in enumerate(
                zip(ground_truths[image].boxes.tolist(), ground_truths[image].labels.tolist(), strict=True)
            ):
                w = min(box[2], other[2]) - max(box[0], other[0]) + extra
                h = min(box[3], other[3]) - max(box[1], other[1]) + extra
                if k != label or w <= 0 or h <= 0:
                    continue
                area = (box[2] - box[0] + extra) * (box[3] - box[1] + extra)
                area += (other[2] - other[0] + extra) * (other[3] - other[1] + extra)
                if w * h / (area - w * h) > best:
                    best, which = w * h / (area - w * h), thing
            if which is not None and best >= iou:
                if ground_truths[image].ignore[which]:
                    continue
                if (image, which) in used:
                    misses += 1
                else:
                    used.add((image, which))
                    hits += 1
            else:
                misses += 1
            points.append((hits / max(total, 1), hits / (hits + misses)))
        if not total:
            continue
        if eleven_point:
            aps.append(sum(max([p for r, p in points if r >= t / 10 - 1e-9], default=0) for t in range(11)) / 11)
        else:
            area, before = 0.0, 0.0
            for index, (recall, _) in enumerate(points):
                area += (recall - before) * max(p for _, p in points[index:])
                before = recall
            aps.append(area)
    return sum(aps) / len(aps)


def test_cartucho_to_the_printed_digit(shared):
    folder = shared / "fixtures/cartucho_map"
    expected = json.loads((folder / "expected.json").read_text())
    text = read_text_ground_truth(folder / "ground-truth")
    joined = join_results(read_results(folder / "detection-results"), text.images, text.classes)
    result = voc_ap(joined.detections, text.ground_truths, text.classes, plus_one=True)
    assert {name: round(100 * ap, 2) for name, ap in result.per_class.items()} == expected["ap"]
    assert round(100 * result.mean_ap, 2) == expected["mAP"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("eleven_point", [False, True])
def test_equals_the_plain_loop(random_set, seed, plus_one, eleven_point):
    detections, ground_truths = random_set(seed, ties=bool(seed % 2))
    classes = Classes.named(["a", "b", "c"])
    for iou in (0.5, 0.75):
        result = voc_ap(detections, ground_truths, classes, iou=iou, plus_one=plus_one, eleven_point=eleven_point)
        assert result.mean_ap == pytest.approx(
            naive(detections, ground_truths, 3, iou, plus_one, eleven_point), abs=1e-12
        )


def test_difficult_object_is_neither_hit_nor_false_alarm_nor_wanted():
    ground_truth = GroundTruth.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], [True, False])
    on_both = found([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8, 0.7])
    result = voc_ap([on_both], [ground_truth], ONE)
    assert result.mean_ap == 1
    assert result.classes["thing"].objects == 1
    assert result.classes["thing"].precision.tolist() == [1]


def test_second_detection_of_an_object_is_a_false_alarm():
    ground_truth = GroundTruth.of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])
    twice = found([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], [0.9, 0.8, 0.7])
    result = voc_ap([twice], [ground_truth], ONE)
    assert result.classes["thing"].precision.tolist() == pytest.approx([1, 0.5, 2 / 3])
    assert result.mean_ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_a_claimed_object_is_not_exchanged_for_the_second_best():
    # The second detection overlaps the first object most, which is taken. COCO would give it the other one.
    ground_truth = GroundTruth.of([[0, 0, 10, 10], [0, 2, 10, 12]], [0, 0])
    result = voc_ap([found([[0, 0, 10, 10], [0, 0.5, 10, 10.5]], [0.9, 0.8])], [ground_truth], ONE)
    assert result.classes["thing"].recall.tolist() == [0.5, 0.5]


def test_plus_one_counts_the_last_pixel():
    ground_truth = GroundTruth.of([[0, 0, 3, 3]], [0])  # 9 or 16 square pixels, the detection 3 or 8
    half = found([[0, 0, 3, 1]], [0.9])
    assert voc_ap([half], [ground_truth], ONE).mean_ap == 0
    assert voc_ap([half], [ground_truth], ONE, plus_one=True).mean_ap == 1


def test_eleven_points_see_a_recall_of_three_tenths():
    # 3 of 10 found: the recall levels 0, 0.1, 0.2 and 0.3 are reached, so 4/11 (3/11 with 0.30000000000000004).
    boxes = [[20 * k, 0, 20 * k + 10, 10] for k in range(10)]
    result = voc_ap([found(boxes[:3], [0.9, 0.8, 0.7])], [GroundTruth.of(boxes, [0] * 10)], ONE, eleven_point=True)
    assert result.mean_ap == pytest.approx(4 / 11)
    assert result.figures()["eleven_point"] is True


def test_classes_without_ground_truth_are_left_out_and_named():
    ground_truth = GroundTruth.of([[0, 0, 10, 10], [30, 30, 40, 40]], [0, 2], [False, True])
    classes = Classes.named(["seen", "never", "difficult only"])
    result = voc_ap([found([[0, 0, 10, 10], [5, 5, 9, 9]], [0.9, 0.8], [0, 1])], [ground_truth], classes)
    assert result.per_class == {"seen": 1.0, "never": None, "difficult only": None}
    assert result.mean_ap == 1
    assert result.notes == ("Without ground truth, so left out of the mean: never, difficult only.",)


def test_nothing_found_and_nothing_there():
    nothing = found([], [])
    assert voc_ap([nothing], [GroundTruth.of([[0, 0, 9, 9]], [0])], ONE).mean_ap == 0
    assert voc_ap([nothing], [GroundTruth.empty()], ONE).mean_ap is None
    assert voc_ap([], [], ONE).mean_ap is None
    stray = voc_ap([found([[0, 0, 9, 9]], [0.5])], [GroundTruth.empty()], ONE)
    assert stray.mean_ap is None
    assert stray.notes == ("No ground truth at all: AP is undefined.",)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="detections of 1 images but ground truth of 0"):
        voc_ap([found([], [])], [], ONE)


@pytest.mark.parametrize("seed", range(4))
def test_boxes_of_a_pixel_equal_the_kits_loop(seed):
    """Whole-numbered boxes, many of them one pixel wide or high, at the overlap that is reached exactly."""
    generator = torch.Generator().manual_seed(seed)
    detections, ground_truths, plain = [], [], []
    for _ in range(8):
        corner = torch.randint(0, 9, (6, 2), generator=generator).float()
        boxes = torch.cat([corner, corner + torch.randint(0, 3, (6, 2), generator=generator)], 1)
        near = boxes + torch.randint(0, 2, (6, 4), generator=generator) * torch.tensor([0.0, 0, 1, 1])
        labels = torch.randint(0, 2, (6,), generator=generator)
        detections.append(found(near.tolist(), torch.rand(6, generator=generator).tolist(), labels.tolist()))
        ground_truths.append(GroundTruth.of([one_pixel_kept(box) for box in boxes.tolist()], labels))
        plain.append(SimpleNamespace(boxes=boxes, labels=labels, ignore=torch.zeros(6, dtype=torch.bool)))
    classes = Classes.named(["a", "b"])
    result = voc_ap(detections, ground_truths, classes, plus_one=True)
    assert result.mean_ap == pytest.approx(naive(detections, plain, 2, 0.5, True, False), abs=1e-12)
    assert 0.1 < result.mean_ap < 1
