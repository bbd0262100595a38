"""Rotated boxes through whole commands: shapes written, inspected, trained on, evaluated, predicted, and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    boxwright("predict", "run", turned / "images" / "val", "--tiles", 32).refused(
        "finds rotated boxes in whole images: it cannot detect in tiles"
    )


def test_data_without_angles_is_refused_for_a_rotated_detector(boxwright: Callable[..., Any]) -> None:
    done = boxwright("shapes", "upright", "--train", 2, "--val", 1, "--size", 64, "--classes", 2)
    assert done.code == 0, done.err
    done = boxwright("train", "rotated-faster-rcnn-small", *TINY, "--data", "upright", "--device", "cpu", "--runs", ".")
    done.refused("learns rotated boxes, but none of the")
