"""`export`: a file appears only if it passed; every detector of the library can be written."""

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_detectors
import torch
from typer.testing import CliRunner

from boxwright.cli.main import app
from boxwright.deploy import export as export_module
from boxwright.deploy.description import Description
from boxwright.deploy.export import ExportOptions, export_checkpoint
from boxwright.deploy.graph import OUTPUTS, DetectorGraph, record, sample_inputs
from boxwright.deploy.onnx import write_onnx
from boxwright.deploy.runtime import load_detector
from boxwright.models import MODELS, DetectSettings
from boxwright.recipes import load_recipe
from boxwright.structures import Classes

needs_runtime = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the export extra is not installed",
)
RECIPES = {
    "fcos": "fcos-small", "retinanet": "retinanet-small", "rpn": "rpn-shapes", "fast_rcnn": "fast-rcnn-shapes",
    "faster_rcnn": "faster-rcnn-small", "mask_rcnn": "mask-rcnn-small", "fcos_mask": "fcos-mask-small",
}  # fmt: skip


def test_a_program_is_written_after_it_was_compared(checkpoint_file, tmp_path, monkeypatch):
    """Also by AP, from the same score on and up to the same number as the file."""
    said, measured = [], []
    monkeypatch.setattr(export_module, "_check_given", lambda *_: None)
    monkeypatch.setattr(
        export_module, "average_precision", lambda detector, *_: measured.append(detector.settings) or 0
    )
    out = tmp_path / "models" / "tiny.pt2"
    options = ExportOptions(format="program", score=0.4, max_detections=70, nms_iou=0.5)
    written = export_checkpoint(checkpoint_file, out, options, data=tmp_path / "data", say=said.append)
    assert (written.path, written.size) == (out, out.stat().st_size)
    assert written.agreement.share == 1.0
    assert [file.name for file in out.parent.iterdir()] == ["tiny.pt2"]
    assert any("detections found again" in line for line in said)
    assert measured[0] == measured[1]
    assert (measured[0].score_threshold, measured[0].max_detections, measured[0].nms_iou) == (0.4, 70, 0.5)


def test_nothing_is_left_of_an_export_that_is_ended(checkpoint_file, tmp_path):
    out = tmp_path / "out" / "tiny.pt2"
    command = [sys.executable, "-m", "boxwright", "export", checkpoint_file, "--format", "program", "--out", out]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while not list(tmp_path.glob("out/.export-*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(out.parent.iterdir()) == []


def test_a_file_that_does_not_pass_is_not_left(checkpoint_file, tmp_path, monkeypatch):
    original = export_module.record

    def spoilt(graph, description):
        with torch.no_grad():
            graph.model.head.box_distances.bias += 1.0
        return original(graph, description)

    monkeypatch.setattr(export_module, "record", spoilt)
    with pytest.raises(ValueError, match="does not find what the checkpoint finds"):
        export_checkpoint(checkpoint_file, tmp_path / "a.pt2", ExportOptions(format="program"), say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format", "tflite"], "format 'tflite': expected onnx, openvino, program"),
        (["--precision", "int4"], "precision 'int4': expected fp32, bf16, int8"),
        (["--precision", "bf16"], "precision bf16 is for --format openvino"),
        (["--format", "openvino", "--precision", "int8"], "needs pictures to calibrate with"),
        (["--calibration", "."], "precision fp32 takes no pictures to calibrate with"),
        (["--out", "model.pt"], "model.pt: a file of the format onnx ends in .onnx"),
        (["--nms-iou", "2"], "--nms-iou: expected 0 to 1, got 2.0"),
        (["--split", "val"], "--split is of --data"),
    ],
)
def test_what_does_not_go_together_is_said(checkpoint_file, words, sentence):
    done = CliRunner().invoke(app, ["export", str(checkpoint_file), *words])
    assert isinstance(done.exception, ValueError)
    assert sentence in str(done.exception)


def test_what_is_wrong_with_folders_is_said_before_minutes_of_work(checkpoint_file, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(export_module, "record", None)
    for name in ("pictures", "empty"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "file.json").write_text("{}")
    program, out = ExportOptions(format="program"), tmp_path / "a.pt2"
    for options, given, sentence in (
        (program, {"pictures": tmp_path / "empty"}, "empty: no pictures"),
        (program, {"data": tmp_path / "nowhere"}, "nowhere"),
        (program, {"pictures": tmp_path / "pictures", "out": tmp_path / "pictures" / "sub" / "a.pt2"}, "only read"),
        (ExportOptions("openvino", "int8", calibration=tmp_path / "empty"), {"out": tmp_path / "a.xml"}, "no pictures"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            export_checkpoint(checkpoint_file, options=options, **{"out": out, **given})
    assert not out.exists()
    assert not (tmp_path / "pictures" / "sub").exists()


def test_a_dot_in_a_name_is_no_ending(checkpoint_file, tmp_path, monkeypatch):
    seen = []

    def written(checkpoint, out, *_, **__):
        seen.append(out.name)
        raise ValueError

    monkeypatch.setattr(export_module, "export_checkpoint", written)
    (tmp_path / "lr0.01").mkdir()
    for words in (["best.v2.pt"], ["best.v2.pt", "--format", "program"], [tmp_path / "lr0.01"],
                  ["best.v2.pt", "--format", "openvino", "--precision", "bf16"]):  # fmt: skip
        CliRunner().invoke(app, ["export", *map(str, words)])
    assert seen == ["best.v2.onnx", "best.v2.pt2", "lr0.01.onnx", "best.v2-bf16.xml"]


def test_masks_keep_their_nms(tmp_path):
    from boxwright.checkpoint import Checkpoint
    from boxwright.deploy.graph import detector_graph

    recipe = load_recipe("mask-rcnn-small")
    with pytest.raises(ValueError, match="exported with NMS in the graph"):
        detector_graph(Checkpoint(recipe, Classes.named(["a"]), {}), nms=False)


def _lively(model):
    """Weights that keep the signal's size, so that scores differ from place to place."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * (1.6 / parameter[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@needs_runtime
@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_detectors.TINY)
def test_every_detector_is_the_same_as_a_graph(name, tmp_path):
    """As a program and as an ONNX file: any batch, any size, the same detections (and masks)."""
    kind, _ = tiny_detectors.TINY[name]
    model = _lively(tiny_detectors.build(name))
    graph = DetectorGraph(model, DetectSettings(score_threshold=0.001)).eval()
    description = Description(
        load_recipe(RECIPES[kind]), Classes.named(["a", "b", "c"]), None, graph.settings, "uint8", True, True, "fp32",
        (0.0,) * 3, (1.0,) * 3, OUTPUTS if MODELS[kind].needs_masks else OUTPUTS[:4],
    )  # fmt: skip
    program = record(graph, description)
    write_onnx(program, tmp_path / "tiny.onnx", description)
    module = program.module(check_guards=False)
    file = load_detector(tmp_path / "tiny.onnx", "cpu").engine
    for batch, height, width in ((1, 64, 64), (3, 97, 131), (2, 160, 224)):
        images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)
        inputs = [images, torch.tensor([[height, width]] * batch)]
        if len(sample_inputs(description)) == 3:
            corner = torch.rand(batch, 17, 2) * 40
            inputs.append(torch.cat([corner, corner + 20], dim=-1))
        with torch.no_grad():
            expected = graph(*inputs)
            for got in (module(*inputs), file.run(dict(zip(description.inputs, inputs, strict=True)))):
                assert len(got) == len(expected)
                for one, other in zip(got, expected, strict=True):
                    torch.testing.assert_close(torch.as_tensor(one), other, rtol=1e-4, atol=5e-3)
        assert int(expected[3].sum()) > 0


@needs_runtime
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="the package nncf is not installed")
def test_int8_is_fitted_to_pictures_and_compared(checkpoint_file, pictures, tmp_path):
    from PIL import Image

    (tmp_path / "typical").mkdir()
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / "typical" / f"{number}.png")
    options = ExportOptions(format="openvino", precision="int8", calibration=tmp_path / "typical")
    out = tmp_path / "out" / "tiny.xml"
    written = export_checkpoint(checkpoint_file, out, options, say=lambda _: None)
    assert written.agreement.share >= 0.7
    plain = export_checkpoint(checkpoint_file, Path(tmp_path / "plain" / "tiny.xml"), ExportOptions(format="openvino"),
                              say=lambda _: None)  # fmt: skip
    assert written.size < 0.5 * plain.size
