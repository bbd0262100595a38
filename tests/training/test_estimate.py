"""The estimate of a run: it adds up, costs a few steps, and leaves nothing behind."""

import pytest

from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training.estimate import Estimate, estimate

TINY = [
    "model.backbone=mobilenet_v3_small", "model.fpn.channels=16", "model.head.stem_channels=[16]",
    "data.resize.mode=none",
    "data.batch_size=2", "optim.reference_batch=2", "schedule.steps=200", "validation.times=3",
]  # fmt: skip


def test_a_run_costs_its_steps_and_its_measurements():
    one = Estimate(steps=100, batch=4, step_seconds=0.5, waiting=0.25, validations=2, validation_seconds=10.0, memory=1)
    assert one.seconds == 70
    assert one.sentence().startswith("70 s: 100 steps of 4 images at 0.5 s (8 images/s, 25% of it waiting")


def test_nothing_is_written_and_a_budget_gives_the_steps(tmp_path, monkeypatch):
    data = write_shapes(tmp_path / "data", 4, 2, "voc", ShapesConfig(size=64, max_objects=3, max_pixels=40))
    monkeypatch.chdir(tmp_path)
    found = estimate("fcos-small", data, overrides=TINY, device="cpu")
    assert (found.steps, found.batch, found.validations) == (200, 2, 3)
    assert 0 < found.step_seconds < 60
    assert 0 <= found.waiting < 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    budget = estimate("fcos-small", data, overrides=TINY, minutes=1.0, device="cpu")
    assert budget.steps * budget.step_seconds == pytest.approx(
        60, abs=budget.step_seconds + 3 * budget.validation_seconds
    )
