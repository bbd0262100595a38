"""A whole run and prediction on a device that is not the CPU: the same numbers, and no two devices mixed."""

import csv
from contextlib import nullcontext

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from other_device import OTHER, OtherDevice, one_layout_for_group_norm, one_way_for_depthwise_gradients
from torch.autograd.grad_mode import inference_mode
from torch.optim import optimizer

from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.inference import predictor
from boxwright.inference.predictor import Detector
from boxwright.runtime.winograd import direct_convolutions
from boxwright.training import run
from boxwright.training.run import train

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("without_charts")]
SMALL = [
    "schedule.steps=2", "data.workers=0", "data.batch_size=2", "data.resize.mode=none", "validation.times=2",
    "model.backbone=mobilenet_v3_small", "optim.accumulate=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", 6, 3, "coco", ShapesConfig(size=64, max_objects=3))


@pytest.fixture
def other(monkeypatch):
    """The device, with what this torch and accelerate would not let it do taken away."""
    choose, fused = run.choose_accelerator, optimizer._get_fused_kernels_supported_devices

    def chosen(device, precision):
        accelerator, _ = choose("cpu", "fp32")
        if device == "auto":
            for state in (PartialState, AcceleratorState):
                state._shared_state["device"] = OTHER
        return accelerator, "fp32"

    def enter(mode):
        mode.inner = torch.no_grad()
        mode.inner.__enter__()

    one_layout_for_group_norm(monkeypatch)
    monkeypatch.setattr(run, "choose_accelerator", chosen)
    monkeypatch.setattr(predictor, "device_called", torch.device)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused(), OTHER.type])
    monkeypatch.setattr(inference_mode, "__enter__", enter)
    monkeypatch.setattr(inference_mode, "__exit__", lambda mode, *error: mode.inner.__exit__(*error))
    yield OtherDevice()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("recipe", ["fcos-small", pytest.param("mask-rcnn-small", marks=pytest.mark.slow)])
def test_a_run_on_another_device_is_the_same(recipe, data, other, tmp_path, monkeypatch):
    one_way_for_depthwise_gradients(monkeypatch)
    expected = train(recipe, data, overrides=SMALL, runs=tmp_path / "here", device="cpu")
    AcceleratorState._reset_state(reset_partial_state=True)
    with other:
        moved = train(recipe, data, overrides=SMALL, runs=tmp_path / "there", device="auto")
    ours, theirs = (rows(result.folder) for result in (moved, expected))
    assert len(theirs) == 2
    for own, row in zip(ours, theirs, strict=True):  # sums of losses are float32 there, Python's own numbers here
        assert own == pytest.approx(row, rel=1e-5)
    assert files_of(moved.folder) == files_of(expected.folder)

    images = sorted((data / "images").glob("*.jpg"))[:3]
    with direct_convolutions():
        here = Detector.load(expected.folder, "cpu").predict(images, score=0.0)
    with other:
        there = Detector.load(expected.folder, OTHER).predict(images, score=0.0)
    assert [len(one) > 0 for one in here] == [True] * 3
    for one, two in zip(there, here, strict=True):
        assert torch.equal(one.boxes, two.boxes)
        assert torch.equal(one.scores, two.scores)
        assert torch.equal(one.labels, two.labels)


def files_of(folder):
    """Names of what a run wrote, but for TensorBoard's, which hold a process and a time."""
    return sorted(path.name for path in folder.rglob("*") if not path.name.startswith("events."))


def rows(folder):
    """The table of a run, without what a clock says."""
    with (folder / "results.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    clock = ("seconds", "images_per_second", "waiting_for_data")
    return [{k: float(v) for k, v in row.items() if v and k not in clock} for row in table]
