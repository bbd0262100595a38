"""LVIS's AP: only classes that an image speaks of count, 300 detections an image, groups by frequency.

The oracle is the definition of lvis-api's `eval.py`, written here for one class and one threshold at a time.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from boxwright.data.records import Federated
from boxwright.evaluation.coco_ap import IOU_THRESHOLDS, coco_ap
from boxwright.evaluation.comparison import compare_files
from boxwright.evaluation.federated import Federation, counted
from boxwright.evaluation.summary import evaluate_detections, headline
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth

NAMES = Classes.named(["bat", "cup", "hat", "pen"], first_id=1)
SIZE = (100, 120)


def boxes_of(generator: torch.Generator, count: int) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corners, corners + 15 + torch.rand(count, 2, generator=generator) * 25], 1)


def masks_of(boxes: torch.Tensor) -> tuple[CroppedMask, ...]:
    whole = [[int(value) for value in row] for row in boxes.tolist()]
    return tuple(CroppedMask(x1, y1, torch.ones(y2 - y1, x2 - x1, dtype=torch.bool)) for x1, y1, x2, y2 in whole)


def drawn_case(seed: int, images: int = 12) -> tuple[list[Detections], list[GroundTruth], Federation]:
    """Objects of some classes, detections near them and elsewhere, and what each image says of its classes."""
    generator = torch.Generator().manual_seed(seed)
    found, wanted, said = [], [], []
    for _ in range(images):
        boxes = boxes_of(generator, 4)
        labels = torch.randint(0, len(NAMES), (4,), generator=generator)
        near = (boxes + torch.randn(4, 4, generator=generator) * 2).clamp(0, 100)
        extra = boxes_of(generator, 6)
        others = torch.randint(0, len(NAMES), (6,), generator=generator)
        scores = torch.rand(10, generator=generator)
        every = torch.cat([near, extra])
        classes = torch.cat([labels, others])
        found.append(Detections(every, scores, classes, SIZE, NAMES, masks_of(every)))
        wanted.append(GroundTruth.of(boxes, labels, masks=masks_of(boxes)))
        rest = sorted(set(range(len(NAMES))) - set(labels.tolist()))
        said.append(Federated(frozenset(rest[:1]), frozenset(labels[:1].tolist())))
    return found, wanted, Federation(tuple(said), ("r", "c", "f", "f"), limit=8)


def ap_by_definition(
    found: list[Detections], wanted: list[GroundTruth], federation: Federation, label: int, threshold: float
) -> float | None:
    """AP of one class at one threshold from lvis-api's rules, one detection after the other."""
    rows: list[tuple[float, bool]] = []
    total = 0
    for one, truth, known in zip(found, wanted, federation.images, strict=True):
        assert known is not None
        best = one.select(torch.argsort(one.scores, descending=True, stable=True)[: federation.limit])
        objects = truth.boxes[truth.labels == label]
        total += len(objects)
        if not len(objects) and label not in known.absent:
            continue
        best = best.select(best.labels == label)
        taken: set[int] = set()
        overlaps = box_iou(best.boxes.double(), objects.double())
        for row in range(len(best)):
            free = [index for index in range(len(objects)) if index not in taken]
            index = max(free, key=lambda other: float(overlaps[row, other]), default=-1)
            hit = index >= 0 and float(overlaps[row, index]) >= threshold
            if hit:
                taken.add(index)
            elif label in known.incomplete:
                continue
            rows.append((float(best.scores[row]), hit))
    if not total:
        return None
    hits = np.array([hit for _, hit in sorted(rows, key=lambda row: -row[0])], dtype=float)
    recall = hits.cumsum() / total
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(np.mean([precision[recall >= level].max(initial=0.0) for level in np.linspace(0, 1, 101)]))


def mean(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


@pytest.mark.parametrize("seed", range(4))
def test_ap_is_that_of_the_definition(seed: int) -> None:
    found, wanted, federation = drawn_case(seed)
    result = coco_ap(found, wanted, NAMES, federation=federation)
    per_class = [
        mean([ap_by_definition(found, wanted, federation, label, one) for one in IOU_THRESHOLDS]) for label in range(4)
    ]
    assert result.ap == pytest.approx(mean(list(per_class)), abs=1e-9)
    assert list(result.per_class.values()) == pytest.approx(per_class, abs=1e-9)
    assert result.by_frequency == pytest.approx(
        {"r": per_class[0], "c": per_class[1], "f": (per_class[2] + per_class[3]) / 2}, abs=1e-9
    )
    assert result.ap != pytest.approx(coco_ap(found, wanted, NAMES).ap, abs=1e-3)  # a federation changes it


def test_classes_are_counted_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    found, wanted, federation = drawn_case(7)
    for known in (federation, None):
        whole = coco_ap(found, wanted, NAMES, federation=known)
        for at_once in (1, 3):
            with monkeypatch.context() as patch:
                patch.setattr("boxwright.evaluation.coco_ap.AT_ONCE", at_once)
                assert coco_ap(found, wanted, NAMES, federation=known) == whole


def test_ap_of_masks_uses_the_same_rule() -> None:
    found, wanted, federation = drawn_case(5)
    whole = [replace(one, boxes=torch.tensor([[m.x, m.y, m.x + m.bitmap.shape[1], m.y + m.bitmap.shape[0]]
             for m in one.masks or ()]).float(), masks=None) for one in found]  # fmt: skip
    boxes = [
        GroundTruth.of(
            [[m.x, m.y, m.x + m.bitmap.shape[1], m.y + m.bitmap.shape[0]] for m in one.masks or ()], one.labels
        )
        for one in wanted
    ]
    masks = coco_ap(found, wanted, NAMES, kind="masks", federation=federation)
    assert masks.ap == pytest.approx(coco_ap(whole, boxes, NAMES, federation=federation).ap, abs=1e-9)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Federated(), 1.0),  # nothing is known of cups: the wrong one does not count
        (Federated(absent=frozenset({1})), 1.0),  # no cup: the class has no object at all
        (Federated(incomplete=frozenset({0})), 1.0),
    ],
)
def test_a_detection_of_an_unknown_class_does_not_count(said: Federated, expected: float) -> None:
    wanted = [GroundTruth.of([[10, 10, 50, 50]], [0])]
    found = [Detections(torch.tensor([[10.0, 10, 50, 50], [60, 60, 90, 90]]), torch.tensor([0.5, 0.9]),
                        torch.tensor([0, 1]), SIZE, NAMES)]  # fmt: skip
    result = coco_ap(found, wanted, NAMES, federation=Federation((said,)))
    assert result.ap == pytest.approx(expected)
    assert result.by_frequency == {}


def test_false_positives_count_in_absent_classes_and_not_in_incomplete_ones() -> None:
    wanted = [GroundTruth.of([[10, 10, 50, 50]], [0]), GroundTruth.of([[0, 0, 20, 20]], [1])]
    right = Detections(torch.tensor([[10.0, 10, 50, 50], [60, 60, 90, 90]]), torch.tensor([0.5, 0.9]),
                       torch.tensor([0, 0]), SIZE, NAMES)  # fmt: skip
    wrong = Detections(torch.tensor([[60.0, 60, 90, 90]]), torch.tensor([0.8]), torch.tensor([0]), SIZE, NAMES)

    def ap(first: Federated, second: Federated) -> float | None:
        return coco_ap([right, wrong], wanted, NAMES, federation=Federation((first, second))).per_class["bat"]

    assert ap(Federated(), Federated()) == pytest.approx(1 / 2)
    assert ap(Federated(), Federated(absent=frozenset({0}))) == pytest.approx(1 / 3)
    assert ap(Federated(incomplete=frozenset({0})), Federated()) == pytest.approx(1)


def test_the_limit_holds_for_all_classes_of_an_image_together() -> None:
    wanted = [GroundTruth.of([[10, 10, 50, 50]], [0])]
    boxes = torch.tensor([[10.0, 10, 50, 50]]).expand(4, 4)
    found = [Detections(boxes, torch.tensor([0.5, 0.9, 0.8, 0.7]), torch.tensor([0, 1, 2, 3]), SIZE, NAMES)]
    known = Federation((Federated(),))
    assert coco_ap(found, wanted, NAMES, federation=known).ap == pytest.approx(1)
    assert coco_ap(found, wanted, NAMES, federation=replace(known, limit=3)).ap == 0
    with pytest.raises(ValueError, match="a federation has its limit, 300"):
        coco_ap(found, wanted, NAMES, federation=known, max_detections=(100,))


def test_the_table_leaves_out_what_does_not_count() -> None:
    wanted = [GroundTruth.of([[10, 10, 50, 50]], [0])]
    boxes = torch.tensor([[10.0, 10, 50, 50], [60, 60, 90, 90], [60, 60, 140, 90]])
    found = [Detections(boxes, torch.tensor([0.5, 0.9, 0.8]), torch.tensor([0, 1, 0]), SIZE, NAMES)]
    known = Federation((Federated(incomplete=frozenset({0})),), ("r", "c", "f", "f"))
    plain = evaluate_detections(found, wanted, NAMES)
    result = evaluate_detections(found, wanted, NAMES, federation=known)
    assert plain.rows[0].precision == pytest.approx(1 / 2)
    assert (result.rows[0].precision, result.rows[0].objects) == (1, 1)
    assert (result.figures["metric"], result.figures["AP"], result.figures["APr"]) == ("lvis", 1, 1)
    assert (result.figures["APc"], result.figures["AR300"]) == (None, 1)
    assert "APr 1.0000  APc -  APf -" in headline(result)
    assert counted(found, wanted, None) == (found, wanted)


def test_the_metric_lvis_needs_lvis_data() -> None:
    with pytest.raises(ValueError, match="the ground truth has no neg_category_ids"):
        evaluate_detections([], [], NAMES, metric="lvis")


def test_files_give_the_same_and_merged_classes_are_absent_where_all_their_parts_are(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "a.jpg", "height": 100, "width": 120, "neg_category_ids": [2, 3],
         "not_exhaustive_category_ids": [1]},
        {"id": 2, "file_name": "b.jpg", "height": 100, "width": 120, "neg_category_ids": [2],
         "not_exhaustive_category_ids": []},
    ]  # fmt: skip
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (120, 100)).save(tmp_path / name)
    categories = [
        {"id": 1, "name": "bat", "frequency": "r"},
        {"id": 2, "name": "cup", "frequency": "c"},
        {"id": 3, "name": "hat", "frequency": "f"},
    ]
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600}
    (tmp_path / "lvis_v1_val.json").write_text(
        json.dumps({"images": images, "annotations": [row], "categories": categories})
    )
    results = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.5}]
    results += [{"image_id": 2, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9}]
    (tmp_path / "found.json").write_text(json.dumps(results))
    one = compare_files(tmp_path / "lvis_v1_val.json", tmp_path / "found.json")
    assert one.federation == Federation(
        (Federated(frozenset({1, 2}), frozenset({0})), Federated(frozenset({1}))), ("r", "c", "f")
    )
    merged = compare_files(tmp_path / "lvis_v1_val.json", tmp_path / "found.json", classes="bat,cup+hat=thing")
    assert merged.federation == Federation((Federated(frozenset({1}), frozenset({0})), Federated()), ("r", "f"))
    figures = evaluate_detections(
        one.detections, one.ground_truths, one.classes, metric="lvis", federation=one.federation
    ).figures
    assert (figures["AP"], figures["APr"]) == (1, 1)
