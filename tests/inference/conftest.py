"""A small detector with random but lively weights, saved as a checkpoint, and images to feed it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.cli import main
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, ImageBatch

CLASSES = Classes(("cell", "dot", "ring"), (3, 7, 1))
SMALL = ("model.fpn.channels=16", "model.head.stem_channels=[16]", "model.head.norm=none", "data.resize.size=96",
         "data.resize.max_size=160", "precision=fp32")  # fmt: skip


def draw_scene(height: int, width: int, seed: int) -> np.ndarray:
    """An image (H, W, 3) of discs on a gradient."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(np.linspace(40, 180, height * width * 3).reshape(height, width, 3).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, radius = rng.integers(0, width), rng.integers(0, height), rng.integers(6, 25)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(rng.integers(0, 255, 3).tolist()))
    return np.array(image)


def _liven(model, pixels: np.ndarray) -> None:
    """Scale the predictors so that scores and boxes differ from place to place, as in a trained detector."""
    head = model.head
    images = ImageBatch.of([torch.from_numpy(pixels).permute(2, 0, 1)])
    with torch.no_grad():
        outputs = model.eval()(images)
        for layer, values, spread, middle in (
            (head.class_logits, outputs.class_logits, 1.5, -1.0),
            (head.centerness, outputs.centerness_logits, 1.0, 0.5),
            (head.box_distances, outputs.distances.log(), 0.4, 0.7),
        ):
            factor = spread / float(values.std())
            layer.weight.mul_(factor)
            layer.bias.fill_(middle)


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    recipe = load_recipe("fcos-small", SMALL)
    model = recipe.build_model(len(CLASSES))
    _liven(model, draw_scene(96, 128, 0))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(Checkpoint(recipe, CLASSES, model.state_dict(), score_threshold=0.6), path)
    return path


@pytest.fixture(scope="session")
def detector(checkpoint_file) -> Detector:
    return Detector.load(checkpoint_file, "cpu")


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    """Three images of one size."""
    return [draw_scene(96, 128, seed) for seed in range(3)]


@pytest.fixture(scope="session")
def scene():
    """Makes an image (H, W, 3) of a height, a width and a seed."""
    return draw_scene


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs `boxwright explain` in this process: exit code, standard output, standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["boxwright", "explain", *map(str, words)])
        try:
            main.run()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
