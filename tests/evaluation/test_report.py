"""The report says what was measured, for one class, for many, and for sets where nothing was found."""

import csv
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.evaluation.curves import best_threshold, score_curves
from boxwright.evaluation.report import class_csv, class_rows, class_table, draw_confusion, write_report
from boxwright.evaluation.summary import evaluate_detections, headline
from boxwright.structures import Classes, Detections, GroundTruth

CHARTS = ["BoxPR_curve", "BoxF1_curve", "BoxP_curve", "BoxR_curve", "confusion_matrix", "confusion_matrix_normalized"]


@pytest.mark.parametrize("num_classes", [1, 31])
def test_every_file_is_written_and_shows_something(random_set, tmp_path, num_classes):
    detections, ground_truths = random_set(0, images=20, num_classes=num_classes)
    classes = Classes.named([f"class {index} of $ and _" for index in range(num_classes)])
    paths = write_report(tmp_path / "new", detections, ground_truths, classes, dict.fromkeys(classes.names, 0.5))
    assert [path.name for path in paths] == ["per_class.csv", *(f"{name}.png" for name in CHARTS)]
    for path in paths[1:]:
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(classes.names)
    assert sum(int(row["objects"]) for row in rows) == sum(
        int((~ground_truth.ignore).sum()) for ground_truth in ground_truths
    )


def test_report_of_nothing(tmp_path):
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (9, 9))
    classes = Classes.named("ab")
    assert len(write_report(tmp_path, [nothing], [GroundTruth.empty()], classes, {"a": None, "b": None})) == 7
    rows = (tmp_path / "per_class.csv").read_text().splitlines()
    assert rows[1:] == ["a,0,,,,,", "b,0,,,,,"]


def test_rows_of_the_table(random_set):
    ground_truth = GroundTruth.of([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]], [0, 0, 1], [False, True, False])
    found = Detections(ground_truth.boxes[:1], torch.tensor([0.8]), torch.tensor([0]), (60, 60))
    classes = Classes.named(["found", "missed", "absent"])
    curves = score_curves([found], [ground_truth], 3)
    best = best_threshold(curves)
    rows = class_rows([ground_truth], classes, curves, best, {"found": 0.75, "missed": 0.0, "absent": None})
    assert [row.objects for row in rows] == [1, 1, 0]
    assert (rows[0].precision, rows[0].recall, rows[0].ap, rows[0].f1) == (1, 1, 0.75, 1)
    assert rows[0].ap50 == pytest.approx(1)
    assert (rows[1].precision, rows[1].recall, rows[1].ap50) == (None, 0, 0)  # nothing is kept: no precision
    assert (rows[2].recall, rows[2].ap50, rows[2].ap) == (None, None, None)
    assert (best.precision, best.recall) == (1, 0.5)
    text = csv.reader(io.StringIO(class_csv(rows)))
    assert next(text) == ["class", "objects", "precision", "recall", "f1", "AP50", "AP"]
    assert [column.header for column in class_table(rows, 0.75).columns][-2:] == ["AP75", "AP"]
    assert [column.header for column in class_table(rows, voc=True).columns][-2:] == ["F1", "AP"]


def test_confusion_shares_are_of_the_true_class(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("boxwright.evaluation.report._draw_cells", lambda _, values, *rest: drawn.append(values))
    draw_confusion(tmp_path, np.array([[3, 0, 1], [1, 0, 0], [0, 0, 0]]), ["a", "b"], 0.5)
    assert drawn[0].tolist() == [[3, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert drawn[1].tolist() == [[0.75, 0, 1], [0.25, 0, 0], [0, 0, 0]]


def test_measurement_holds_fractions_or_none(random_set):
    detections, ground_truths = random_set(2)
    classes = Classes.named("abc")
    measured = evaluate_detections(detections, ground_truths, classes)
    keys = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "per_class"}
    assert keys <= set(measured.figures)
    low, high = measured.figures["AP50_interval"]
    assert low <= measured.figures["AP50"] <= high
    flat = [*measured.figures["per_class"].values(), *measured.figures["best_f1"].values(), low, high]
    flat += [value for value in measured.figures.values() if isinstance(value, int | float)]
    assert all(value is None or 0 <= value <= 1 for value in flat)
    assert headline(measured)[0].startswith("AP 0.")
    other = evaluate_detections(detections, ground_truths, classes, max_detections=5)
    assert [key for key in other.figures if key.startswith("AR")] == ["AR1", "AR5", "ARs", "ARm", "ARl"]
    voc = evaluate_detections(detections, ground_truths, classes, metric="voc", eleven_point=True)
    assert "eleven points" in headline(voc)[0]
    assert set(voc.figures["per_class"]) == {"a", "b", "c"}


def test_measurement_of_nothing_has_words():
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (9, 9))
    for metric in ("coco", "voc"):
        measured = evaluate_detections([nothing], [GroundTruth.empty()], Classes.named("a"), metric=metric)
        assert measured.figures["best_f1"] is None
        assert "No ground truth at all: AP is undefined." in measured.notes
        assert headline(measured)[0].split()[1] == "-"
    with pytest.raises(ValueError, match="expected coco, lvis, cityscapes or voc"):
        evaluate_detections([], [], Classes.named("a"), metric="map")
    with pytest.raises(ValueError, match="iou 0: expected a fraction"):
        evaluate_detections([], [], Classes.named("a"), iou=0)


def test_charts_leave_the_home_folder_alone(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "from boxwright.evaluation.report import plain_figure; import sys, io; plain_figure(2, 2).savefig(io.BytesIO())"
    )
    names = ("PATH", "SYSTEMROOT")
    environment = {name: os.environ[name] for name in names if name in os.environ} | {"HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_the_colours_of_the_confusion_matrix_reach_its_largest_cell(tmp_path, monkeypatch, names):
    """Also where the largest is one of the background, which is usual with one class."""
    figures = []
    monkeypatch.setattr("boxwright.evaluation.report._save", lambda figure, path: figures.append(figure))
    matrix = np.full((len(names) + 1, len(names) + 1), 5)
    matrix[0, -1] = 120
    draw_confusion(tmp_path, matrix, names, 0.5)
    for figure, largest in zip(figures, (120, 0.96 if len(names) == 1 else 120 / 130), strict=True):
        image = figure.axes[0].images[0]
        assert image.norm.vmax == pytest.approx(largest)
        assert image.norm(largest) == pytest.approx(1)
        assert figure.axes[1].get_ylim()[1] == pytest.approx(largest)
