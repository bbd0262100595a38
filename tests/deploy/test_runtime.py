"""Exported files behind `Detector`: the same detections, the user's classes, and a sentence for a mistake."""

import ast
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import load_checkpoint
from boxwright.deploy.export.graph import detector_graph, record
from boxwright.deploy.export.program import write_program
from boxwright.inference.loading import open_checkpoint
from boxwright.inference.predictor import Detector
from boxwright.runtime.description import Description
from boxwright.runtime.exported import narrowed
from boxwright.runtime.program import load_program
from boxwright.runtime.seal import CHECKSUM
from boxwright.structures import DetectSettings, PaddedDetections

KINDS = ("onnx", "xml", "pt2", "candidates")


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other) > 0
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=2e-2)
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-4)
        assert one.classes == other.classes
        assert one.size_hw == other.size_hw


@pytest.fixture(scope="module")
def runtimes(exported, checkpoint_file, tmp_path_factory):
    """The files of one recording, and one without normalisation and NMS."""
    candidates = tmp_path_factory.mktemp("candidates") / "tiny.pt2"
    graph, description = detector_graph(load_checkpoint(checkpoint_file), normalise=False, nms=False)
    write_program(record(graph, description), candidates, description)
    return {kind: Detector.load(exported.get(kind, candidates), "cpu") for kind in KINDS}


@pytest.fixture(params=KINDS)
def runtime(request, runtimes):
    return runtimes[request.param]


def test_detections_are_those_of_the_checkpoint_alone_and_in_mixed_batches(runtime, detector, images):
    assert runtime.score_threshold == detector.score_threshold == 0.6
    for batch in (1, 2, 8):
        assert_same(runtime.predict(images, batch=batch), detector.predict(images, batch=batch))


def test_every_size_goes_in(runtime, detector):
    """Down to an image of which the coarsest levels are one cell."""
    for height, width in ((32, 32), (33, 200), (250, 64)):
        images = [np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)] * 3
        assert_same(runtime.predict(images, score=0.05, resize=None), detector.predict(images, score=0.05, resize=None))


def test_a_higher_score_and_fewer_detections_are_what_the_checkpoint_gives(runtime, detector, images):
    for settings in ({"score": 0.65}, {"score": 0.05, "max_detections": 7}):
        assert_same(runtime.predict(images, **settings), detector.predict(images, **settings))


def test_what_is_fixed_in_a_file_is_said(exported, images):
    file = Detector.load(exported["onnx"], "cpu")
    for settings, words in (
        ({"score": 0.01}, "gives nothing below a score of 0.05, got 0.01; export it again with a lower --score"),
        ({"nms_iou": 0.3}, "has NMS at an IoU of 0.6 in its graph, got 0.3"),
        ({"max_detections": 500}, "gives at most 100 detections, got 500"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            file.predict(images[0], **settings)
        assert str(exported["onnx"]) in str(caught.value)


def test_candidates_leave_nms_to_the_caller(runtimes, detector, images):
    file = runtimes["candidates"]
    for settings in ({"nms_iou": 0.3}, {"nms_iou": 0.9, "max_detections": 300, "score": 0.1}):
        assert_same(file.predict(images, **settings), detector.predict(images, **settings))


def test_float_images_are_the_same_pixels(exported, images):
    file = Detector.load(exported["onnx"], "cpu")
    whole = torch.from_numpy(images[0]).permute(2, 0, 1)
    assert_same(file.predict(whole / 255, resize=None), file.predict(whole, resize=None))


def test_an_exported_file_has_no_torch_network(exported):
    file = Detector.load(exported["onnx"], "cpu")
    with pytest.raises(ValueError, match="contains no torch network"):
        _ = file.model


def test_predict_and_evaluate_take_a_file_as_they_take_a_checkpoint(exported, checkpoint_file, images, tmp_path):
    from typer.testing import CliRunner

    from boxwright.cli.main import app

    Image.fromarray(images[0]).save(tmp_path / "a.png")
    results = []
    for number, file in enumerate((exported["onnx"], checkpoint_file)):
        out = tmp_path / f"out{number}"
        done = CliRunner().invoke(
            app, ["predict", str(file), str(tmp_path / "a.png"), "--out", str(out), "--json", "--no-draw"]
        )
        assert done.exit_code == 0, done.output
        (rows,) = json.loads((out / "detections.json").read_text()).values()
        results.append(rows)
    assert len(results[0]) == len(results[1]) > 0
    for one, other in zip(*results, strict=True):
        assert one["name"] == other["name"]
        assert one["box"] == pytest.approx(other["box"], abs=2e-2)


def test_compile_reaches_the_network_from_both_verbs(exported, checkpoint_file, labelled, monkeypatch):
    """Nothing is compiled here: what loads a checkpoint is told to, and an exported file and Ray refuse it."""
    from typer.testing import CliRunner

    from boxwright.cli.main import app

    asked = []

    def load(path, device, *, precision, compile):
        asked.append((str(path), compile))
        raise ValueError("far enough")

    monkeypatch.setattr("boxwright.inference.predictor.Detector.load", load)
    image = str(next(labelled.glob("images/val/*.png")))
    for verb, rest in (("predict", [image]), ("evaluate", ["--data", str(labelled)])):
        for words in ([], ["--compile"]):
            done = CliRunner().invoke(app, [verb, str(checkpoint_file), *rest, *words])
            assert str(done.exception) == "far enough"
            assert asked.pop() == (str(checkpoint_file), bool(words))
    monkeypatch.undo()
    for verb, rest in (("predict", [image]), ("evaluate", ["--data", str(labelled)])):
        done = CliRunner().invoke(app, [verb, str(exported["onnx"]), *rest, "--compile"])
        assert "precision and compilation are for checkpoints" in str(done.exception)
    done = CliRunner().invoke(app, ["predict", str(checkpoint_file), image, "--compile", "--engine", "ray"])
    assert "--engine ray does not support --compile; use --engine local" in str(done.exception)


class TestDescription:
    def test_the_text_brings_everything_back(self, exported, checkpoint_file):
        known = Detector.load(exported["onnx"], "cpu").engine.description
        assert Description.from_json(known.to_json(), "x") == known
        checkpoint = load_checkpoint(checkpoint_file)
        assert (known.recipe, known.classes) == (checkpoint.recipe, checkpoint.classes)
        assert known.outputs == ("boxes", "scores", "labels", "counts")
        assert known.inputs == ("images", "sizes")

    def test_a_reader_without_boxwright_finds_names_and_preprocessing(self, exported):
        import onnx

        model = onnx.load(str(exported["onnx"]))
        found = {entry.key: entry.value for entry in model.metadata_props}
        assert ast.literal_eval(found["names"]) == {0: "cell", 1: "dot", 2: "ring"}
        fed = json.loads(found["boxwright"])["input"]
        assert (fed["pixels"], fed["colour"], fed["normalise_in_graph"]) == ("uint8", "RGB", True)
        assert fed["mean"] == pytest.approx([0.485, 0.456, 0.406])
        sizes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
                 for value in (*model.graph.input, *model.graph.output)}  # fmt: skip
        assert sizes == {
            "images": ["batch", 3, "height", "width"],
            "sizes": ["batch", 2],
            "boxes": ["batch", 100, 4],
            "scores": ["batch", 100],
            "labels": ["batch", 100],
            "counts": ["batch"],
        }

    @pytest.mark.parametrize("name", ["other.onnx", "other.xml", "other.pt2"])
    def test_files_of_something_else(self, tmp_path, name):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
            Detector.load(tmp_path / name)
        for content in (b"", b"hello\n", b"PK\x03\x04"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=name) as caught:
                Detector.load(tmp_path / name, "cpu")
            assert "\n" not in str(caught.value)

    def test_an_onnx_file_of_somebody_else(self, tmp_path, exported):
        import onnx

        model = onnx.load(str(exported["onnx"]))
        del model.metadata_props[:]
        onnx.save(model, str(tmp_path / "bare.onnx"))
        with pytest.raises(ValueError, match="was not exported by boxwright"):
            Detector.load(tmp_path / "bare.onnx", "cpu")

    def test_a_damaged_graph(self, tmp_path, exported):
        import onnx

        model = onnx.load(str(exported["onnx"]))
        model.graph.node[3].op_type = "NoSuchThing"
        del model.metadata_props[1]  # its checksum
        onnx.save(model, str(tmp_path / "bad.onnx"))
        with pytest.raises(ValueError, match="ONNX Runtime cannot load it"):
            Detector.load(tmp_path / "bad.onnx", "cpu")

    @pytest.mark.parametrize("kind", ["onnx", "xml", "pt2"])
    def test_damaged_weights(self, tmp_path, exported, kind):
        """One bit in the middle of them; in a file of before, without our checksum, it goes unnoticed."""
        for file in exported["xml"].parent.glob("tiny.*"):
            shutil.copy(file, tmp_path)
        path = tmp_path / f"tiny.{kind}"
        weights = path.with_suffix(".bin") if kind == "xml" else path
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=rf"tiny\.{kind} .*is damaged.*; export it again"):
            Detector.load(path, "cpu")
        if kind == "pt2":
            return
        path.write_bytes(path.read_bytes().replace(CHECKSUM.encode(), b"x" * len(CHECKSUM)))
        assert Detector.load(path, "cpu").classes.names == ("cell", "dot", "ring")

    def test_settings_of_a_checkpoint_are_not_for_files(self, exported):
        with pytest.raises(ValueError, match="precision and compilation are for checkpoints"):
            Detector.load(exported["onnx"], "cpu", precision="bf16")
        with pytest.raises(ValueError, match="OpenVINO runs on the CPU"):
            Detector.load(exported["xml"], "cuda")

    def test_a_program_leaves_nothing_on_the_cpu_when_it_moves(self, exported):
        """To the device without memory here, whose tensors meet one of the CPU with an error as a GPU's would."""
        module, _ = load_program(exported["pt2"], torch.device("meta"))
        images, sizes = torch.zeros(1, 3, 96, 128, dtype=torch.uint8), torch.tensor([[96, 128]])
        found = module(images.to("meta"), sizes.to("meta"))
        assert {part.device.type for part in found} == {"meta"}

    @pytest.mark.parametrize("kind", ["onnx", "xml", "pt2"])
    def test_a_device_that_is_none(self, exported, kind):
        with pytest.raises(ValueError, match="device 'tpu': expected auto, cpu, cuda"):
            Detector.load(exported[kind], "tpu")

    def test_a_device_that_the_runtime_has_not_is_not_passed_over(self, exported):
        with pytest.raises(ValueError, match="ONNX Runtime runs on the CPU or a GPU of NVIDIA here"):
            Detector.load(exported["onnx"], "mps")

    def test_where_a_network_is_needed_a_file_is_refused(self, exported):
        for file in exported.values():
            with pytest.raises(
                ValueError, match="contains no torch network: give the checkpoint that it was made from"
            ):
                open_checkpoint(file)

    def test_a_file_of_strong_detections_only_is_asked_for_those(self, exported, monkeypatch):
        """Without a score of the user's; the checkpoint's own threshold lies lower."""
        known = Detector.load(exported["onnx"], "cpu").engine.description
        strong = replace(known, settings=replace(known.settings, score_threshold=0.8))
        engine = SimpleNamespace(description=strong, device=torch.device("cpu"))
        monkeypatch.setattr("boxwright.inference.predictor.open_engine", lambda *_: engine)
        assert Detector.load(exported["onnx"], "cpu").score_threshold == 0.8

    def test_a_damaged_description(self, exported):
        known = Detector.load(exported["onnx"], "cpu").engine.description
        for text in (known.to_json().replace('"input"', '"inqut"'), known.to_json().replace('"outputs"', '"outs"')):
            with pytest.raises(ValueError, match=r"m.onnx: its description is damaged"):
                Description.from_json(text, "m.onnx")


def test_narrowing_cuts_the_ends_only():
    found = PaddedDetections(
        torch.rand(1, 4, 4), torch.tensor([[0.9, 0.5, 0.3, 0.0]]), torch.tensor([[1, 0, 2, -1]]), torch.tensor([3])
    )
    for score, most, count in ((0.1, 4, 3), (0.3, 4, 2), (0.1, 2, 2), (0.95, 4, 0)):
        cut = narrowed(found, DetectSettings(score_threshold=score, max_detections=most))
        assert cut.counts.tolist() == [count]
        assert torch.equal(cut.boxes[:, :count], found.boxes[:, :count])
        assert not cut.boxes[:, count:].any()
        assert (cut.labels[:, count:] == -1).all()
