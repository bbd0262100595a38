"""A run with a time budget, stopped and resumed before or after its length was fixed: it keeps that length exactly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.data.shapes import ShapesConfig, write_shapes
from boxwright.training import loop, report, timing
from boxwright.training.run import train
from boxwright.training.session import Session

SETTINGS = (
    "validation.times=2", "data.batch_size=2", "optim.reference_batch=2", "data.workers=0", "model.fpn_channels=16",
    "model.stem_channels=[16]", "precision=fp32", "detect.max_detections=20", "data.train_scales=[0.75,1.0]",
)  # fmt: skip
MEASURED, LENGTH = 4, 11
# each picture takes half a second, and validation is reckoned at 0.4 of that for 2 pictures, twice: 0.8 seconds
MINUTES = (LENGTH + 0.8 + 0.5) / 60


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Steps after which the run is stopped, by a clock that each step moves on by a second and nothing else does."""
    clock, wanted = SimpleNamespace(now=0.0), set[int]()
    real = loop.training_step

    def step(job: Any, wrapped: Any, optimizer: Any, batches: Any, progress: Any) -> Any:
        clock.now, clock.step = clock.now + 1.0, progress.step + 1
        return real(job, wrapped, optimizer, batches, progress)

    monkeypatch.setattr(loop, "training_step", step)
    for module in (loop, timing):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(loop, "MEASURED_STEPS", MEASURED)
    monkeypatch.setattr(Session, "stop_wanted", lambda _: clock.step in wanted)
    monkeypatch.setattr(Session, "first_pictures", lambda *_: None)  # no charts: they take longer than the steps
    monkeypatch.setattr(report, "write_report", lambda *_: {})
    return wanted


def state_of(run: Path) -> dict[str, Any]:
    state = load_checkpoint(run / "weights" / "last.pt").training
    assert state is not None
    return state


@pytest.mark.e2e
def test_stopped_before_and_after_its_length_was_fixed(tmp_path: Path, stops: set[int]) -> None:
    write_shapes(tmp_path / "data", 6, 2, "voc", ShapesConfig(size=64), 0)

    def started() -> Path:
        return train(
            "fcos-shapes", tmp_path / "data", overrides=SETTINGS, runs=tmp_path / "runs", device="cpu", minutes=MINUTES
        ).folder

    whole = state_of(started())
    assert whole["progress"]["step"] == whole["progress"]["steps"] == LENGTH

    stops.add(7)
    late = started()
    assert (state_of(late)["progress"]["step"], state_of(late)["progress"]["fixed"]) == (7, True)
    stops.clear()
    assert train(resume=late).finished
    resumed = state_of(late)
    assert resumed["progress"]["step"] == LENGTH
    for key, value in whole["model"].items():  # from where the length is fixed it is like any other run
        assert torch.equal(resumed["model"][key], value), key

    stops |= {2, 9}
    early = started()
    before = state_of(early)["progress"]
    assert (before["step"], before["fixed"]) == (2, False)
    assert not train(resume=early).finished
    fixed = state_of(early)["progress"]
    assert (fixed["step"], fixed["steps"], fixed["fixed"]) == (9, LENGTH, True)
    assert train(resume=early).finished
    assert state_of(early)["progress"]["step"] == LENGTH
