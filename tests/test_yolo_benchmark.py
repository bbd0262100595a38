"""What `benchmarks.against_yolo` gives to the other trainer, what it reads back, and how both are measured."""

import argparse
import importlib
from pathlib import Path

import pytest
import torch

from boxwright.data.checks.preflight import preflight
from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.evaluation.coco_ap import coco_ap
from boxwright.evaluation.result_files import write_yolo_results
from boxwright.structures import Classes, Detections

ROOT = Path(__file__).parents[1]
SIZE = (64, 64)


@pytest.fixture
def module(monkeypatch):
    """A benchmark's module, by name."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, 5, 3, "voc", ShapesConfig(size=64), 0)
    return preflight(open_folder(folder)).dataset


def test_the_folder_for_the_other_trainer_holds_the_same_objects(module, dataset, tmp_path):
    yaml = module("yolo_folder").write_yolo_folder(
        tmp_path / "yolo", {"train": dataset.splits["train"], "val": dataset.splits["val"]}, dataset.classes
    )
    again = open_folder(yaml)
    assert again.classes.names == dataset.classes.names
    for name, split in dataset.splits.items():
        for record, other in zip(split.records, again.splits[name].records, strict=True):
            assert other.path.resolve() == record.path.resolve()
            one, two = ground_truth_of(record, SIZE), ground_truth_of(other, SIZE)
            torch.testing.assert_close(two.boxes, one.boxes, rtol=0, atol=1e-3)
            assert torch.equal(two.labels, one.labels)


def test_its_result_files_are_read_back_and_measured_as_pycocotools_measures(module, dataset, tmp_path):
    classes: Classes = dataset.classes
    generator = torch.Generator().manual_seed(0)
    ground_truths = [ground_truth_of(record, SIZE) for record in dataset.splits["train"].records]
    found = []
    for one in ground_truths:
        scores = torch.rand(len(one), generator=generator).sort(descending=True).values
        boxes = (one.boxes + 3 * torch.randn(one.boxes.shape, generator=generator)).clamp(0, 64)
        boxes = torch.cat([boxes[:, :2].minimum(boxes[:, 2:] - 1).clamp(min=0), boxes[:, 2:].clamp(min=1)], 1)
        found.append(Detections(boxes, scores, one.labels, SIZE, classes))
    write_yolo_results(tmp_path, found, [f"{index:06d}" for index in range(len(found))])
    back = module("yolo_folder").read_yolo_results(tmp_path, [SIZE] * len(found), classes)
    for one, two in zip(found, back, strict=True):
        torch.testing.assert_close(two.boxes, one.boxes, rtol=0, atol=1e-3)
        assert torch.equal(two.labels, one.labels)
    ap, ap50 = module("against_yolo").coco_figures(back, ground_truths, classes)
    ours = coco_ap(found, ground_truths, classes)
    assert (ap, ap50) == pytest.approx((ours.ap, ours.ap50), abs=1e-6)
    assert 0 < ap < 1
    nothing = module("yolo_folder").read_yolo_results(tmp_path / "none", [SIZE], classes)
    assert len(nothing[0]) == 0
    assert module("against_yolo").coco_figures(nothing, ground_truths[:1], classes) == (0.0, 0.0)


def test_a_missing_command_is_a_sentence_before_anything_is_trained(module, tmp_path):
    with pytest.raises(SystemExit, match="no command 'no-such-yolo': install Ultralytics"):
        module("against_yolo").compare(
            "bccd", argparse.Namespace(data=tmp_path, runs=tmp_path, yolo="no-such-yolo", overrides=[])
        )
