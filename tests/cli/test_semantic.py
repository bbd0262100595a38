"""A model that labels pixels and finds no objects, on the command line."""

from pathlib import Path

import pytest
from PIL import Image

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes import load_recipe
from boxwright.structures import Classes


@pytest.fixture(autouse=True)
def checkpoint(boxwright):
    """`best.pt`, of two labels, in the folder that commands run in."""
    recipe = load_recipe("semantic-fpn-small", ["model.semantic.num_classes=2", "model.semantic.channels=8"])
    classes = Classes((), (), stuff=("sky", "road"))
    save_checkpoint(Checkpoint(recipe, classes, recipe.build_model(0).state_dict()), Path("best.pt"))


@pytest.mark.parametrize("option", ["--score", "--nms-iou", "--max-detections"])
def test_options_on_detections_are_refused_and_nothing_is_written(boxwright, option):
    Image.new("RGB", (50, 70)).save("a.png")
    done = boxwright("predict", "best.pt", "a.png", option, "1", "--out", "found")
    assert done.code == 2
    assert f"semantic_fpn labels pixels and finds no objects: leave out {option}" in done.err
    assert not Path("found").exists()


def test_of_a_video_it_says_that_frames_are_labelled(boxwright):
    av = pytest.importorskip("av", reason="pip install 'boxwright[video]'")
    with av.open("a.mp4", "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for _ in range(2):
            file.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 64)))))
        file.mux(stream.encode())
    done = boxwright("predict", "best.pt", "a.mp4", "--out", "found", "--no-draw")
    assert done.code == 0, done.err
    assert "a label for each pixel of 2 frames" in done.err


@pytest.mark.parametrize("option", ["--iou", "--score-threshold", "--nms-iou", "--max-detections"])
def test_evaluate_refuses_them_too(boxwright, option):
    done = boxwright("evaluate", "best.pt", "--data", ".", option, "1")
    assert done.code == 2
    assert f"semantic_fpn labels pixels and finds no objects: leave out {option}" in done.err
