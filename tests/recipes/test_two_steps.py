"""Every recipe is built and trained for two steps on tiny images, from files to a measured checkpoint."""

import json
import re
from pathlib import Path

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.data.proposals import write_proposals
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.models import MODELS
from boxwright.nn.resnet import BLOCKS
from boxwright.recipes import load_recipe, recipe_names
from boxwright.structures import Detections
from boxwright.training.run import train

pytestmark = pytest.mark.usefixtures("without_charts")

# what makes a recipe tiny; everything else is the recipe's own
TINY = (
    "model.backbone.weights=null",
    "data.resize.mode=none",
    "data.batch_size=2",
    "data.workers=0",
    "optim.reference_batch=2",
    "schedule.steps=2",
    "validation.times=1",
    "precision=fp32",
    "detect.max_detections=20",
)
# the published recipes have the depth and the heads that they say, on a backbone of a thirtieth of its weights; with
# all of them it is for `make test-long`
SLIM = "model.backbone.widths=[8,32,8,1]"
# frozen statistics of random weights let the maps of a hundred layers grow beyond measure
SLIM_REGIONS = ("model.backbone.norm=bn", "model.box.fc_channels=[32]", "model.box.samples=16")
PUBLISHED = [name for name in recipe_names() if load_recipe(name).model.backbone.name in BLOCKS]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each layout; the one in COCO layout has masks."""
    folders = {}
    for layout in ("voc", "coco"):
        folders[layout] = tmp_path_factory.mktemp("shapes") / layout
        write_shapes(folders[layout], 4, 2, layout, ShapesConfig(size=64, num_classes=3, max_objects=3), seed=0)
    folders["dota"] = tmp_path_factory.mktemp("shapes") / "dota"
    turned = ShapesConfig(size=64, num_classes=3, max_objects=3, rotated=True)
    write_shapes(folders["dota"], 4, 2, "dota", turned, seed=0)
    folders["panoptic"] = tmp_path_factory.mktemp("shapes") / "panoptic"
    textured = ShapesConfig(size=64, num_classes=3, max_objects=3, stuff=True)
    write_shapes(folders["panoptic"], 4, 2, "panoptic", textured, seed=0)
    return folders


def slim(name: str) -> tuple[str, ...]:
    """Settings that make a published recipe small."""
    regions = hasattr(load_recipe(name).model, "box")
    return (SLIM, *SLIM_REGIONS) if regions else (SLIM,)


def stored_proposals(folder: Path, file: Path) -> Path:
    """A proposal file with the same boxes for every image."""
    paths = sorted((folder / "JPEGImages").iterdir())
    boxes = torch.tensor([[float(x), float(y), x + 24.0, y + 24.0] for x in (0, 20, 40) for y in (0, 20, 40)])
    found = [Detections(boxes, torch.ones(9), torch.zeros(9, dtype=torch.int64), (64, 64))] * len(paths)
    write_proposals(file, zip((path.relative_to(folder).as_posix() for path in paths), found, strict=True))
    return file


def two_steps(name: str, overrides: tuple[str, ...], folders: dict[str, Path], runs: Path) -> None:
    entry = MODELS[load_recipe(name).model.name]
    folder = folders["coco" if entry.needs_masks or entry.needs_keypoints else "voc"]
    folder = folders["dota"] if entry.needs_rotated else folders["panoptic"] if entry.needs_semantic else folder
    if entry.needs_keypoints:
        overrides = (*overrides, "model.keypoint.num_keypoints=5", "model.keypoint.conv_channels=[16]")
    proposals = stored_proposals(folder, runs / "proposals.npz") if entry.needs_proposals else None
    result = train(name, folder, overrides=overrides, runs=runs, device="cpu", proposals=proposals)
    assert result.finished
    rows = [json.loads(line) for line in (result.folder / "results.jsonl").read_text().splitlines()]
    losses = [value for row in rows for key, value in row.items() if key.startswith("train/")]
    assert losses
    assert all(0 <= value < 1e4 for value in losses)
    assert 0 <= result.metrics["AP" if entry.detects else "mIoU"] <= 1
    checkpoint = load_checkpoint(result.last)
    assert checkpoint.training["progress"]["step"] == 2
    if entry.needs_semantic:
        overrides = (*overrides, "model.semantic.num_classes=5")  # that of the data, which training writes down
    assert checkpoint.recipe == load_recipe(name, overrides)
    assert type(checkpoint.build()) is entry.build
    # pytest keeps the folders of three sessions, and these files are large
    for file in (result.folder / "weights").iterdir():
        file.unlink()


LIKE_ANOTHER = re.compile(
    r"-(r101|x101|dc5|3x|shapes|lvis|cityscapes)\b|^(retinanet|faster-rcnn|mask-rcnn|fcos-mask)-(medium|lite)$"
    r"|^(semantic-fpn|panoptic-fpn|rotated-faster-rcnn)-r50-"
)
"""Other sizes, lengths and images of recipes that are tried: for `make test-long`."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if LIKE_ANOTHER.search(name) else name for name in recipe_names()],
)
def test_a_recipe_trains_two_steps(name: str, shapes: dict[str, Path], tmp_path: Path) -> None:
    two_steps(name, (*TINY, *slim(name)) if name in PUBLISHED else TINY, shapes, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_trains_two_steps_at_its_full_width(
    name: str, shapes: dict[str, Path], tmp_path: Path
) -> None:
    two_steps(name, TINY, shapes, tmp_path)
