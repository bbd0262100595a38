"""`export`: a file appears only if it passed; every detector of the library can be written."""

import copy
import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import tiny_detectors
import torch
from configs import built
from PIL import Image
from typer.testing import CliRunner

from boxwright.checkpoint import Checkpoint, load_checkpoint
from boxwright.cli.main import app
from boxwright.deploy.export import export_checkpoint as export_module
from boxwright.deploy.export.export_checkpoint import ExportOptions, compared_images, export_checkpoint
from boxwright.deploy.export.gate import Agreement
from boxwright.deploy.export.graph import OUTPUTS, DetectorGraph, detector_graph, record, sample_inputs
from boxwright.deploy.export.onnx import OPSET, _translations, write_onnx
from boxwright.deploy.export.openvino import write_openvino
from boxwright.inference.predictor import Detector
from boxwright.models import MODELS
from boxwright.recipes import load_recipe
from boxwright.runtime.description import Description
from boxwright.runtime.exported import SUFFIX_OF
from boxwright.runtime.missing import required
from boxwright.runtime.winograd import WinogradConv2d, use_winograd, wide_convolutions
from boxwright.structures import Classes, DetectSettings

needs_runtime = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the export extra is not installed",
)
RECIPES = {
    "fcos": "fcos-small", "retinanet": "retinanet-small", "rpn": "rpn-shapes", "fast_rcnn": "fast-rcnn-shapes",
    "faster_rcnn": "faster-rcnn-small", "mask_rcnn": "mask-rcnn-small", "fcos_mask": "fcos-mask-small",
    "keypoint_rcnn": "keypoint-rcnn-small", "semantic_fpn": "semantic-fpn-small", "panoptic_fpn": "panoptic-fpn-small",
    "rotated_faster_rcnn": "rotated-faster-rcnn-small",
}  # fmt: skip


@pytest.fixture
def two_images(monkeypatch):
    """Where no images are given, a file is compared on two instead of six, whole and cut."""
    drawn = export_module.synthetic_images()[:2]
    monkeypatch.setattr(export_module, "synthetic_images", lambda: drawn)


def test_a_program_is_written_after_it_was_compared(checkpoint_file, labelled, images, tmp_path, monkeypatch):
    """On images of the data, and by AP, from the same score on and up to the same number as the file."""
    said, measured, compared = [], [], []
    prove = export_module.prove
    monkeypatch.setattr(export_module, "prove", lambda *words: compared.extend(words[2]) or prove(*words))
    monkeypatch.setattr(
        export_module, "figures_on", lambda detector, *_: measured.append(detector.settings) or {"AP": 0.0}
    )
    out = tmp_path / "models" / "tiny.pt2"
    options = ExportOptions(format="program", score=0.4, max_detections=70, nms_iou=0.5)
    written = export_checkpoint(checkpoint_file, out, options, data=labelled, log=said.append)
    assert (written.path, written.size) == (out, out.stat().st_size)
    assert written.agreement.share == 1.0
    assert [file.name for file in out.parent.iterdir()] == ["tiny.pt2"]
    assert f"comparing on the first 2 images of {labelled} (val), whole and cut ..." in said
    for image, pixels in zip(compared[:2], images[1:3], strict=True):
        assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))
    assert len(compared) == 4
    assert any("detections found again" in line for line in said)
    assert measured[0] == measured[1]
    assert (measured[0].score_threshold, measured[0].max_detections, measured[0].nms_iou) == (0.4, 70, 0.5)


def test_images_to_compare_on_are_those_given_or_of_the_data_or_drawn(labelled, images, tmp_path):
    for number in range(8):
        Image.fromarray(images[number % 2]).save(tmp_path / f"{number}.png")
    chosen, called = compared_images(tmp_path, labelled, "val")
    assert (len(chosen), called) == (12, f"the first 6 images of {tmp_path}, whole and cut")
    data = tmp_path / "data"
    shutil.copytree(labelled, data)
    (data / "images" / "val" / "1.png").write_bytes(b"no image")
    chosen, called = compared_images(None, data, "val")
    assert called == f"the first 1 image of {data} (val), whole and cut"
    assert [tuple(image.shape[1:]) for image in chosen] == [images[2].shape[:2], (images[2].shape[0], 58)]
    (data / "images" / "val" / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match="split val has no usable image"):
        compared_images(None, data, "val")
    chosen, called = compared_images(None, None, "val")
    assert (len(chosen), called) == (12, "6 synthetic images, whole and cut")


@pytest.mark.parametrize(
    ("precision", "ap", "passes"),
    [
        ("fp32", 0.4991, True), ("fp32", 0.499, True), ("fp32", 0.4989, False), ("fp32", 0.501, True),
        ("fp32", 0.5011, False), ("int8", 0.495, True), ("int8", 0.4949, False), ("int8", 0.52, True),
    ],
)  # fmt: skip
def test_ap_decides_too(checkpoint_file, labelled, tmp_path, monkeypatch, precision, ap, passes):
    """The checkpoint's is 0.5. In fp32 a file that is better is not the same; int8 may gain by chance."""
    found = iter(({"AP": 0.5, "PQ": 0.7}, {"AP": ap, "PQ": 0.7}))
    stubs = {
        "record": lambda *_: None, "write_onnx": lambda _, path, *__: path.write_bytes(b"graph"),
        "write_openvino": lambda _, path, *__: path.write_bytes(b"model"), "figures_on": lambda *_: next(found),
        "Detector": Mock(load=lambda *_: SimpleNamespace(settings=None)),
        "detector_graph": lambda *_, **__: (None, None),
        "replace": lambda description, **_: description,
        "prove": lambda *_: Agreement(0, 0, 0.0, 0.0),
    }  # fmt: skip
    for name, stub in stubs.items():
        monkeypatch.setattr(export_module, name, stub)
    options = ExportOptions("openvino", precision, calibration=labelled / "images/val" if precision == "int8" else None)
    said, out = [], tmp_path / "out" / "tiny.xml"
    if passes:
        written = export_checkpoint(checkpoint_file, out, options, data=labelled, log=said.append)
        assert (written.figures, out.read_bytes()) == ({"AP": (ap, 0.5), "PQ": (0.7, 0.7)}, b"model")
        assert any(f"AP {ap:.4f}, of the checkpoint 0.5000; PQ 0.7000, of" in line for line in said)
        assert any("nothing was compared: give typical images with --images FOLDER" in line for line in said)
        return
    allowed = "0.001 more or less is allowed for fp32" if precision == "fp32" else "0.005 less is allowed for int8"
    with pytest.raises(ValueError, match=f"tiny.xml was not written: its AP is {ap}, .*0.5000; {allowed}"):
        export_checkpoint(checkpoint_file, out, options, data=labelled, log=said.append)
    assert list(out.parent.iterdir()) == []


def test_every_figure_decides(tmp_path):
    out = tmp_path / "tiny.onnx"
    export_module._check_figures(out, {"AP": (0.5, 0.5), "rotated_AP": (0.3, 0.3005)}, "fp32")
    with pytest.raises(ValueError, match=r"its rotated_AP is 0\.2000, that of the checkpoint 0\.3000"):
        export_module._check_figures(out, {"AP": (0.5, 0.5), "rotated_AP": (0.2, 0.3)}, "fp32")


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


@pytest.mark.usefixtures("two_images")
def test_a_file_that_does_not_pass_is_not_left(checkpoint_file, recorded, tmp_path, monkeypatch):
    program, bias = recorded[0], "model.head.box_distances.bias"
    monkeypatch.setitem(program.state_dict, bias, torch.nn.Parameter(program.state_dict[bias].detach() + 1.0))
    monkeypatch.setattr(export_module, "record", lambda *_: program)
    with pytest.raises(ValueError, match="does not find what the checkpoint finds"):
        export_checkpoint(checkpoint_file, tmp_path / "a.pt2", ExportOptions(format="program"), log=lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format", "tflite"], "format 'tflite': expected onnx, openvino, program"),
        (["--precision", "int4"], "precision 'int4': expected fp32, bf16, int8"),
        (["--precision", "bf16"], "precision bf16 is for --format openvino"),
        (["--format", "openvino", "--precision", "int8"], "needs images to calibrate with"),
        (["--calibration", "."], "precision fp32 takes no images to calibrate with"),
        (["--out", "model.pt"], "model.pt: a file of the format onnx ends in .onnx"),
        (["--nms-iou", "2"], "--nms-iou: expected 0 to 1, got 2.0"),
        (["--split", "val"], "--split is of --data"),
        (["--winograd", "--format", "program"], "winograd is for onnx and openvino files in fp32"),
        (["--winograd", "--format", "openvino", "--precision", "bf16"], "winograd is for onnx and openvino files in"),
    ],
)
def test_what_does_not_go_together_is_said(checkpoint_file, words, sentence):
    done = CliRunner().invoke(app, ["export", str(checkpoint_file), *words])
    assert isinstance(done.exception, ValueError)
    assert sentence in str(done.exception)


def test_what_is_wrong_with_folders_is_said_before_minutes_of_work(checkpoint_file, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(export_module, "record", None)
    for name in ("images", "empty"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "a.png")
    (tmp_path / "file.json").write_text("{}")
    program, out = ExportOptions(format="program"), tmp_path / "a.pt2"
    for options, given, sentence in (
        (program, {"images": tmp_path / "empty"}, "empty: no images"),
        (program, {"data": tmp_path / "nowhere"}, "nowhere"),
        (program, {"images": tmp_path / "images", "out": tmp_path / "images" / "sub" / "a.pt2"}, "only read"),
        (ExportOptions("openvino", "int8", calibration=tmp_path / "empty"), {"out": tmp_path / "a.xml"}, "no images"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            export_checkpoint(checkpoint_file, options=options, **{"out": out, **given})
    assert not out.exists()
    assert not (tmp_path / "images" / "sub").exists()


def test_a_dot_in_a_name_is_no_ending(checkpoint_file, tmp_path, monkeypatch):
    seen = []

    def written(out, *_):
        seen.append(out.name)
        raise ValueError

    monkeypatch.setattr(export_module, "refuse_among_images", written)
    (tmp_path / "lr0.01").mkdir()
    for words in (["best.v2.pt"], ["best.v2.pt", "--format", "program"], [tmp_path / "lr0.01"],
                  ["best.v2.pt", "--format", "openvino", "--precision", "bf16"]):  # fmt: skip
        CliRunner().invoke(app, ["export", *map(str, words)])
    assert seen == ["best.v2.onnx", "best.v2.pt2", "lr0.01.onnx", "best.v2-bf16.xml"]


def test_a_file_lies_beside_its_checkpoint_if_nothing_else_is_said(tmp_path, monkeypatch):
    seen = []

    def written(out, *_):
        seen.append(str(out))
        raise ValueError

    monkeypatch.setattr(export_module, "refuse_among_images", written)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    weights = tmp_path / "runs" / "mine" / "weights"
    weights.mkdir(parents=True)
    for name in ("best.pt", "last.pt"):
        (weights / name).touch()
    for words in ([weights / "last.pt"], ["../runs/mine"], [weights / "best.pt", "--out", "here.onnx"], ["zoo/name"]):
        CliRunner().invoke(app, ["export", *map(str, words)])
    assert seen == [str(weights / "last.onnx"), "../runs/mine/weights/mine.onnx", "here.onnx", "name.onnx"]


@pytest.mark.usefixtures("two_images")
def test_without_options_the_suffix_says_the_format(checkpoint_file, recorded, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "boxwright.export")
    compared = []
    prove = export_module.prove
    monkeypatch.setattr(export_module, "record", lambda *_: recorded[0])
    monkeypatch.setattr(export_module, "prove", lambda *words: compared.append(words[1]) or prove(*words))
    written = export_checkpoint(str(checkpoint_file), str(tmp_path / "a.pt2"))
    assert written.path.is_file()
    assert compared[0].engine.runtime == "torch.export"
    assert "found again" in caplog.text  # and nothing is printed
    with pytest.raises(ValueError, match=r"a\.bin: a file of the format onnx ends in \.onnx"):
        export_checkpoint(checkpoint_file, tmp_path / "a.bin")


def test_masks_keep_their_nms(tmp_path):
    recipe = load_recipe("mask-rcnn-small")
    with pytest.raises(ValueError, match="exported with NMS in the graph"):
        detector_graph(Checkpoint(recipe, Classes.named(["a"]), {}), nms=False)


def test_rotated_boxes_keep_their_nms_and_need_a_number_of_points():
    recipe = load_recipe("rotated-faster-rcnn-small")
    with pytest.raises(ValueError, match="a rotated detector is exported with it in the graph"):
        detector_graph(Checkpoint(recipe, Classes.named(["a"]), {}), nms=False)
    adaptive = load_recipe("rotated-faster-rcnn-small", ["model.box.pool_sampling=0"])
    with pytest.raises(ValueError, match=r"model\.box\.pool_sampling: 0 takes as many points of a rotated region"):
        detector_graph(Checkpoint(adaptive, Classes.named(["a"]), {}))


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


def _recorded(name, model=None):
    """A tiny detector's graph (of its own weights, or this model), its description, and its program."""
    kind, _ = tiny_detectors.TINY[name]
    entry = MODELS[kind]
    changes = {"box.pool_sampling": 2} if entry.needs_rotated else None  # a graph cannot ask how many cells a bin has
    model = _lively(tiny_detectors.build(name, changes)) if model is None else model
    graph = DetectorGraph(model, DetectSettings(score_threshold=0.001)).eval()
    outputs = (*OUTPUTS, *["masks"] * entry.needs_masks, *["heatmaps"] * entry.needs_keypoints,
               *["semantic"] * entry.needs_semantic, *["rotated"] * entry.needs_rotated)  # fmt: skip
    description = Description(
        load_recipe(RECIPES[kind]), Classes.named(["a", "b", "c"]), None, graph.settings, "uint8", True, True, "fp32",
        (0.0,) * 3, (1.0,) * 3, outputs,
    )  # fmt: skip
    return graph, description, record(graph, description)


def _assert_finds_the_same(run, graph, description):
    """For any batch, any size: the same detections (and masks); those of one score may change places."""
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((1, 64, 64), (3, 97, 131), (2, 160, 224)):
        images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
        inputs = [images, torch.tensor([[height, width]] * batch)]
        if len(sample_inputs(description)) == 3:
            corner = torch.rand(batch, 17, 2, generator=generator) * 40
            inputs.append(torch.cat([corner, corner + 20], dim=-1))
        with torch.no_grad():
            expected, got = graph(*inputs), run(dict(zip(description.inputs, inputs, strict=True)))
        gaps = torch.nn.functional.pad(expected[1].diff(dim=1).abs(), (1, 1), value=1.0)  # (B, N + 1)
        placed = ((gaps[:, 1:] > 1e-5) & (gaps[:, :-1] > 1e-5)) | (expected[2] < 0)  # and the padding
        assert placed.float().mean() > 0.8
        assert int(expected[3].sum()) > 0 or not MODELS[description.recipe.model.name].detects
        for output, one, other in zip(description.outputs, got, expected, strict=True):
            rows = ... if output in ("scores", "counts", "semantic") else placed
            torch.testing.assert_close(torch.as_tensor(one)[rows], other[rows], rtol=1e-4, atol=5e-3)


@pytest.mark.parametrize(
    "name", ["semantic_fpn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mask_rcnn", "fcos_mask"))]
)
def test_two_stages_and_masks_are_the_same_as_a_program(name):
    """What the FCOS of the other tests has not; every detector in every runtime takes minutes."""
    graph, description, program = _recorded(name)
    module = program.module(check_guards=False)
    _assert_finds_the_same(lambda inputs: module(*inputs.values()), graph, description)


@pytest.mark.slow
def test_winograd_in_the_heads_of_regions_is_the_same_as_a_program():
    """Where the number of maps is that of regions, which no sample fixes."""
    settings = {**tiny_detectors.TINY["mask_rcnn"][1], "mask.conv_channels": (128, 128), "mask.upsampled_channels": 8}
    torch.manual_seed(0)
    model = _lively(built("mask_rcnn", 3, settings))
    fast = copy.deepcopy(model)
    assert use_winograd(fast) == 1
    graph, description, program = _recorded("mask_rcnn", fast)
    module = program.module(check_guards=False)
    direct = DetectorGraph(model, graph.settings).eval()
    _assert_finds_the_same(lambda inputs: module(*inputs.values()), direct, description)


@needs_runtime
@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_detectors.TINY)
def test_every_detector_is_the_same_as_a_graph(name, tmp_path):
    """As a program and as an ONNX file; one of two stages also in OpenVINO."""
    graph, description, program = _recorded(name)
    module = program.module(check_guards=False)
    _assert_finds_the_same(lambda inputs: module(*inputs.values()), graph, description)
    write_onnx(program, tmp_path / "tiny.onnx", description)
    _assert_finds_the_same(Detector.load(tmp_path / "tiny.onnx", "cpu").engine.run, graph, description)
    if name == "faster_rcnn" and importlib.util.find_spec("openvino") is not None:
        write_openvino(tmp_path / "tiny.onnx", tmp_path / "tiny.xml", description)
        _assert_finds_the_same(Detector.load(tmp_path / "tiny.xml", "cpu").engine.run, graph, description)


def test_winograd_is_refused_where_it_changes_nothing():
    recipe = load_recipe("fcos-small", ["model.backbone=mobilenet_v3_small"])
    weights = recipe.build_model(1).state_dict()
    with pytest.raises(ValueError, match="no 3x3 convolution of this network has at least 128 channels in and 64 out"):
        detector_graph(Checkpoint(recipe, Classes.named(["a"]), weights), winograd=True)


def test_winograd_is_the_same_as_a_graph(wide_file):
    checkpoint = load_checkpoint(wide_file)
    direct, description = detector_graph(checkpoint)
    fast, _ = detector_graph(checkpoint, winograd=True)
    assert wide_convolutions(direct)
    assert not wide_convolutions(fast)
    module = record(fast, description).module(check_guards=False)
    _assert_finds_the_same(lambda inputs: module(*inputs.values()), direct, description)


@needs_runtime
@pytest.mark.parametrize("bias", [True, False])
def test_winograd_in_onnx_operators_is_the_direct_convolution(tmp_path, bias):
    """For any batch and size, also where one tile is all there is."""
    onnxruntime = required("onnxruntime", "export")  # which keeps it out of the home folder

    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(128, 70, 3, padding=1, bias=bias).requires_grad_(False)
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        WinogradConv2d(convolution), (torch.zeros(2, 128, 16, 24),), dynamic_shapes=({0: free, 2: free, 3: free},)
    )
    file = tmp_path / "convolution.onnx"
    torch.onnx.export(program, f=file, dynamo=True, custom_translation_table=_translations(), opset_version=OPSET)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for size in ((1, 33, 21), (3, 16, 20), (1, 1, 1), (2, 5, 40)):
        x = torch.randn(size[0], 128, *size[1:], generator=torch.Generator().manual_seed(1))
        expected = convolution(x)
        got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        assert got.shape == expected.shape
        assert float((got - expected).abs().max()) < 3e-5 * float(expected.abs().max())


@needs_runtime
@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_winograd_passes_the_gate_and_its_file_is_no_larger(wide_file, images, tmp_path, format):
    if format == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("the package openvino is not installed")
    for number, pixels in enumerate(images):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    sizes = []
    for winograd in (False, True):
        out = tmp_path / "out" / f"{winograd}{SUFFIX_OF[format]}"
        options = ExportOptions(format=format, winograd=winograd)
        written = export_checkpoint(wide_file, out, options, images=tmp_path / "in", log=lambda _: None)
        assert written.agreement.found == written.agreement.asked > 0
        sizes.append(written.size)
    assert sizes[1] < 1.05 * sizes[0]


@needs_runtime
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="the package nncf is not installed")
def test_int8_is_fitted_to_images_and_compared(checkpoint_file, images, tmp_path):
    from PIL import Image

    (tmp_path / "typical").mkdir()
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / "typical" / f"{number}.png")
    options = ExportOptions(format="openvino", precision="int8", calibration=tmp_path / "typical")
    out = tmp_path / "out" / "tiny.xml"
    written = export_checkpoint(checkpoint_file, out, options, log=lambda _: None)
    assert written.agreement.share >= 0.7
    plain = export_checkpoint(checkpoint_file, Path(tmp_path / "plain" / "tiny.xml"), ExportOptions(format="openvino"),
                              log=lambda _: None)  # fmt: skip
    assert written.size < 0.5 * plain.size
