"""Every recipe is built and trained for two steps on tiny pictures, from files to a measured checkpoint."""

import json
from pathlib import Path

import pytest

from boxwright.checkpoint import load_checkpoint
from boxwright.data.shapes import ShapesConfig, write_shapes
from boxwright.recipes import load_recipe, recipe_names
from boxwright.training.run import train

# what makes a recipe tiny; everything else is the recipe's own
TINY = (
    "model.backbone_weights=null",
    "data.resize.mode=none",
    "data.batch_size=2",
    "data.workers=0",
    "optim.reference_batch=2",
    "schedule.steps=2",
    "validation.times=1",
    "precision=fp32",
)
# hundreds of megabytes of weights: written, read and thrown away
HUGE = {"fcos-x101-32x8d-fpn-2x-improved"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "data"
    write_shapes(folder, 4, 2, "voc", ShapesConfig(size=64, num_classes=3, max_objects=3), seed=0)
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in HUGE else name for name in recipe_names()]
)
def test_a_recipe_trains_two_steps(name: str, shapes: Path, tmp_path: Path) -> None:
    result = train(name, shapes, overrides=TINY, runs=tmp_path, device="cpu")
    assert result.finished
    rows = [json.loads(line) for line in (result.folder / "results.jsonl").read_text().splitlines()]
    losses = [value for row in rows for key, value in row.items() if key.startswith("train/")]
    assert losses
    assert all(0 <= value < 1e4 for value in losses)
    assert 0 <= result.metrics["AP"] <= 1
    checkpoint = load_checkpoint(result.last)
    assert checkpoint.training["progress"]["step"] == 2
    assert checkpoint.recipe == load_recipe(name, TINY)
    assert type(checkpoint.build()).__name__ == "FCOS"
    # pytest keeps the folders of three sessions, and these files are large
    for file in (result.folder / "weights").iterdir():
        file.unlink()
