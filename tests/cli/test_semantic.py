"""A model that labels pixels and finds no objects, on the command line."""

from pathlib import Path

import pytest
from PIL import Image

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes import load_recipe
from boxwright.structures import Classes


@pytest.mark.parametrize("option", ["--score", "--nms-iou", "--max-detections"])
def test_options_on_detections_are_refused_and_nothing_is_written(boxwright, option):
    recipe = load_recipe("semantic-fpn-small", ["model.semantic.num_classes=2", "model.semantic.channels=8"])
    classes = Classes((), (), stuff=("sky", "road"))
    save_checkpoint(Checkpoint(recipe, classes, recipe.build_model(0).state_dict()), Path("best.pt"))
    Image.new("RGB", (50, 70)).save("a.png")
    done = boxwright("predict", "best.pt", "a.png", option, "1", "--out", "found")
    assert done.code == 2
    assert f"semantic_fpn labels pixels and finds no objects: leave out {option}" in done.err
    assert not Path("found").exists()
