"""Detections with rotated boxes from files: the figures are those of the same detections in memory."""

import json

import pytest
import torch
from PIL import Image

from boxwright.evaluation.comparison import compare_files
from boxwright.evaluation.result_files import read_results, write_coco_results, write_dota_results
from boxwright.evaluation.summary import evaluate_detections
from boxwright.ops.rotated import rotated_hull
from boxwright.structures import Classes, Detections, GroundTruth

CLASSES = Classes(("plane", "ship"), (0, 1))
LINES = {
    "a": "10 20 30 20 30 28 10 28 ship 0\n60 40 100 40 100 50 60 50 ship 0\n",
    "b": "40 10 50 20 40 30 30 20 plane 0\n",
}
TRUE = {"a": [[20, 24, 20, 8, 0], [80, 45, 40, 10, 0]], "b": [[40, 20, 200**0.5, 200**0.5, -45]]}
FOUND = {"a": [[20, 24, 20, 8, 4], [81, 45, 40, 10, -3]], "b": [[40, 20, 14, 14, -40]]}
LABELS = {"a": [1, 1], "b": [0]}


def hulls(rotated):
    return rotated_hull(rotated).clamp(min=0).minimum(torch.tensor([80.0, 60, 80, 60]))


@pytest.fixture
def folder(tmp_path):
    for kind in ("images", "labelTxt"):
        (tmp_path / "dota" / "val" / kind).mkdir(parents=True)
    for name, text in LINES.items():
        Image.new("RGB", (80, 60)).save(tmp_path / "dota" / "val" / "images" / f"{name}.png")
        (tmp_path / "dota" / "val" / "labelTxt" / f"{name}.txt").write_text(text)
    return tmp_path


@pytest.fixture
def found():
    scores = {"a": [0.9, 0.6], "b": [0.7]}
    return [
        Detections(
            hulls(torch.tensor(rows, dtype=torch.float32)), torch.tensor(scores[name]), torch.tensor(LABELS[name]),
            (60, 80), CLASSES, rotated=torch.tensor(rows, dtype=torch.float32),
        )
        for name, rows in FOUND.items()
    ]  # fmt: skip


def written(folder, found, kind):
    if kind == "coco":
        write_coco_results(folder / "found.json", found, ["a", "b"])
        return folder / "found.json"
    for one, stem in zip(found, ["a", "b"], strict=True):
        write_dota_results(folder / "found", one, stem)
    return folder / "found"


@pytest.mark.parametrize("kind", ["coco", "dota"])
def test_figures_of_a_file_are_those_of_the_detections(folder, found, kind):
    turned = {name: torch.tensor(rows) for name, rows in TRUE.items()}
    wanted = [GroundTruth.of(hulls(rows).tolist(), LABELS[name], rotated=rows.float()) for name, rows in turned.items()]
    expected = evaluate_detections(found, wanted, CLASSES).figures
    one = compare_files(folder / "dota", written(folder, found, kind), split="val")
    figures = evaluate_detections(one.detections, one.ground_truths, one.classes, areas=one.areas).figures
    assert not one.warnings
    keys = [key for key in expected if key.startswith(("AP", "rotated_AP", "AR", "recall"))]
    assert {key: figures[key] for key in keys} == {key: expected[key] for key in keys}
    assert 0 < figures["rotated_AP"] < 1


@pytest.mark.parametrize("kind", ["coco", "dota"])
def test_a_merge_of_classes_keeps_the_angles(folder, found, kind):
    one = compare_files(folder / "dota", written(folder, found, kind), split="val", classes="plane+ship=vehicle")
    assert one.classes.names == ("vehicle",)
    torch.testing.assert_close(one.detections[1].rotated, found[1].rotated)
    torch.testing.assert_close(one.ground_truths[0].rotated, torch.tensor(TRUE["a"]).float())


def test_ground_truth_without_angles_is_told(folder, found):
    Image.new("RGB", (80, 60)).save(folder / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 80, "height": 60}
    item = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 8]}
    content = {"images": [image], "annotations": [item], "categories": [{"id": 1, "name": "ship"}]}
    (folder / "instances_val.json").write_text(json.dumps(content))
    write_coco_results(folder / "found.json", found[:1], [1])
    one = compare_files(folder / "instances_val.json", folder / "found.json")
    assert one.warnings == (
        "The detections have rotated boxes and the ground truth has none: only upright boxes are evaluated.",
    )


def test_an_angle_that_is_missing_or_none_is_refused_with_its_row(folder, found):
    path = written(folder, found, "coco")
    rows = json.loads(path.read_text())
    for bad in (None, [1, 2, 3], [1, 2, 3, 4, "x"]):
        path.write_text(json.dumps([rows[0], rows[1] | {"rotated": bad}]))
        with pytest.raises(ValueError, match="detection 1: expected rotated as cx, cy, w, h and degrees"):
            read_results(path)
