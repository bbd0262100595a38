"""Rotated boxes through whole commands: shapes written, inspected, trained on, evaluated, predicted, and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boxwright.inference.predictor import Detector
from boxwright.ops.tiling import Tiling

TINY = (
    "model.backbone={name: mobilenet_v3_small}", "model.fpn.channels=16", "model.rpn.stem_channels=[16]",
    "model.box.fc_channels=[32]", "model.rpn.test_candidates=60", "model.rpn.train_candidates=60",
    "model.rpn.train_proposals=40", "model.rpn.test_proposals=40", "data.batch_size=2", "schedule.steps=2",
    "schedule.warmup_steps=1", "validation.times=1", "data.resize.size=64", "detect.score_threshold=0.001",
)  # fmt: skip


@pytest.fixture
def turned(boxwright: Callable[..., Any]) -> Path:
    """A few images with rotated objects."""
    done = boxwright("shapes", "dota", "--layout", "dota", "--train", 4, "--val", 2, "--size", 64, "--classes", 2)
    assert done.code == 0, done.err
    assert "in DOTA layout" in done.out
    assert "boxwright train rotated-faster-rcnn-shapes" in done.out
    return Path("dota")


@pytest.mark.slow
def test_a_rotated_detector_is_trained_evaluated_and_predicts(boxwright: Callable[..., Any], turned: Path) -> None:
    done = boxwright("inspect", turned, "--strict")
    assert done.code == 0, done.out
    done = boxwright(
        "train", "rotated-faster-rcnn-small", *TINY, "--data", turned, "--device", "cpu", "--runs", ".", "--name", "run"
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "rotated AP" in done.err
    run = json.loads(Path("run/metrics.json").read_text())
    done = boxwright("evaluate", "run", "--data", turned, "--json")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    same = ("AP", "rotated_AP", "rotated_AP50", "rotated_per_class")
    assert {key: figures[key] for key in same} == {key: run[key] for key in same}
    done = boxwright(
        "predict", "run", turned / "images" / "val", "--out", "found", "--format", "json,coco,dota", "--score", 0.001
    )  # fmt: skip
    assert done.code == 0, done.err
    by_path = json.loads(Path("found/detections.json").read_text())
    one = next(row for rows in by_path.values() for row in rows)
    assert len(one["rotated"]) == 5
    assert len(json.loads(Path("found/detections.coco.json").read_text())[0]["rotated"]) == 5
    lines = [line.split() for file in Path("found/dota").iterdir() for line in file.read_text().splitlines()]
    assert len(lines) == sum(map(len, by_path.values()))
    assert all(len(line) == 10 for line in lines)
    in_tiles = ("--tiles", 32, "--overlap", 0.5)
    done = boxwright(
        "predict", "run", turned / "images" / "val", "--out", "tiled", "--format", "json,dota", "--score", 0.001,
        *in_tiles,
    )  # fmt: skip
    assert done.code == 0, done.err
    tiled = json.loads(Path("tiled/detections.json").read_text())
    assert [*tiled] == [*by_path]
    assert tiled != by_path
    (path,) = [path for path in (turned / "images" / "val").iterdir() if path.stem in next(iter(tiled))]
    (expected,) = Detector.load("run/weights/best.pt", "cpu").predict(path, score=0.001, tiles=32, overlap=0.5)
    assert [tuple(row["rotated"]) for row in next(iter(tiled.values()))] == [one.rotated for one in expected]
    assert max(row["rotated"][0] for row in tiled[next(iter(tiled))]) > 32  # beyond the first tiles
    assert len(list(Path("tiled").glob("*.jpg"))) == 2
    done = boxwright("evaluate", "run", "--data", turned, "--json", *in_tiles)
    assert done.code == 0, done.err
    assert json.loads(done.out)["rotated_per_class"] != figures["rotated_per_class"]


@pytest.mark.slow
def test_a_run_on_tiles_reports_what_evaluate_says_of_its_checkpoint(boxwright: Callable[..., Any]) -> None:
    done = boxwright("shapes", "large", "--layout", "dota", "--train", 3, "--val", 2, "--size", 128, "--classes", 2)
    assert done.code == 0, done.err
    tiles = ("data.tiles.size=64", "data.tiles.overlap=0.25")
    done = boxwright(
        "train", "rotated-faster-rcnn-small", *TINY, *tiles, "--data", "large", "--device", "cpu", "--runs", ".",
        "--name", "cut",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "data: 3 images cut into 27 tiles of 64 pixels" in done.err
    run = json.loads(Path("cut/metrics.json").read_text())
    done = boxwright("evaluate", "cut", "--data", "large", "--json")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    same = ("AP", "rotated_AP", "rotated_AP50", "rotated_per_class")
    assert {key: figures[key] for key in same} == {key: run[key] for key in same}
    assert Detector.load("cut/weights/best.pt", "cpu").tiling == Tiling(64, 0.25)


def test_data_without_angles_is_refused_for_a_rotated_detector(boxwright: Callable[..., Any]) -> None:
    done = boxwright("shapes", "upright", "--train", 2, "--val", 1, "--size", 64, "--classes", 2)
    assert done.code == 0, done.err
    done = boxwright("train", "rotated-faster-rcnn-small", *TINY, "--data", "upright", "--device", "cpu", "--runs", ".")
    done.refused("learns rotated boxes, but none of the")
