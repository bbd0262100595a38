"""Tiles through the command line: trained on, evaluated and predicted with, and refused with a sentence."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.deploy.serve.batching import Batcher
from boxwright.deploy.serve.uploads import Limits, Upload, image_of
from boxwright.inference.predictor import Detector
from boxwright.ops.tiling import Tiling
from boxwright.recipes import load_recipe
from boxwright.recipes.fine_tuning import fine_tuning_recipe
from boxwright.structures import Classes

SMALL = ("model.fpn.channels=16", "model.head.stem_channels=[16]", "data.resize.size=64", "data.workers=0",
         "precision=fp32")  # fmt: skip
SHORT = ("data.batch_size=4", "optim.reference_batch=4", "validation.times=1", "schedule.steps=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of 128 pixels, which tiles of 64 with an overlap of 0.25 cut into nine."""
    root = tmp_path_factory.mktemp("tiles") / "data"
    write_shapes(root, 3, 2, "coco", ShapesConfig(size=128, num_classes=2, min_objects=3, max_pixels=40))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    recipe = load_recipe("fcos-small", SMALL)
    path = tmp_path_factory.mktemp("tiles") / "tiny.pt"
    classes = Classes.named(["circle", "square"], first_id=1)
    save_checkpoint(Checkpoint(recipe, classes, recipe.build_model(2).state_dict(), score_threshold=0.01), path)
    return path


def test_a_run_on_tiles_reports_what_evaluate_says_of_its_checkpoint_and_predict_cuts_as_it_was_trained(
    boxwright, data, tmp_path
):
    tiles = ("data.tiles.size=64", "data.tiles.overlap=0.25")
    run = boxwright("train", "fcos-small", *SMALL, *SHORT, *tiles, "--data", data, "--runs", tmp_path / "runs")
    assert run.code == 0, run
    assert "data: 3 images cut into 27 tiles of 64 pixels" in run.err
    assert "tiles to train on (train), 2 to validate on (val)" in run.err
    (folder,) = (tmp_path / "runs").iterdir()
    evaluated = boxwright("evaluate", folder / "weights" / "last.pt", "--data", data, "--json")
    report = json.loads((folder / "metrics.json").read_text())
    assert json.loads(evaluated.out)["AP"] == report["AP"]
    assert json.loads(evaluated.out)["per_class"] == report["per_class"]
    whole = boxwright("evaluate", folder / "weights" / "last.pt", "--data", data, "--json", "--tiles", 0)
    assert json.loads(whole.out)["per_class"] != report["per_class"]
    detector = Detector.load(folder / "weights" / "last.pt", "cpu")
    assert detector.tiling == Tiling(64, 0.25)
    assert fine_tuning_recipe(detector.recipe).data.tiles == detector.recipe.data.tiles


def test_predict_writes_objects_in_the_pixels_of_the_whole_image(boxwright, checkpoint, tmp_path):
    Image.effect_noise((200, 120), 90).convert("RGB").save(tmp_path / "large.png")
    ended = boxwright(
        "predict", checkpoint, tmp_path / "large.png", "--tiles", 64, "--overlap", 0.5, "--format", "json", "--out",
        "found",
    )  # fmt: skip
    assert ended.code == 0, ended
    (rows,) = json.loads((tmp_path / "here" / "found" / "detections.json").read_text()).values()
    (found,) = Detector.load(checkpoint, "cpu").predict(tmp_path / "large.png", tiles=64, overlap=0.5)
    assert [row["box"] for row in rows] == [list(one.box) for one in found]
    assert max(row["box"][2] for row in rows) > 128  # beyond the first tiles
    with Image.open(tmp_path / "here" / "found" / "large.jpg") as drawn:
        assert drawn.size == (200, 120)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--tiles", 8), ("tiles: expected a side of at least 16 pixels, got 8",)),
        (("--tiles", 64, "--overlap", 100), ("overlap: expected a share", "more than the tile of 64")),
        (("--tiles", 640, "--overlap", 64), ("64 of 640 pixels are 0.1",)),
        (("--overlap", 0.2), ("overlap: goes with tiles in pixels", "images are not cut")),
        (("--tiles", 0, "--overlap", 0.2), ("images are not cut",)),
    ],
)
def test_tiles_that_cannot_be_are_refused(boxwright, checkpoint, data, tmp_path, options, parts):
    Image.new("RGB", (80, 80)).save(tmp_path / "a.png")
    boxwright("predict", checkpoint, tmp_path / "a.png", *options).refused(*parts)
    boxwright("evaluate", checkpoint, "--data", data, *options).refused(*parts)


def test_tiles_are_refused_where_nothing_is_cut(boxwright, checkpoint, data, tmp_path):
    files = ("--ground-truth", data, "--detections", data / "x.json")
    boxwright("evaluate", *files, "--tiles", 64).refused("--tiles")
    boxwright("predict", checkpoint, tmp_path, "--engine", "ray", "--out", "o", "--tiles", 64).refused(
        "--engine ray does not support --tiles"
    )


def test_a_detector_that_takes_proposals_refuses_tiles(boxwright, data):
    boxwright("train", "fast-rcnn-small", "data.tiles.size=64", "--data", data).refused(
        "data.tiles: fast-rcnn-small takes proposals of whole images: it cannot be trained on tiles"
    )


def test_settings_of_tiles_are_checked_with_the_recipe(boxwright, data):
    boxwright("train", "fcos-small", "data.tiles.size=8", "--data", data).refused("data.tiles.size", "16")
    boxwright("train", "fcos-small", "data.tiles.overlap=0.95", "--data", data).refused("data.tiles.overlap", "0.9")
    boxwright("train", "fcos-small", "data.tiles.sise=64", "--data", data).refused("data.tiles.sise", "size")


def test_the_python_of_the_page_runs(checkpoint, data, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "tiles.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```", page)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "FOLDER")
    Path("runs/fcos-small/weights").mkdir(parents=True)
    shutil.copy(checkpoint, "runs/fcos-small/weights/best.pt")
    Image.effect_noise((700, 80), 90).convert("RGB").save("large.jpg")
    names = {}
    exec(compile(code, "tiles.md", "exec"), names)
    assert torch.equal(names["found"].boxes, names["same"].boxes)
    assert len(names["found"]) != len(names["whole"])
    assert len(names["result"].detections) == 2
    assert Path("drawn.jpg").exists()


def test_the_server_cuts_what_it_is_sent_into_the_tiles_of_its_detector(checkpoint, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (80, 200, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    detector = Detector.load(checkpoint, "cpu")
    (expected,) = detector.predict(pixels, tiles=64)
    detector.tiling = Tiling(64)
    upload = Upload("large.png", (tmp_path / "large.png").read_bytes())
    image = image_of(upload, Limits(), detector.resize, detector.value_range, detector.tiling)
    batcher = Batcher(detector, batch=4, wait_seconds=0.0)
    batcher.start()
    settings = detector.settings_with()
    found = [batcher.submit(image, settings).result(timeout=60) for _ in range(2)]
    batcher.close()
    assert all(torch.equal(one.boxes, expected.boxes) for one in found)


def test_an_estimate_times_a_few_batches_of_tiles_and_no_more(boxwright, data, monkeypatch):
    timed = []
    monkeypatch.setattr("boxwright.training.estimate.validate", lambda _detector, _images, limit: timed.append(limit))
    words = ("train", "fcos-small", *SMALL, *SHORT, "data.tiles.size=64", "data.tiles.overlap=0.25", "--data", data)
    assert boxwright(*words, "--estimate").code == 0
    assert timed == [1, 1]  # an image has nine tiles, more than two batches of four
