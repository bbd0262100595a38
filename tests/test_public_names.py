"""The public face: every name of the package is there, has its real type for a type checker, and does what it says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import boxwright
from boxwright.models import MODELS
from boxwright.structures import DetectSettings

HERE = Path(__file__).resolve().parents[1]
SNIPPET = """
from pathlib import Path

import torch
from PIL import Image

import boxwright

recipe = boxwright.load_recipe("fcos", ["optim.lr=0.01"])
names: list[str] = boxwright.list_recipes()
model = boxwright.build("fcos", ["model.fpn.channels=32"], num_classes=3)
images = boxwright.ImageBatch.of([torch.zeros(3, 64, 64)])
truth = boxwright.GroundTruth.of([[1, 2, 30, 40]], [0])
losses: dict[str, torch.Tensor] = model.loss(model(images), boxwright.Targets.of([truth]))
proposals = boxwright.Proposals.of([torch.zeros(1, 4)])

class Mine(boxwright.Hook):
    pass

result = boxwright.train("fcos", "data", minutes=10, hooks=[Mine()])
detector: boxwright.Detector = boxwright.load(result.best)
(found,) = detector.predict("street.jpg", score=0.5, batch=2, resize=None)
for one in found:
    box: tuple[float, float, float, float] = one.box
    text: str = f"{one.name} {one.score:.2f} {one.label}"
first: boxwright.Detection = found[0]
strong: boxwright.Detections = found[found.scores > 0.5][:3][[0, 1]]
drawing: Image.Image = strong.draw("street.jpg", scale=2.0)
other: Image.Image = boxwright.draw(Image.open("street.jpg"), truth, classes=boxwright.Classes.named(["cat"]))
rows: list[dict[str, object]] = found.to_coco()
frames = (torch.zeros(3, 64, 64) for _ in range(3))
total: int = sum(len(one) for one in detector.stream(frames, window=2))
figures = boxwright.evaluate(detector, "data", "test", metric="voc").figures
file: Path = boxwright.export(result.best, "best.xml", boxwright.ExportOptions(format="openvino")).path
version: str = boxwright.__version__
"""
WRONG = """
import boxwright

detector = boxwright.load("best.pt")
detector.predict("street.jpg", scor=0.5)
detector.predict("street.jpg", batch="two")
boxwright.build("fcos")
boxwright.export("best.pt", "best.onnx", boxwright.ExportOptions(format="onnxx"))
found = detector.predict("street.jpg")[0]
found[0].boxes
boxwright.evaluate(detector, "data").figure
boxwright.nothing
"""
MISTAKES = ("scor=0.5)", "batch='two')", "build('fcos')", "format='onnxx'))", "[0].boxes", ".figure", ".nothing")


def test_a_type_checker_knows_every_public_name_and_sees_mistakes(tmp_path):
    pytest.importorskip("mypy")
    used = {node.attr for node in ast.walk(ast.parse(SNIPPET)) if isinstance(node, ast.Attribute)}
    assert set(boxwright.__all__) <= used
    files = [tmp_path / "right.py", tmp_path / "wrong.py"]
    for file, text in zip(files, (SNIPPET, WRONG), strict=True):
        file.write_text(text)
    words = [
        "--strict",
        "--config-file",
        HERE / "pyproject.toml",
        "--cache-dir",
        HERE / ".mypy_cache",
        "--no-error-summary",
        "--hide-error-context",
        *files,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=HERE,
    )
    assert not done.stderr
    lines = [line.split(":")[:2] for line in done.stdout.splitlines()]
    assert [name for name, _ in lines if not name.endswith("wrong.py")] == [], done.stdout
    statements = {node.lineno for node in ast.parse(WRONG).body if ast.unparse(node).endswith(MISTAKES)}
    assert {int(line) for _, line in lines} == statements


def test_every_public_name_is_there():
    assert set(boxwright.__all__) == {*boxwright._HOMES, "__version__"}
    for name in boxwright.__all__:
        assert getattr(boxwright, name) is not None
        assert name in dir(boxwright)
    assert boxwright.load == boxwright.Detector.load
    with pytest.raises(AttributeError, match="module 'boxwright' has no attribute 'nothing'"):
        boxwright.nothing  # noqa: B018


def test_the_type_checkers_names_are_those_of_python():
    """Each import under TYPE_CHECKING leads to the object that the name gives."""
    tree = ast.parse(Path(boxwright.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {"__version__", "load"}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            module = __import__(node.module, fromlist=["_"])
            for alias in node.names:
                name = alias.asname or alias.name
                assert getattr(boxwright, name) is getattr(module, alias.name)
                seen.add(name)
    assert seen == set(boxwright.__all__)


@pytest.mark.parametrize("name", ["fcos", "faster_rcnn", "fcos-small"])
def test_a_detector_is_built_by_its_name(name):
    model = boxwright.build(name, num_classes=2)
    assert type(model) is MODELS[name.removesuffix("-small")].build
    images = boxwright.ImageBatch.of([torch.rand(3, 64, 96)])
    (found,) = model.eval().detect(model(images), images, DetectSettings(score_threshold=0.0, max_detections=5))
    assert len(found) == 5
    assert found.labels.max() < 2


def test_the_name_of_every_detector_is_that_of_a_recipe():
    for name in MODELS:
        assert boxwright.load_recipe(name.replace("_", "-")).model.name == name


def test_what_cannot_be_built_is_one_sentence():
    with pytest.raises(ValueError, match=r"no recipe 'fcso'; did you mean fcos\?"):
        boxwright.build("fcso", num_classes=2)
    with pytest.raises(ValueError, match=r"model.fpn_channel: unknown key, did you mean"):
        boxwright.build("fcos", ["model.fpn_channel=32"], num_classes=2)
    with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
        boxwright.build("fcos", num_classes=0)
