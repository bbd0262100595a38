"""One small detector, written once in every format, and its images."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.export import ExportedProgram

from boxwright.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from boxwright.deploy.export.graph import detector_graph, record
from boxwright.deploy.export.onnx import write_onnx
from boxwright.deploy.export.openvino import write_openvino
from boxwright.deploy.export.program import write_program
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe
from boxwright.runtime.description import Description
from boxwright.structures import Classes, ImageBatch

CLASSES = Classes(("cell", "dot", "ring"), (3, 7, 1))
SETTINGS = (
    "model.backbone=resnet18",
    "model.fpn.channels=16",
    "model.head.stem_channels=[16]",
    "model.head.norm=none",
    "data.resize.size=96",
    "data.resize.max_size=160",
    "precision=fp32",
)
EXTRAS = ("onnx", "onnxscript", "onnxruntime", "openvino")


def scene(height, width, seed):
    """An image (H, W, 3) of discs on a gradient."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(np.linspace(40, 180, height * width * 3).reshape(height, width, 3).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, radius = rng.integers(0, width), rng.integers(0, height), rng.integers(6, 25)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(rng.integers(0, 255, 3).tolist()))
    return np.array(image)


@pytest.fixture(scope="session")
def images():
    """Images of four sizes, wide and tall, odd and small."""
    return [scene(h, w, seed) for seed, (h, w) in enumerate([(96, 128), (96, 128), (131, 97), (61, 75), (160, 90)])]


@pytest.fixture(scope="session")
def labelled(images, tmp_path_factory) -> Path:
    """The first three images with a box each, in YOLO's layout: one to train on, and two to validate with."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "data.yaml").write_text(f"names: {list(CLASSES.names)}\n")
    for number, pixels in enumerate(images[:3]):
        split = "val" if number else "train"
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / split / f"{number}.png")
        (folder / "labels" / split / f"{number}.txt").write_text("1 0.5 0.5 0.4 0.4\n")
    return folder


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory) -> Path:
    """An FCOS of random weights."""
    return scaled_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pt")


@pytest.fixture(scope="session")
def wide_file(tmp_path_factory) -> Path:
    """The same with a pyramid and towers that are wide enough for Winograd's algorithm."""
    wide = ("model.fpn.channels=128", "model.head.stem_channels=[128]")
    return scaled_checkpoint(tmp_path_factory.mktemp("checkpoint") / "wide.pt", wide)


def scaled_checkpoint(path, settings=()):
    """Predictors are scaled so that scores and boxes differ from place to place."""
    torch.manual_seed(0)
    recipe = load_recipe("fcos-small", [*SETTINGS, *settings])
    model = recipe.build_model(len(CLASSES)).eval()
    with torch.no_grad():
        outputs = model(ImageBatch.of([torch.from_numpy(scene(96, 128, 0)).permute(2, 0, 1)]))
        for layer, values, spread, middle in (
            (model.head.class_logits, outputs.class_logits, 1.5, -1.0),
            (model.head.centerness, outputs.centerness_logits, 1.0, 0.5),
            (model.head.box_distances, outputs.distances.log(), 0.4, 0.7),
        ):
            layer.weight.mul_(spread / float(values.std()))
            layer.bias.fill_(middle)
    save_checkpoint(Checkpoint(recipe, CLASSES, model.state_dict(), score_threshold=0.6), path)
    return path


@pytest.fixture(scope="session")
def detector(checkpoint_file) -> Detector:
    return Detector.load(checkpoint_file, "cpu", precision="fp32")


@pytest.fixture(scope="session")
def recorded(checkpoint_file) -> tuple[ExportedProgram, Description]:
    """The detector as a program, of which recording takes seconds, and its description."""
    graph, description = detector_graph(load_checkpoint(checkpoint_file))
    return record(graph, description), description


@pytest.fixture(scope="session")
def exported(recorded, tmp_path_factory) -> dict[str, Path]:
    """Files of one recording, by their endings."""
    for package in EXTRAS:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    folder = tmp_path_factory.mktemp("exported")
    program, description = recorded
    files = {name: folder / f"tiny.{name}" for name in ("onnx", "xml", "pt2")}
    write_onnx(program, files["onnx"], description)
    write_openvino(files["onnx"], files["xml"], description)
    write_program(program, files["pt2"], description)
    return files
