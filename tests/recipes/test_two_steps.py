"""Every recipe is built and trained for two steps on tiny pictures, from files to a measured checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.data.shapes import ShapesConfig, write_shapes
from boxwright.models import MODELS
from boxwright.recipes import load_recipe, recipe_names
from boxwright.structures import ImageBatch, Targets, Truth
from boxwright.training.optim import apply_lr, build_optimizer
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
# a gigabyte of checkpoints: its whole run is for `make test-long`, its steps alone for every day
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


@pytest.mark.parametrize("name", sorted(HUGE))
def test_a_huge_recipe_takes_two_steps_in_memory(name: str) -> None:
    recipe = load_recipe(name, TINY)
    torch.manual_seed(0)
    model = MODELS[recipe.model.name].build(recipe.model_config_of(num_classes=3)).train()
    optimizer = build_optimizer(model, recipe.optim)
    apply_lr(optimizer, recipe.optim.lr)
    images = ImageBatch.of([torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)])
    targets = Targets.of([Truth.of([[8, 8, 40, 50]], [1]), Truth.empty()])
    before = model.head.class_logits.weight.detach().clone()
    for _ in range(2):
        losses = model.loss(model(images), targets)
        total = torch.stack([value for key, value in losses.items() if not key.endswith("_floor")]).sum()
        assert torch.isfinite(total)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert not torch.equal(before, model.head.class_logits.weight)
