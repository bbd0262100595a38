"""Trackers other than TensorBoard: they get every number of a run, and one that is not installed is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training import trackers
from boxwright.training.run import train

SETTINGS = (
    "schedule.steps=2", "validation.times=1", "data.batch_size=2", "optim.reference_batch=2", "data.workers=0",
    "precision=fp32", "detect.max_detections=20",
)  # fmt: skip


class Recorded(GeneralTracker):
    """A tracker that keeps what it is given."""

    name, requires_logging_directory, tracker = "trackio", False, None
    told: ClassVar[list[Any]] = []

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.told.append((project, options))

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finished")


@pytest.mark.e2e
def test_a_tracker_gets_every_number_under_the_name_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shapes(tmp_path / "data", 2, 1, "voc", ShapesConfig(size=64), 0)
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["trackio"])
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Recorded)
    monkeypatch.setattr(Recorded, "told", [])
    run = train(
        "fcos-shapes", tmp_path / "data", overrides=[*SETTINGS, "trackers=[trackio]"], runs=tmp_path / "runs",
        name="mine", device="cpu",
    ).folder  # fmt: skip
    (row,) = (json.loads(line) for line in (run / "results.jsonl").read_text().splitlines())
    step = row.pop("step")
    assert Recorded.told == [("boxwright", {"name": "mine"}), (step, row), "finished"]
    assert not (run / "tensorboard").exists()


def test_one_that_is_not_installed_is_refused_before_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    with pytest.raises(ValueError, match="trackers: mlflow is not installed; pip install mlflow"):
        train("fcos", tmp_path / "data", overrides=["trackers=[mlflow]"], runs=tmp_path / "runs", device="cpu")
    assert list(tmp_path.iterdir()) == []
    trackers.check_trackers(["tensorboard"])  # the default is left out where it is not installed
