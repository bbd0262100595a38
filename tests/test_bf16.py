"""What is promised of bf16, on every CPU: emulated where the processor has none of its own.

"auto" is told to mean bf16 here, as it does on a processor that has it: whole runs take the way that they take there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.deploy.export.export_checkpoint import ExportOptions, export_checkpoint
from boxwright.evaluation.coco_ap import coco_ap
from boxwright.inference.evaluate import evaluate_checkpoint
from boxwright.inference.explain import explain
from boxwright.inference.predictor import Detector
from boxwright.runtime.precision import AUTO_PRECISION
from boxwright.training.run import train
from boxwright.training.signals import StopSignal

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("without_charts")]

SETTINGS = (
    "schedule.steps=60", "schedule.warmup_steps=10", "data.workers=0", "model.backbone.widths=[16,16,16,1]",
    "model.fpn.channels=32", "model.head.stem_channels=[32]",
    "ema_decay=0.9", "optim.lr=0.004", "optim.reference_batch=8",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _auto_is_bf16() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(AUTO_PRECISION, "bf16")
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16") / "data"
    write_shapes(folder, 8, 40, "voc", ShapesConfig(size=96), 0)
    return folder


@pytest.fixture(scope="module")
def result(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small detector that has learnt eight images in bf16."""
    runs = tmp_path_factory.mktemp("runs")
    return train("fcos-shapes", data, overrides=SETTINGS, runs=runs, device="cpu", overfit=8)


def ap_of(detector: Detector, data: Path) -> float:
    found = evaluate_checkpoint(detector, data, "train")
    ap = coco_ap(found.detections, found.ground_truths, found.classes, areas=found.areas).ap
    assert ap is not None
    return ap


def test_training_learns(result: Any) -> None:
    rows = [json.loads(line) for line in (result.folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row["train/loss"] for row in rows if "images_per_second" in row]
    assert "bf16" in (result.folder / "log.txt").read_text(encoding="utf-8")
    assert losses[-1] < 0.8 * losses[0]
    assert result.metrics["AP50"] > 0.5


def test_ap_of_a_trained_detector_is_that_of_fp32(result: Any, data: Path) -> None:
    """On eight images; the slow test has as many as it takes to see a thousandth."""
    both = [ap_of(Detector.load(result.last, "cpu", precision=precision), data) for precision in ("fp32", "bf16")]
    assert min(both) > 0.3
    assert both[0] == pytest.approx(both[1], abs=0.01)


@pytest.mark.slow
def test_ap_is_that_of_fp32_to_a_thousandth(tmp_path: Path) -> None:
    """A tenth of a point of AP, on 300 images."""
    write_shapes(tmp_path / "data", 400, 300, "voc", ShapesConfig(), 0)
    made = train("fcos-shapes", tmp_path / "data", overrides=["schedule.steps=500"], runs=tmp_path, device="cpu")
    found = [evaluate_checkpoint(Detector.load(made.last, "cpu", precision=precision), tmp_path / "data", "val")
             for precision in ("fp32", "bf16")]  # fmt: skip
    both = [coco_ap(one.detections, one.ground_truths, one.classes, areas=one.areas).ap for one in found]
    assert both[0] is not None
    assert both[0] > 0.3
    assert both[0] == pytest.approx(both[1], abs=0.001)


def test_auto_evaluates_as_the_run_did(result: Any, data: Path) -> None:
    assert ap_of(Detector.load(result.last, "cpu"), data) == result.metrics["AP"]


def test_explain_shows_what_predict_finds(result: Any, data: Path) -> None:
    from boxwright.data.image_io.decode import read_image

    detector = Detector.load(result.last, "cpu")
    assert detector.engine.precision == "bf16"  # type: ignore[attr-defined]
    path = sorted((data / "JPEGImages").glob("train_*.jpg"))[0]
    (found,) = detector.predict(path, score=0.1)
    shown = explain(detector, read_image(path), score=0.1)
    assert len(found) > 2
    assert torch.equal(shown.found.labels, found.labels)
    torch.testing.assert_close(shown.original(shown.found.boxes), found.boxes)


def test_a_stopped_run_repeats_an_uninterrupted_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*SETTINGS, "schedule.steps=6", "validation.times=2", "validation.max_images=4"]
    whole = train("fcos-shapes", data, overrides=settings, runs=tmp_path, name="whole", device="cpu")
    stops = iter([False, False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "wanted", lambda _: next(stops))
        stopped = train("fcos-shapes", data, overrides=settings, runs=tmp_path, name="stopped", device="cpu")
    assert not stopped.finished
    resumed = train(resume=stopped.folder)
    for one, other in ((whole.last, resumed.last), (whole.best, resumed.best)):
        weights, same = load_checkpoint(one).weights, load_checkpoint(other).weights
        assert all(torch.equal(value, same[key]) for key, value in weights.items())
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize(
    "kind", ["onnx", *(pytest.param(one, marks=pytest.mark.slow) for one in ("openvino", "program"))]
)
def test_an_exported_file_passes_its_gate(result: Any, data: Path, tmp_path: Path, kind: Any) -> None:
    suffix = {"onnx": ".onnx", "openvino": ".xml", "program": ".pt2"}[kind]
    made = export_checkpoint(
        result.last, tmp_path / f"small{suffix}", ExportOptions(kind), data=data, split="train", log=lambda _: None
    )  # fmt: skip
    assert made.agreement.asked > 50
    own, was = made.figures["AP"]
    assert own == pytest.approx(was, abs=0.001)
