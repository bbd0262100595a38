"""The verb `benchmark`: one row a runtime, and a reason for each that is left out."""

import json
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.cli.main import app
from boxwright.deploy.benchmark import RUNTIMES, FolderSpeed, Runtime, available_runtimes, main_figure, measure_speed
from boxwright.recipes import load_recipe
from boxwright.structures import Classes
from boxwright.training.measured_steps import synthetic_batch


def run(*words):
    return CliRunner().invoke(app, ["benchmark", *map(str, words)])


def test_torch_alone_needs_no_file(checkpoint_file):
    done = run(checkpoint_file, "--runtimes", "torch", "--repeats", "1", "--batch", "2", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    (row,) = printed["runtimes"]
    assert (row["runtime"], row["faster"], row["ap"]) == ("torch", 1.0, None)
    assert row["latency_ms"] > 0
    assert row["images_per_second"] > 0
    assert 40 < row["megabytes"] < 60  # the weights of a ResNet-18
    assert (printed["height"], printed["width"]) == (96, 96)
    predicted = printed["predict"]
    assert predicted["runtime"] == "torch"
    assert predicted["images_per_second"] > 0
    assert 0 <= predicted["waited"] < 1


def test_what_cannot_run_is_said(checkpoint_file):
    with pytest.raises(ValueError, match="--runtimes: expected some of torch"):
        raise run(checkpoint_file, "--runtimes", "tensorrt").exception
    done = run(checkpoint_file, "--runtimes", "openvino-int8")
    assert isinstance(done.exception, ValueError)
    assert "openvino-int8 left out" in done.output


TINY = ("model.backbone.widths=[8,8,8,1]", "data.resize.size=64", "data.resize.max_size=96", "data.batch_size=2")


@pytest.mark.parametrize("recipe", ["fcos-small", "mask-rcnn-small", "fast-rcnn-small"])
def test_a_training_step_of_a_recipe_is_measured(recipe):
    done = run(recipe, *TINY, "precision=fp32", "--train", "--steps", "2", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["recipe"], printed["batch"], printed["device"], printed["precision"]) == (recipe, 2, "cpu", "fp32")
    assert (printed["height"], printed["width"]) == (64, 85)  # of a photograph of 480 x 640
    assert printed["images_per_second"] == pytest.approx(2 / printed["seconds_per_iteration"])
    assert 0 < printed["seconds_per_iteration"] < 60
    assert 0.1 < printed["memory_gb"] < 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train", "--runtimes", "torch"], "--runtimes is for the runtimes of a checkpoint"),
        (["--train", "--batch", "8"], "--batch is for the runtimes of a checkpoint"),  # also where it is the default
        (["--steps", "3"], "--steps is for --train"),
        (["data.batch_size=2"], "data.batch_size=2 is for --train"),
        (["--train", "data.batch_sise=2"], "data.batch_sise: unknown key"),
    ],
)
def test_what_would_have_no_effect_on_a_training_step_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        raise run("fcos-small", *words).exception


def test_a_synthetic_batch_has_what_its_recipe_needs():
    batch = synthetic_batch(load_recipe("mask-rcnn-small", ["data.batch_size=3"]), 5, (48, 64))
    assert batch.images.pixels.shape == (3, 3, 48, 64)
    for index in range(3):
        truth = batch.targets.image(index)
        assert len(truth) == 7
        assert truth.labels.max() < 5
        assert truth.boxes.amin() >= 0
        assert (truth.boxes.amax(0) <= torch.tensor([64.0, 48, 64, 48])).all()
        assert all(bool(mask.bitmap.all()) for mask in truth.masks)
    assert batch.proposals is None
    pointed = synthetic_batch(load_recipe("keypoint-rcnn-small", ["data.batch_size=2"]), 1, (48, 64)).targets
    assert pointed.keypoints.shape[2:] == (17, 3)
    inside = (pointed.keypoints[..., :2] >= pointed.boxes[:, :, None, :2]).all()
    assert inside
    assert (pointed.keypoints[..., 2] == 2).all()
    fast = synthetic_batch(load_recipe("fast-rcnn-small", ["data.batch_size=2"]), 5, (48, 64))
    assert fast.proposals.boxes.shape == (2, 1000, 4)


def test_every_runtime_has_a_reason_or_none():
    reasons = available_runtimes(torch.device("cpu"), calibration=False, wide=False)
    assert set(reasons) == set(RUNTIMES)
    assert "wide enough" in reasons["onnx-winograd"]
    assert "wide enough" in reasons["openvino-winograd"]
    wide = available_runtimes(torch.device("cpu"), calibration=False, wide=True)
    assert wide["onnx-winograd"] == wide["onnx"]
    assert reasons["torch"] == ""
    assert reasons["openvino-int8"]


class Slow:
    """A detector of known speed: each image costs one tick of the clock that the test moves."""

    device = torch.device("cpu")

    def __init__(self, clock, cost):
        self.clock, self.cost = clock, cost

    def predict(self, images, **_):
        self.clock[0] += self.cost * len(images)


def test_figures_are_medians_of_rounds_in_turn(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("boxwright.deploy.benchmark.time.perf_counter", lambda: clock[0])
    made = [Runtime(name, Slow(clock, cost), 0) for name, cost in (("a", 2.0), ("b", 0.5))]
    speeds = measure_speed(made, [torch.zeros(3, 4, 4)], batch=4, repeats=3)
    assert speeds == [(2.0, 0.5), (0.5, 2.0)]


def test_ap_is_compared_to_the_checkpoint_in_torch_whatever_is_listed(checkpoint_file, labelled, monkeypatch):
    """Of a made-up AP of each: of the checkpoint in torch fp32 it is 0.5."""
    stated = {"torch": 0.5, "torch-bf16": 0.49, "onnx": 0.501, "openvino-int8": 0.4}

    def runtimes(checkpoint, names, folder, **_):
        return [Runtime(name, SimpleNamespace(name=name, settings="those of the files"), 0) for name in names]

    def ap(detector, *_):
        if hasattr(detector, "name"):
            return stated[detector.name]
        assert (detector.engine.precision, detector.settings) == ("fp32", "those of the files")
        return 0.5

    for name, stub in (
        ("build_runtimes", runtimes), ("available_runtimes", lambda *_, **__: dict.fromkeys(RUNTIMES, "")),
        ("measure_speed", lambda made, *_, **__: [(1.0, 1.0)] * len(made)),
        ("figures_on", lambda *given: {"AP": ap(*given)}),
        ("network_images", lambda *_: [torch.zeros(3, 96, 96)]),
        ("folder_speed", lambda *_: FolderSpeed(8, 12.5, 0.25)),
    ):  # fmt: skip
        monkeypatch.setattr(f"boxwright.deploy.benchmark.{name}", stub)
    for listed in ("openvino-int8,onnx", "torch-bf16,torch,onnx", "torch"):
        done = run(checkpoint_file, "--runtimes", listed, "--data", labelled, "--json")
        assert done.exit_code == 0, done.output
        printed = json.loads(done.stdout)
        assert printed["torch_ap"] == 0.5
        for row in printed["runtimes"]:
            assert row["ap_difference"] == pytest.approx(stated[row["runtime"]] - 0.5)
    table = run(checkpoint_file, "--runtimes", "openvino-int8,onnx", "--data", labelled).stdout
    assert "0.4000 | -0.1000 |" in table
    assert "8 images in memory: 12.50 images/s; the device waited 25% of the time" in table
    assert table.endswith("AP of the checkpoint in torch fp32, which is not listed: 0.5000\n")
    assert "| - | - |" in run(checkpoint_file, "--runtimes", "onnx").stdout


@pytest.mark.slow
def test_all_runtimes_of_this_machine(wide_file, labelled, images, tmp_path):
    from PIL import Image

    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    done = run(wide_file, "--images", tmp_path, "--repeats", "1", "--batch", "2", "--data", labelled)
    assert done.exit_code == 0, done.output
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows[2].startswith("| torch |")
    assert rows[2].endswith("| +0.0000 |")
    assert {"onnx-winograd", "openvino-winograd"} <= {
        row.split()[1] for row in (rows[0], *rows[2:])
    } or "export]" in done.output
    left_out = done.output.count("left out")
    assert len(rows) - 2 == len(RUNTIMES) - 1 - left_out


def test_what_is_wrong_is_said_before_minutes_of_work(checkpoint_file, tmp_path, monkeypatch):
    monkeypatch.setattr("boxwright.deploy.benchmark.build_runtimes", None)
    quick = (checkpoint_file, "--runtimes", "torch")
    for words, sentence in (
        (("--split", "val"), "--split is of --data"),
        (("--data", tmp_path / "nowhere"), "nowhere"),
        (("--images", tmp_path), "no images in this folder"),
    ):
        assert sentence in str(run(*quick, *words).exception)


def test_a_detector_without_regions_of_its_own_is_refused(tmp_path):
    recipe = load_recipe("fast-rcnn-shapes")
    save_checkpoint(Checkpoint(recipe, Classes.named(["a"]), {}), tmp_path / "fast.pt")
    done = run(tmp_path / "fast.pt", "--runtimes", "torch")
    assert "fast_rcnn needs proposals for every image" in str(done.exception)


@pytest.mark.parametrize(
    ("recipe", "figure"),
    [
        ("mask-rcnn-small", "AP"), ("rotated-faster-rcnn-small", "rotated_AP"), ("semantic-fpn-small", "mIoU"),
        ("panoptic-fpn-small", "PQ"),
    ],
)  # fmt: skip
def test_runtimes_are_compared_by_the_figure_of_the_model(recipe, figure):
    assert main_figure(load_recipe(recipe)) == figure
