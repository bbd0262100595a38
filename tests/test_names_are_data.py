"""Class names may hold anything: markup, emoji codes, formulas, line ends. All that is written keeps them as data."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from boxwright.cli import main
from boxwright.data.checks.preflight import preflight
from boxwright.data.checks.report_text import print_report
from boxwright.data.records import Annotation, LabelledFolder, Record, Split
from boxwright.evaluation.report import draw_confusion, draw_curves
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.training.display import Display
from boxwright.training.plots import plot_labels
from boxwright.visualize import draw
from boxwright.writing import printable

NAMES = ["[/bold]", "[/]", "[red]x", ":cat:", "$\\frac{$", "_hidden", "two\nlines", "\x1b[31mred", "../up", "<script>",
         "w/o mask", "w-o mask", " ", "\u202egpj", "a|b", "=1+1", "%n", "\ud800", "x" * 300, "\\$",
         "{}", "None"]  # fmt: skip
CLASSES = Classes.named(NAMES, first_id=1)
COUNT = len(NAMES)


@pytest.fixture
def files(tmp_path):
    """COCO ground truth and results: one object of each class, all found."""
    boxes = [[4 * k + 1.0, 5.0, 30.0, 40.0] for k in range(COUNT)]
    ground_truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100}],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)],
        "annotations": [{"id": k + 1, "image_id": 1, "category_id": k + 1, "bbox": box, "area": 1200, "iscrowd": 0}
                        for k, box in enumerate(boxes)],
    }  # fmt: skip
    rows = [{"image_id": 1, "category_id": k + 1, "bbox": box, "score": 0.9 - k / 100} for k, box in enumerate(boxes)]
    (tmp_path / "ground truth.json").write_text(json.dumps(ground_truth))
    (tmp_path / "found.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.fixture
def evaluate(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["boxwright", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main.run()
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        return printed

    return run


@pytest.mark.parametrize("metric", ["coco", "voc"])
def test_evaluate_prints_and_saves_any_name(files, evaluate, metric):
    words = ("--ground-truth", files / "ground truth.json", "--detections", files / "found.json", "--metric", metric)
    printed = evaluate(*words, "--save", files / "out")
    for name in ("[/bold]", "[/]", "[red]x", ":cat:", "_hidden", "two\\nlines", "\\x1b[31mred", "w/o mask"):
        assert name in printed.out, name
    assert "\x1b" not in printed.out + printed.err
    assert not (files / "up.txt").exists()
    for kind in ("voc", "detection-results"):
        again = json.loads(
            evaluate("--ground-truth", files / "ground truth.json", "--detections", files / "out" / kind, "--json").out
        )
        assert list(again["per_class"].values()) == [1.0] * COUNT
    assert len(list((files / "out" / "voc").iterdir())) == COUNT


def test_charts_take_any_name(tmp_path):
    matrix = np.eye(COUNT + 1, dtype=np.int64)
    draw_confusion(tmp_path, matrix, NAMES, 0.5)
    boxes = torch.tensor([[1.0, 1, 9, 9]]).repeat(COUNT, 1)
    plot_labels(boxes, torch.arange(COUNT), torch.full((COUNT, 2), 20), CLASSES, tmp_path / "labels.jpg")
    from boxwright.evaluation.curves import score_curves

    for start in range(0, COUNT, 8):
        names = NAMES[start : start + 8]
        labels = torch.arange(len(names))
        found = Detections(boxes[: len(names)], torch.rand(len(names)), labels, (20, 20))
        curves = score_curves([found], [GroundTruth.of(boxes[: len(names)], labels)], len(names))
        draw_curves(tmp_path, curves, names)
    assert len(list(tmp_path.iterdir())) == 7


def test_images_are_drawn_with_any_name():
    image = torch.zeros(3, 120, 160, dtype=torch.uint8)
    for label in range(COUNT):
        found = Detections(
            torch.tensor([[20.0, 30, 90, 80]]), torch.tensor([0.5]), torch.tensor([label]), (120, 160), CLASSES
        )
        assert np.asarray(draw(image, found, classes=CLASSES)).any()


def test_inspect_prints_any_name(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    rows = tuple(Annotation((1, 1, 9, 9 + k / 10), k, f"{tmp_path}/a[/]:{k}") for k in range(COUNT))
    bad = replace(rows[0], box=(5, 5, 5, 9))
    record = Record(tmp_path / "a.png", 1, None, (*rows, bad), "a")
    splits = {"[/]:cat:": Split("[/]:cat:", (record,), CLASSES)}
    report = preflight(
        LabelledFolder(tmp_path, "coco", CLASSES, splits, ("a note of [/bold] :cat:",)), level_ranges=[(0, 8), (8, 99)]
    )
    console = Console(width=200, record=True, quiet=False, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    for part in ("[/bold]", "[/]", ":cat:", "two\\nlines", "\\x1b[31mred", "a note of [/bold] :cat:", "[/]:cat:"):
        assert part in text
    assert "\x1b" not in text


def test_a_log_takes_any_name(tmp_path, capsys):
    display = Display(enabled=True)
    display.log_to(tmp_path / "log.txt")
    for name in NAMES:
        display.log(f"classes: {name}")
    for written in (capsys.readouterr().err, (tmp_path / "log.txt").read_text()):
        lines = written.splitlines()
        assert lines == [f"classes: {printable(name)}" for name in NAMES]
        assert "\x1b" not in written
