"""TensorBoard gets every number of a run, also of one that was stopped, and once only where it was resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training.run import train
from boxwright.training.signals import StopSignal

pytestmark = pytest.mark.usefixtures("without_charts")

SETTINGS = (
    "schedule.steps=3", "validation.times=3", "data.batch_size=2", "optim.reference_batch=2", "data.workers=0",
    "model.fpn.channels=16", "model.head.stem_channels=[16]", "precision=fp32", "detect.max_detections=20",
)  # fmt: skip


def scalars(run: Path) -> dict[tuple[str, int], float]:
    """What TensorBoard would show, by name and step."""
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    points = [(name, event) for name in board.Tags()["scalars"] for event in board.Scalars(name)]
    found = {(name, event.step): event.value for name, event in points}
    assert len(found) == len(points)
    return found


def numbers(run: Path) -> dict[tuple[str, int], float]:
    """The same of `results.jsonl`."""
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    return {(key, row["step"]): value for row in rows for key, value in row.items() if key != "step"}


@pytest.mark.e2e
def test_a_run_that_was_stopped_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shapes(tmp_path / "data", 4, 2, "voc", ShapesConfig(size=64), 0)
    asked = iter([False, True])  # after each step
    monkeypatch.setattr(StopSignal, "wanted", lambda _: next(asked))
    stopped = train("fcos-shapes", tmp_path / "data", overrides=SETTINGS, runs=tmp_path / "runs", device="cpu")
    assert not stopped.finished
    assert scalars(stopped.folder) == pytest.approx(numbers(stopped.folder), rel=1e-6)
    assert {step for _, step in numbers(stopped.folder)} == {1, 2}

    monkeypatch.undo()
    assert train(resume=stopped.folder).finished
    assert scalars(stopped.folder) == pytest.approx(numbers(stopped.folder), rel=1e-6)
    assert {("train/loss", 3), ("val/AP", 1), ("lr", 2)} <= scalars(stopped.folder).keys()
