"""A run with a time budget, stopped and resumed before or after its first plan: it repeats an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training import report, timing
from boxwright.training.run import train
from boxwright.training.signals import StopSignal
from boxwright.training.step import EagerStep

SETTINGS = (
    "validation.times=2", "data.batch_size=2", "optim.reference_batch=2", "data.workers=0", "model.fpn.channels=16",
    "model.head.stem_channels=[16]", "precision=fp32", "detect.max_detections=20", "data.train_scales=[0.75,1.0]",
    "data.augment.mosaic=0.5", "schedule.warmup_steps=4",
)  # fmt: skip
FIRST = 6
"""Steps before the first plan: three of each of two scales."""
MINUTES = 0.5


class Machine(SimpleNamespace):
    """A clock that nothing moves but the steps, and the steps after which the run is asked to stop."""

    now: float
    step: int
    stops: set[int]
    lap: Callable[[int], float]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(now=0.0, step=0, stops=set(), lap=lambda step: 1.0)
    real = EagerStep.__call__

    def step(self: EagerStep, batches: Any, settings: Any) -> Any:
        machine.now += machine.lap(self.state.progress.step)
        machine.step = self.state.progress.step + 1
        return real(self, batches, settings)

    monkeypatch.setattr(EagerStep, "__call__", step)
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: machine.now))
    monkeypatch.setattr(StopSignal, "wanted", lambda _: machine.step in machine.stops)
    monkeypatch.setattr(report, "draw_first_batches", lambda *_: None)  # charts take longer than the steps
    monkeypatch.setattr(report, "write_report", lambda *_: {})
    return machine


def state_of(run: Path) -> dict[str, Any]:
    state = load_checkpoint(run / "weights" / "last.pt").training
    assert state is not None
    return state


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["progress"] == other["progress"]
    for key, value in other["model"].items():
        assert torch.equal(one["model"][key], value), key


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("lap", "expected"),
    [
        (lambda step: 4.0 if step < 2 else 0.75, 32),
        pytest.param(lambda step: 1.0 if step < 15 else 2.0, 23, marks=pytest.mark.slow),
        pytest.param(lambda step: 1.0, 30, marks=pytest.mark.slow),
        pytest.param(lambda step: 1.0 if step < 15 else 0.5, 45, marks=pytest.mark.slow),
    ],
    ids=["slow to start", "half as fast from the middle on", "steady", "twice as fast from the middle on"],
)
def test_stopped_before_and_after_its_first_plan(
    tmp_path: Path, machine: Machine, lap: Callable[[int], float], expected: int
) -> None:
    write_shapes(tmp_path / "data", 6, 2, "voc", ShapesConfig(size=64), 0)
    machine.lap = lap

    def started() -> Path:
        return train(
            "fcos-shapes", tmp_path / "data", overrides=SETTINGS, runs=tmp_path / "runs", device="cpu", minutes=MINUTES
        ).folder

    whole = started()
    state = state_of(whole)
    assert state["progress"]["step"] == state["progress"]["horizon"]["steps"]
    assert abs(state["progress"]["step"] - expected) <= 1
    assert abs(state["progress"]["seconds"] - 60 * MINUTES) <= 2.0

    machine.stops = {17}
    late = started()
    assert (state_of(late)["progress"]["step"], state_of(late)["progress"]["fixed"]) == (17, True)
    machine.stops = set()
    assert train(resume=late).finished
    same(state_of(late), state)

    machine.stops = {2, 9}
    early = started()
    assert (state_of(early)["progress"]["step"], state_of(early)["progress"]["fixed"]) == (2, False)
    assert not train(resume=early).finished
    assert state_of(early)["progress"]["step"] == 9
    machine.stops = set()
    assert train(resume=early).finished
    same(state_of(early), state)
    rows = [(run / "results.csv").read_text(encoding="utf-8") for run in (whole, late, early)]
    assert rows[0] == rows[1] == rows[2]
