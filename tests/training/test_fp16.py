"""float16 with a scaled gradient: accelerate allows it on GPUs only; here a CPU computes it, so that it runs at all."""

import pytest
import torch
from accelerate.state import AcceleratorState

from boxwright.checkpoint import load_checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.inference import predictor
from boxwright.training import loop, run
from boxwright.training.run import train
from boxwright.training.step import EagerStep

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("without_charts")]
SMALL = [
    "schedule.steps=6", "schedule.warmup_steps=2", "data.workers=0", "data.batch_size=2", "optim.reference_batch=4",
    "data.resize.mode=none", "data.augment.mosaic=0", "validation.times=1", "model.fpn.channels=16",
    "model.head.stem_channels=[16]", "optim.accumulate=2",
    "model.backbone.widths=[8,8,8,1]",  # a CPU takes ten times as long for a convolution in float16
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", 6, 2, "voc", ShapesConfig(size=64, max_objects=3))


@pytest.fixture
def half(monkeypatch):
    """What `choose_accelerator` gives on a GPU without bfloat16, but for the device; yields the scalers made so."""
    choose, scalers = run.choose_accelerator, []

    def chosen(device, precision):
        accelerator, _ = choose("cpu", "fp32")
        AcceleratorState._shared_state["_mixed_precision"] = "fp16"
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", growth_interval=3)
        scalers.append(accelerator.scaler)
        return accelerator, "fp16"

    monkeypatch.setattr(run, "choose_accelerator", chosen)
    monkeypatch.setattr(predictor, "choose_precision", lambda wanted, device: wanted)
    yield scalers
    AcceleratorState._reset_state(reset_partial_state=True)


def losses_of(monkeypatch):
    """The losses of each step from now on."""
    seen, step = [], EagerStep.__call__

    def noted(self, batches, settings):
        losses = step(self, batches, settings)
        seen.append({name: float(value) for name, value in losses.columns().items()})
        return losses

    monkeypatch.setattr(EagerStep, "__call__", noted)
    return seen


def test_losses_are_those_of_float32(data, tmp_path, monkeypatch, half):
    seen = losses_of(monkeypatch)
    train("fcos-small", data, overrides=SMALL, runs=tmp_path, name="half")
    assert half[0].get_scale() == 2.0**18  # grown twice: no step was left out
    monkeypatch.undo()
    AcceleratorState._reset_state(reset_partial_state=True)
    expected = losses_of(monkeypatch)
    train("fcos-small", data, overrides=[*SMALL, "precision=fp32"], runs=tmp_path, name="whole", device="cpu")
    assert len(seen) == len(expected) == 6
    assert seen[0] == pytest.approx(expected[0], rel=5e-3)
    assert seen[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=0.1)
    assert seen[0] != expected[0]  # another arithmetic indeed


def test_a_step_whose_gradient_overflows_is_left_out_and_the_scale_falls(data, tmp_path, monkeypatch, half):
    scale = 2.0**40  # of a gradient in float16: infinite
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **more: grad_scaler("cpu", init_scale=scale, **more))
    weights = []
    step = EagerStep.__call__

    def noted(self, batches, settings):
        losses = step(self, batches, settings)
        weights.append(next(self.state.model.parameters()).detach().clone())
        return losses

    monkeypatch.setattr(EagerStep, "__call__", noted)
    train("fcos-small", data, overrides=SMALL, runs=tmp_path)
    assert torch.equal(weights[0], weights[1])
    assert half[0].get_scale() < scale
    assert all(bool(torch.isfinite(one).all()) for one in weights)


grad_scaler = torch.amp.GradScaler


def test_a_resumed_run_equals_one_that_never_stopped(data, tmp_path, monkeypatch, half):
    train("fcos-small", data, overrides=SMALL, runs=tmp_path, name="whole")
    step = EagerStep.__call__

    def stopped(self, batches, settings):
        if self.state.progress.step == 5:
            raise KeyboardInterrupt
        return step(self, batches, settings)

    with monkeypatch.context() as patch:
        patch.setattr(EagerStep, "__call__", stopped)
        patch.setattr(loop, "SAVE_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train("fcos-small", data, overrides=SMALL, runs=tmp_path, name="stopped")
    AcceleratorState._reset_state(reset_partial_state=True)
    train(resume=tmp_path / "stopped")
    one, other = (load_checkpoint(tmp_path / name / "weights" / "last.pt").training for name in ("whole", "stopped"))
    assert one["scaler"] == other["scaler"]
    assert one["scaler"]["_growth_tracker"] > 0 or one["scaler"]["scale"] != 2.0**16
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
