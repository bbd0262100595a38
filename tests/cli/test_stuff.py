"""Stuff through whole commands: shapes written, inspected, trained on, evaluated, saved, and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY = (
    "model.backbone=mobilenet_v3_small", "model.fpn.channels=16", "model.semantic.channels=16", "data.batch_size=2",
    "schedule.steps=2", "schedule.warmup_steps=1", "validation.times=1", "data.resize.size=64",
)  # fmt: skip
TINY_OBJECTS = (
    "model.box.fc_channels=[32]", "model.mask.conv_channels=[8]", "model.mask.upsampled_channels=8",
    "model.panoptic.min_score=0.01", "model.panoptic.min_stuff_area=16", "detect.score_threshold=0.001",
)  # fmt: skip


@pytest.fixture
def stuff(boxwright: Callable[..., Any]) -> Callable[[str], Path]:
    """Writes a few images in one of the two layouts."""

    def write(layout: str) -> Path:
        done = boxwright("shapes", layout, "--layout", layout, "--train", 4, "--val", 2, "--size", 64, "--classes", 2)
        assert done.code == 0, done.err
        assert f"in {layout.upper()} layout" in done.out
        return Path(layout)

    return write


@pytest.mark.slow
def test_a_panoptic_model_is_trained_and_evaluated_to_the_same_digits(
    boxwright: Callable[..., Any], stuff: Callable[[str], Path]
) -> None:
    data = stuff("panoptic")
    done = boxwright("inspect", data, "--decode", "--strict")
    assert done.code == 0, done.out
    assert "2 classes and 4 of stuff" in done.out
    assert "Pixels by class" in done.out
    done = boxwright(
        "train", "panoptic-fpn-small", *TINY, *TINY_OBJECTS, "--data", data, "--device", "cpu", "--runs", ".",
        "--name", "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    run = json.loads(Path("run/metrics.json").read_text())
    done = boxwright("evaluate", "run", "--data", data, "--json", "--save", "saved")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    same = ("AP", "segm_AP", "mIoU", "PQ", "PQ_things", "PQ_stuff", "per_class_IoU", "per_class_PQ")
    assert {key: figures[key] for key in same} == {key: run[key] for key in same}
    segments = json.loads(Path("saved/panoptic.json").read_text())["annotations"]
    assert len(segments) == 2
    assert Path("saved/panoptic", segments[0]["file_name"]).is_file()
    assert {path.name for path in Path("saved").iterdir()} >= {"per_label.csv", "per_class_segments.csv", "semantic"}
    done = boxwright("evaluate", "run", "--data", data)
    assert "PQ_stuff" in done.out
    truth = data / "annotations" / "panoptic_val.json"
    done = boxwright(
        "evaluate", "--ground-truth", truth, "--split", "val", "--detections", "saved/panoptic.json", "--json"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["PQ"] == figures["PQ"]


def test_a_semantic_model_is_trained_on_maps_alone_and_detectors_say_that_they_cannot(
    boxwright: Callable[..., Any], stuff: Callable[[str], Path]
) -> None:
    data = stuff("semantic")
    done = boxwright(
        "train", "semantic-fpn-small", *TINY, "--data", data, "--device", "cpu", "--runs", ".", "--name", "run"
    )
    assert done.code == 0, done.err
    assert "mIoU" in done.err
    run = json.loads(Path("run/metrics.json").read_text())
    assert run["AP"] is None
    done = boxwright("evaluate", "run", "--data", data, "--save", "saved")
    assert done.code == 0, done.err
    assert f"mIoU {run['mIoU']:.4f}" in done.out
    files = ("--ground-truth", data, "--split", "val", "--detections", "saved/semantic")
    done = boxwright("evaluate", *files, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["mIoU"] == pytest.approx(run["mIoU"], abs=1e-9)
    boxwright("evaluate", *files, "--metric", "voc").refused("is for detections, and these are labels of pixels")
    other = stuff("panoptic")
    boxwright("evaluate", "run", "--data", other).refused("the classes differ")
    boxwright("evaluate", "run", "--data", data, "--metric", "voc").refused("finds no objects: leave out --metric voc")


def test_data_without_maps_or_objects_is_refused_by_models_of_them(
    boxwright: Callable[..., Any], stuff: Callable[[str], Path]
) -> None:
    data = stuff("semantic")
    boxwright("train", "fcos-small", "--data", data, "--runs", ".").refused("finds objects, but the data has none: all")
    boxwright("shapes", "plain", "--layout", "coco", "--train", 2, "--val", 1, "--size", 64)
    done = boxwright("train", "semantic-fpn-small", "--data", "plain", "--runs", ".")
    done.refused("learns the label of every pixel, but the data has none; give COCO panoptic")
