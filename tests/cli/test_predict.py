"""`boxwright predict`: images and files out, broken images said, and nothing written among the images."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.cli import main
from boxwright.inference.prediction_files import FORMATS, formats_called
from boxwright.recipes import load_recipe
from boxwright.structures import Classes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small detector with random weights, all of whose scores lie below 0.2."""
    torch.manual_seed(0)
    recipe = load_recipe("fcos-small", ["model.fpn.channels=16", "model.head.stem_channels=[]", "data.resize.size=64"])
    model = recipe.build_model(2)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(Checkpoint(recipe, Classes(("cat", "dog"), (4, 9)), model.state_dict(), 0.9), path)
    return path


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, checkpoint):
    """Runs `boxwright predict CHECKPOINT ...` in an empty working folder: exit code, standard output and error."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*words, checkpoint=checkpoint):
        monkeypatch.setattr(sys, "argv", ["boxwright", "predict", str(checkpoint), *map(str, words)])
        try:
            main.run()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def folder(tmp_path):
    """Two images of different sizes."""
    place = tmp_path / "images"
    place.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", (64, 80, 3)), ("b", (50, 40, 3))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(place / f"{name}.png")
    return place


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_draws_by_default_into_a_new_folder(call, folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for name in ("predictions", "predictions-2"):
        code, out, err = call(folder)
        assert (code, out) == (0, f"{name}\n")
        assert re.fullmatch(
            r"0 objects in 2 images \(score from 0\.90\); [\d.]+ s, [\d.]+ s an image with drawing\n", err
        )
        assert listing(tmp_path / "work" / name) == ["a.jpg", "b.jpg"]
    with Image.open(tmp_path / "work" / "predictions" / "b.jpg") as drawn:
        assert drawn.size == (40, 50)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_all_files_agree(call, folder, tmp_path):
    out_folder = tmp_path / "out"
    code, out, err = call(
        folder,
        "--out",
        out_folder,
        "--json",
        "--coco",
        "--yolo",
        "--text",
        "--no-draw",
        "--score",
        0,
        "--max-detections",
        7,
        "--batch",
        1,
    )
    assert (code, out) == (0, f"{out_folder}\n")
    assert re.fullmatch(
        r"14 objects in 2 images \(score from 0\.00\); [\d.]+ s, [\d.]+ s an image with decoding\n", err
    )
    assert listing(out_folder) == [
        "detections.coco.json",
        "detections.json",
        "labels",
        "labels/a.txt",
        "labels/b.txt",
        "text",
        "text/a.txt",
        "text/b.txt",
    ]
    by_path = json.loads((out_folder / "detections.json").read_text())
    assert list(by_path) == [str(folder / "a.png"), str(folder / "b.png")]
    rows = json.loads((out_folder / "detections.coco.json").read_text())
    assert len(rows) == 14
    assert {row["category_id"] for row in rows} <= {4, 9}
    for stem, width, height in (("a", 80, 64), ("b", 40, 50)):
        found = by_path[str(folder / f"{stem}.png")]
        own = [row for row in rows if row["image_id"] == stem]
        text = [line.split() for line in (out_folder / "text" / f"{stem}.txt").read_text().splitlines()]
        yolo = [list(map(float, x.split())) for x in (out_folder / "labels" / f"{stem}.txt").read_text().splitlines()]
        assert len(found) == len(own) == len(text) == len(yolo) == 7
        for item, row, words, shares in zip(found, own, text, yolo, strict=True):
            x1, y1, x2, y2 = item["box"]
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
            assert (words[0], row["category_id"]) in {("cat", 4), ("dog", 9)}
            assert item["name"] == words[0]
            assert [float(word) for word in words[1:]] == pytest.approx([item["score"], *item["box"]], abs=1e-3)
            centre = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            assert shares == pytest.approx([("cat", "dog").index(item["name"]), *centre, item["score"]], abs=1e-5)


def test_a_broken_image_is_said_and_the_others_are_done(call, folder, tmp_path):
    (folder / "aa.jpg").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "empty.jpg").touch()
    code, out, err = call(folder, "--json")
    assert (code, out) == (2, "predictions\n")
    said = err.splitlines()
    assert len(said) == 3
    assert said[0].startswith(f"boxwright: {folder / 'aa.jpg'}: the image is damaged or cut short")
    assert said[1].startswith(f"boxwright: {folder / 'empty.jpg'}: the file is empty")
    assert said[2].startswith("0 objects in 2 images")
    assert listing(tmp_path / "work" / "predictions") == ["a.jpg", "b.jpg", "detections.json"]


def test_only_broken_images(call, folder):
    (folder / "notes.txt").write_text("hello")
    code, out, err = call(folder / "notes.txt")
    assert (code, out) == (2, "predictions\n")
    assert "notes.txt: not an image that can be read" in err


def test_patterns_and_equal_names(call, folder, tmp_path):
    (folder / "sub").mkdir()
    (folder / "sub" / "a.png").write_bytes((folder / "b.png").read_bytes())
    code, *_ = call(folder / "**" / "a.png", folder / "a.png", "--out", tmp_path / "out")
    assert code == 0
    assert listing(tmp_path / "out") == ["images__a.jpg", "sub__a.jpg"]


def test_images_as_they_are(call, folder, tmp_path):
    def boxes(*words):
        out = tmp_path / f"out{len(words)}"
        assert call(folder, "--json", "--no-draw", "--score", 0, "--out", out, "--batch", 1, *words)[0] == 0
        return json.loads((out / "detections.json").read_text())

    resized, as_they_are = boxes(), boxes("--no-resize")
    # the short side of a.png is what the recipe asks for, that of b.png is not
    assert resized[str(folder / "a.png")] == as_they_are[str(folder / "a.png")]
    assert len(resized[str(folder / "b.png")]) > len(as_they_are[str(folder / "b.png")]) > 0


@pytest.mark.parametrize("place", ["", "out", "deep/er"])
def test_nothing_is_written_among_the_images(call, folder, place):
    before = listing(folder)
    code, out, err = call(folder, "--out", folder / place)
    assert (code, out) == (2, "")
    assert "which is only read; choose another with --out" in err
    assert listing(folder) == before
    if not place:
        assert call(folder / "a.png", "--out", folder)[0] == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("missing.jpg",), "missing.jpg: no such image, folder or pattern"),
        (("FOLDER", "--score", "1.5"), "--score: expected 0 to 1, got 1.5"),
        (("FOLDER", "--nms-iou", "-1"), "--nms-iou: expected 0 to 1, got -1.0"),
        (("FOLDER", "--device", "gpu"), "device 'gpu': expected auto, cpu, cuda, cuda:N or mps"),
        (
            ("FOLDER", "--format", "json,jolo"),
            "--format: expected some of json, coco, polygons, yolo, dota, text, masks, semantic, panoptic, got 'jolo', "
            "did you mean yolo?",
        ),
        (("FOLDER", "--format", "masks"), "predicts boxes and no masks: leave out --format masks"),
        (("FOLDER", "--precision", "int4"), "precision: expected auto, fp32, bf16 or fp16, got 'int4'"),
        (("FOLDER", "--device", "cpu", "--precision", "fp16"), "precision fp16 needs a GPU"),
        (("FOLDER/empty",), "no images in this folder"),
    ],
)
def test_mistakes_are_one_sentence(call, folder, tmp_path, words, sentence):
    (folder / "empty").mkdir()
    code, out, err = call(*(word.replace("FOLDER", str(folder)) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("boxwright: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert listing(tmp_path / "work") == []


def test_precision_is_that_of_the_network(call, folder, tmp_path):
    scores = {}
    for precision in ("fp32", "bf16"):
        words = ("--no-draw", "--json", "--score", 0, "--precision", precision, "--device", "cpu")
        assert call(folder, *words, "--out", tmp_path / precision)[0] == 0
        found = json.loads((tmp_path / precision / "detections.json").read_text())
        scores[precision] = torch.tensor([one["score"] for rows in found.values() for one in rows[:5]])
    assert (scores["fp32"] - scores["bf16"]).abs().max() < 0.01
    assert not torch.equal(scores["fp32"], scores["bf16"])


def test_a_checkpoint_of_something_else(call, folder, tmp_path):
    for checkpoint, sentence in (
        (folder / "a.png", "is not a boxwright checkpoint"),
        (folder, "is a folder"),
        (tmp_path / "none.pt", "no such file"),
    ):
        code, out, err = call(folder, checkpoint=checkpoint)
        assert (code, out) == (2, "")
        assert sentence in err
        assert str(checkpoint) in err


def test_help_names_every_option(call):
    code, out, _ = call("--help")
    assert code == 0
    options = "--out --no-draw --format --score --no-resize --device --precision --engine --workers"
    for option in options.split():
        assert option in out
    for name in FORMATS:  # and not the flags of before, which still work
        assert name in out
        assert f"--{name}" not in out


def test_formats_and_the_flags_of_before_write_the_same(call, folder, tmp_path):
    names = ("json", "coco", "yolo", "text")
    options = ("--no-draw", "--score", 0, "--batch", 1)
    assert call(folder, "--out", tmp_path / "new", *options, "--format", "json,coco, yolo,text")[0] == 0
    assert call(folder, "--out", tmp_path / "old", *options, *(f"--{name}" for name in names))[0] == 0
    files = listing(tmp_path / "new")
    assert files == listing(tmp_path / "old")
    assert "labels/a.txt" in files
    for name in files:
        if (tmp_path / "new" / name).is_file():
            assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "old" / name).read_bytes()


def test_the_help_lists_the_formats_that_there_are():
    for name in FORMATS:
        assert formats_called(name) == (name,)
    with pytest.raises(ValueError, match=r"--format: expected some of json, .*, got ''"):
        formats_called("json,")
