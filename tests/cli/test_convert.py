"""The verbs convert and zoo, and the others fed with foreign files: whole commands."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.recipes import load_recipe
from boxwright.training import report
from boxwright.training.start import open_start
from boxwright.weights.backbone_files import read_tensors, state_of
from boxwright.weights.licences import NON_COMMERCIAL


@pytest.fixture
def fixtures(shared):
    return shared / "fixtures"


def test_a_zoo_pickle_becomes_a_checkpoint_with_its_recipe_and_goes_back_exactly(boxwright, fixtures, tmp_path):
    source = fixtures / "detectron2" / "faster_rcnn_fpn" / "model.pkl"
    done = boxwright("convert", source, "--out", tmp_path / "faster.pt")
    assert (done.code, done.out) == (0, f"{tmp_path / 'faster.pt'}\n")
    assert "detectron2: faster_rcnn FPN, 80 classes" in done.err
    assert "assumed: strides in the 1x1 convolutions" in done.err
    found = load_checkpoint(tmp_path / "faster.pt")
    assert found.origin is not None
    assert (found.origin["family"], found.score_threshold) == ("detectron2", 0.05)
    assert load_recipe(tmp_path / "faster.yaml").model.name == "faster_rcnn"
    done = boxwright("convert", tmp_path / "faster.pt", "--to", "detectron2", "--out", tmp_path / "back.pkl")
    assert done.code == 0
    theirs, back = (state_of(read_tensors(path)) for path in (source, tmp_path / "back.pkl"))
    assert theirs.keys() == back.keys()
    assert all(torch.equal(value, back[name]) for name, value in theirs.items())


def test_what_exists_is_not_written_over(boxwright, fixtures, tmp_path):
    (tmp_path / "a.pt").write_text("mine")
    boxwright("convert", fixtures / "adelaidet" / "fcos" / "model.pth", "--out", tmp_path / "a.pt").refused(
        "a.pt exists already", "--out"
    )
    assert (tmp_path / "a.pt").read_text() == "mine"


def test_class_names_come_from_a_file(boxwright, fixtures, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(f"thing {k}" for k in range(80)) + "\n")
    source = fixtures / "adelaidet" / "fcos" / "model.pth"
    assert boxwright("convert", source, "--classes", tmp_path / "names.txt", "--out", tmp_path / "a.pt").code == 0
    assert load_checkpoint(tmp_path / "a.pt").classes.names[79] == "thing 79"


def test_a_foreign_file_predicts_and_is_trained_on(boxwright, fixtures, tmp_path, voc, monkeypatch):
    monkeypatch.setattr(report, "write_metrics", lambda *_: None)
    data = voc(tmp_path / "data", names=("person", "dot"))
    source = fixtures / "detectron2" / "fcos" / "model.pkl"
    done = boxwright("predict", source, data / "JPEGImages", "--out", tmp_path / "found", "--json", "--score", "0.9")
    assert done.code == 0, done
    assert (tmp_path / "found" / "detections.json").exists()
    assert boxwright("convert", source, "--out", tmp_path / "fcos.pt").code == 0
    done = boxwright(
        "train", tmp_path / "fcos.yaml", "data.resize.size=64", "data.resize.max_size=64", "schedule.steps=2",
        "schedule.warmup_steps=0", "data.batch_size=2", "--data", data, "--weights", tmp_path / "fcos.pt",
        "--runs", tmp_path / "runs", "--name", "tuned", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done
    assert "rows of classes kept by name: person; new: dot" in done.err


def test_a_foreign_file_is_trained_on_in_one_command(boxwright, fixtures, tmp_path, voc, monkeypatch):
    monkeypatch.setattr(report, "write_metrics", lambda *_: None)  # curves, which take most of the time
    data, source = voc(tmp_path / "data", names=("person", "dot")), fixtures / "adelaidet" / "fcos" / "model.pth"
    settings = ("data.resize.size=64", "data.resize.max_size=64", "schedule.steps=2", "data.batch_size=2",
                "schedule.warmup_steps=0", "validation.times=1")  # fmt: skip
    done = boxwright("train", *settings, "--data", data, "--weights", source, "--device", "cpu")
    assert done.code == 0, done
    assert f"recipe: the network of {source}, the settings for fine-tuning" in done.err
    assert "weights: licence non-commercial use only (AdelaiDet's own" in done.err
    assert "(adelaidet: FCOS): kept backbone, pyramid and head (" in done.err
    assert "rows of classes kept by name: person; new: dot" in done.err
    last = load_checkpoint(f"{done.out.strip()}/weights/last.pt")
    assert last.recipe.name == "FCOS-tuned"
    assert last.origin == {"started_from": str(source), "licence": NON_COMMERCIAL["adelaidet"]}
    assert open_start(None, done.out.strip()).notes[1] == f"weights: licence {NON_COMMERCIAL['adelaidet']}"  # it stays


def test_weights_that_cannot_start_a_run_are_one_sentence(boxwright, fixtures, tmp_path, voc):
    data = voc(tmp_path / "data")
    words = ("--data", data, "--device", "cpu", "--weights")
    boxwright("train", "fcos", *words, fixtures / "detectron2" / "fcos" / "model.pkl").refused(
        "(detectron2: FCOS): nothing would be kept: its backbone is resnet50 with widths", "leave out the recipe"
    )
    boxwright("train", *words, "torchvision/fcos").refused("no detector 'torchvision/fcos' in the zoo", "did you mean")
    boxwright("train", *words, tmp_path / "gone.pth").refused("gone.pth: no such file")
    (tmp_path / "best.onnx").write_bytes(b"x")
    boxwright("train", *words, tmp_path / "best.onnx").refused("best.onnx: an exported file contains no torch network")
    assert not os.path.exists("runs")


@pytest.mark.parametrize("verb", ["convert", "predict"])
def test_a_malicious_file_is_refused_by_name_before_it_runs(boxwright, tmp_path, verb):
    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/PWNED",)

    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": {"a": Runs()}}))
    words = ["convert"] if verb == "convert" else ["predict"]
    done = boxwright(*words, tmp_path / "bad.pkl", *([] if verb == "convert" else [tmp_path]))
    done.refused("bad.pkl: refused", "system", "only arrays, numbers, text and containers are read")
    torch.save({"model": Runs()}, tmp_path / "bad.pth")
    boxwright("convert", tmp_path / "bad.pth").refused("bad.pth", "refused", "system")
    assert not (tmp_path / "PWNED").exists()


def test_what_cannot_be_is_one_sentence(boxwright, fixtures, tmp_path):
    source = fixtures / "adelaidet" / "fcos" / "model.pth"
    boxwright("convert", tmp_path / "none.pth").refused("none.pth: no such file")
    boxwright("convert", source, "--to", "keras").refused(
        "--to: expected torchvision or detectron2 or adelaidet or mmdetection or course, got keras"
    )
    boxwright("convert", source, "--to", "torchvision").refused(
        "torchvision has no fcos like this one", "scale_per_level True"
    )
    boxwright("convert", "torchvision/fcos").refused("no detector 'torchvision/fcos' in the zoo", "did you mean")
    torch.save({"a": torch.ones(1)}, tmp_path / "odd.pth")
    boxwright("convert", tmp_path / "odd.pth").refused("odd.pth", "no detector of torchvision, Detectron2")


def test_the_zoo_is_listed_with_figures_licence_and_addresses(boxwright):
    done = boxwright("zoo", "retinanet", "--addresses")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == [
        "name",
        "box",
        "AP",
        "mask",
        "AP",
        "keypoint",
        "AP",
        "M",
        "param",
        "GFLOPs",
        "licence",
        "here",
    ]
    assert "torchvision/retinanet_resnet50_fpn" in lines[1]
    assert "36.4" in lines[1]
    assert lines[2].strip() == "https://download.pytorch.org/models/retinanet_resnet50_fpn_coco-eeacb38b.pth"
    assert "without network" in done.err
    boxwright("zoo", "nothing").refused("no name in the zoo contains 'nothing'")


def test_the_published_tables_are_printed_as_the_docs_have_them(boxwright):
    done = boxwright("zoo", "detectron2/", "--published")
    assert done.code == 0
    page = (Path(__file__).resolve().parents[2] / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert done.out.strip() == page[page.index("| published by Detectron2") :].strip()
    assert "Measured by Detectron2 (8 NVIDIA V100, 16 images an iteration;" in done.err
    (row,) = [line for line in done.out.splitlines() if "| faster_rcnn_R_50_DC5_3x |" in line]
    assert row.split(" | ")[1:] == [
        "3x",
        "0.378",
        "0.070",
        "5.0",
        "39.0",
        "-",
        "-",
        "-",
        "137849425",
        "faster-rcnn-r50-dc5-3x |",
    ]
    boxwright("zoo", "torchvision", "--published").refused("only Detectron2 publishes them")


def test_the_recipe_beside_it_and_files_of_other_kinds_are_never_the_checkpoint(boxwright, fixtures, tmp_path):
    source = fixtures / "adelaidet" / "fcos" / "model.pth"
    for name in ("a.yaml", "a.onnx", "a.safetensors", "a"):
        boxwright("convert", source, "--out", tmp_path / name).refused(name, "ends in .pt, .pth")
    (tmp_path / "a.yaml").write_text("mine")
    boxwright("convert", source, "--out", tmp_path / "a.pt").refused("a.yaml exists already", "--out")
    assert (tmp_path / "a.yaml").read_text() == "mine"
    assert not (tmp_path / "a.pt").exists()
    assert boxwright("convert", source, "--out", tmp_path / "new" / "a.pt").code == 0


def test_options_that_say_nothing_of_a_file_are_refused(boxwright, fixtures, tmp_path):
    source = fixtures / "adelaidet" / "fcos" / "model.pth"
    for words in (("--norm-eps", 0), ("--variant", "improved")):
        boxwright("convert", source, *words).refused(f"{words[0]} says nothing of adelaidet", "leave it out")
    assert boxwright("convert", source, "--out", tmp_path / "a.pt").code == 0
    boxwright("convert", tmp_path / "a.pt", "--variant", "improved").refused("a.pt is a boxwright checkpoint")
