"""AP of keypoints: pycocotools' figures, its ignored objects, and sentences for what is missing."""

import contextlib
import io
import json
from dataclasses import replace

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxwright.data.synthetic.shapes import ShapesConfig, draw_shapes, write_shapes
from boxwright.evaluation.coco_ap import KEYPOINT_LIMITS, coco_ap
from boxwright.evaluation.comparison import compare_files
from boxwright.evaluation.summary import evaluate_detections, headline
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.structures.skeleton import COCO_PERSON

PERSON = Classes(("person",), (1,), COCO_PERSON)


def people(seed, count):
    """Ground truth of people, some without keypoints, and noisy detections of most of them."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 30 + torch.rand(count, 2, generator=generator) * 150], 1)
    places = boxes[:, None, :2] + torch.rand(count, 17, 2, generator=generator) * (
        boxes[:, None, 2:] - boxes[:, None, :2]
    )
    visible = torch.randint(3, (count, 17, 1), generator=generator).float()
    visible[0] = 0
    points = torch.cat([places, visible], 2) * (visible > 0)
    noise = torch.randn(count, 17, 2, generator=generator) * torch.rand(count, 1, 1, generator=generator) * 15
    found = torch.cat([places + noise, torch.rand(count, 17, 1, generator=generator)], 2)[: count - 1]
    scores = torch.rand(count - 1, generator=generator).sort(descending=True).values
    labels = torch.zeros(count, dtype=torch.int64)
    ignore = torch.zeros(count, dtype=torch.bool)
    return (
        Detections(boxes[:-1], scores, labels[:-1], (300, 300), PERSON, keypoints=found),
        GroundTruth(boxes, labels, ignore, None, points),
    )


def oracle(found, ground_truths):
    rows = [
        {"id": 100 * k + row + 1, "image_id": k + 1, "category_id": 1, "iscrowd": 0,
         "num_keypoints": int((p[:, 2] > 0).sum()), "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
         "area": (b[2] - b[0]) * (b[3] - b[1]),
         "keypoints": (p.double() - torch.tensor([0.5, 0.5, 0])).flatten().tolist()}
        for k, one in enumerate(ground_truths)
        for row, (b, p) in enumerate(zip(one.boxes.double().tolist(), one.keypoints, strict=True))
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        table = COCO()
        table.dataset = {"images": [{"id": k + 1, "height": 300, "width": 300} for k in range(len(found))],
                         "annotations": rows, "categories": [{"id": 1, "name": "person"}], "info": {}}  # fmt: skip
        table.createIndex()
        answers = [row for k, one in enumerate(found) for row in one.to_coco(k + 1)]
        evaluation = COCOeval(table, table.loadRes(answers), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_ap_of_keypoints_is_that_of_pycocotools():
    found, ground_truths = zip(*(people(seed, 6) for seed in range(4)), strict=True)
    result = coco_ap(found, ground_truths, PERSON, kind="keypoints", max_detections=KEYPOINT_LIMITS)
    stats = oracle(found, ground_truths)
    ours = [result.ap, result.ap50, result.ap75, result.ap_medium, result.ap_large, result.ar[20], result.recall50]
    assert ours == pytest.approx([*stats[:6], stats[6]], abs=1e-9)
    assert 0.05 < result.ap < 0.95
    assert result.ap_small is None


def test_exact_keypoints_are_worth_1_and_evaluate_says_so():
    found, ground_truths = zip(*(people(seed, 4) for seed in range(2)), strict=True)
    exact = [replace(one, keypoints=truth.keypoints[:-1]) for one, truth in zip(found, ground_truths, strict=True)]
    whole = [truth[:-1] for truth in ground_truths]
    evaluation = evaluate_detections(exact, whole, PERSON)
    assert evaluation.figures["keypoint_AP"] == pytest.approx(1.0)
    assert any("keypoint_AP 1.0000" in line for line in headline(evaluation))


def test_missing_keypoints_and_other_numbers_of_them_are_told():
    found, truth = people(0, 3)
    with pytest.raises(ValueError, match="image 0: AP of keypoints needs keypoints in the ground truth and in the"):
        coco_ap([found], [replace(truth, keypoints=None)], PERSON, kind="keypoints")
    with pytest.raises(ValueError, match="image 0: 5 keypoints in the detections, expected 17"):
        coco_ap([replace(found, keypoints=found.keypoints[:, :5])], [truth], PERSON, kind="keypoints")


class TestFiles:
    """`evaluate --ground-truth COCO --detections results.json`."""

    @pytest.fixture
    def folder(self, tmp_path):
        return write_shapes(tmp_path / "shapes", 1, 4, "coco", ShapesConfig(size=96))

    @pytest.fixture
    def found(self):
        """The ground truth, moved a little, as detections."""
        torch.manual_seed(0)
        made = []
        for index in range(4):
            one = draw_shapes(ShapesConfig(size=96), 0, 1_000_000 + index)[1]
            points = one.keypoints.clone()
            points[..., :2] += torch.randn(len(one), 5, 2) * 1.5
            scores = torch.linspace(0.9, 0.5, len(one))
            made.append(Detections(one.boxes, scores, one.labels, (96, 96), ShapesConfig().classes, keypoints=points))
        return made

    def test_results_in_a_file_give_what_the_detections_give(self, folder, found, tmp_path):
        rows = [row for index, one in enumerate(found) for row in one.to_coco(index + 1)]
        (tmp_path / "a.json").write_text(json.dumps(rows))
        compared = compare_files(folder / "annotations" / "instances_val.json", tmp_path / "a.json")
        assert compared.warnings == ()
        figures = evaluate_detections(
            compared.detections, compared.ground_truths, compared.classes, areas=compared.areas
        ).figures
        assert 0.3 < figures["keypoint_AP"] < 0.99
        for row in rows:  # as the COCO tools have it: the box of the keypoints stands for one that is not given
            del row["bbox"]
        (tmp_path / "b.json").write_text(json.dumps(rows))
        bare = compare_files(folder / "annotations" / "instances_val.json", tmp_path / "b.json")
        more = evaluate_detections(bare.detections, bare.ground_truths, bare.classes, areas=bare.areas).figures
        assert more["keypoint_AP"] == pytest.approx(figures["keypoint_AP"])
        two = compare_files(folder / "annotations" / "instances_val.json", tmp_path / "b.json", classes="star,ring")
        assert {one.keypoints.shape[1:] for one in two.ground_truths} == {(5, 3)}

    @pytest.mark.parametrize(
        ("points", "message"),
        [
            ([1, 2, 1, 3, 4], "detection 0: expected keypoints as x, y, score of each, finite numbers"),
            ([1, 2, "a"] * 5, "detection 0: expected keypoints as x, y, score of each, finite numbers"),
            ([1, 2, 1] * 4, "detection 1 has 5 keypoints, the first 4: expected as many in each"),
        ],
    )
    def test_keypoints_that_are_none_are_one_sentence(self, folder, found, tmp_path, points, message):
        rows = [row for index, one in enumerate(found) for row in one.to_coco(index + 1)]
        rows[0]["keypoints"] = points
        (tmp_path / "a.json").write_text(json.dumps(rows))
        with pytest.raises(ValueError, match=message):
            compare_files(folder / "annotations" / "instances_val.json", tmp_path / "a.json")

    def test_another_number_of_keypoints_than_the_data_has_is_told_and_boxes_are_evaluated(
        self, folder, found, tmp_path
    ):
        rows = [row for index, one in enumerate(found) for row in one.to_coco(index + 1)]
        (tmp_path / "a.json").write_text(json.dumps([row | {"keypoints": row["keypoints"][:9]} for row in rows]))
        compared = compare_files(folder / "annotations" / "instances_val.json", tmp_path / "a.json")
        assert compared.warnings == (
            "The detections have 3 keypoints each and the ground truth has 5: only boxes are evaluated.",
        )
        assert (
            "keypoint_AP"
            not in evaluate_detections(compared.detections, compared.ground_truths, compared.classes).figures
        )
