"""`boxwright serve`: what is refused before it starts."""

import pytest
import torch

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes import load_recipe
from boxwright.structures import Classes


@pytest.fixture
def fast_rcnn(tmp_path):
    torch.manual_seed(0)
    recipe = load_recipe("fast-rcnn-small", ["model.backbone=mobilenet_v3_small", "model.fpn.channels=8"])
    model = recipe.build_model(2)
    save_checkpoint(Checkpoint(recipe, Classes(("a", "b"), (1, 2)), model.state_dict()), tmp_path / "fast.pt")
    return tmp_path / "fast.pt"


def test_a_detector_that_needs_proposals_is_refused(boxwright, fast_rcnn):
    ended = boxwright("serve", fast_rcnn, "--port", 0, "--device", "cpu")
    ended.refused(str(fast_rcnn), "fast_rcnn needs proposals for every image and cannot be served")
    assert ended.out == ""


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("none.pt", "--port", 0), ("none.pt: no such file",)),
        (("none.pt", "--score", 2), ("--score: expected 0 to 1, got 2.0",)),
        (("none.pt", "--host", "nowhere.invalid", "--port", 0), ("--host nowhere.invalid", "no such address")),
    ],
)
def test_mistakes_are_one_sentence(boxwright, words, parts):
    boxwright("serve", *words).refused(*parts)


def test_without_the_extra_it_says_how_to_get_it(boxwright, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    boxwright("serve", "none.pt", "--port", 0).refused("uvicorn", "pip install 'boxwright[serve]'")


def test_it_says_what_it_serves(boxwright, monkeypatch):
    known = {"name": "a.pt", "detector": "panoptic_fpn", "classes": [{"category_id": 1}], "runtime": "torch",
             "stuff": [{"category_id": key} for key in (None, 2, 3)], "precision": "fp32", "device": "cpu"}  # fmt: skip

    def served(*given, ready, **options):
        ready("http://127.0.0.1:1", known)

    monkeypatch.setattr("boxwright.deploy.serve.server.serve", served)
    ended = boxwright("serve", "a.pt")
    assert ended.out == "http://127.0.0.1:1\n"
    assert "a.pt (panoptic_fpn, 3 classes, torch fp32 on cpu)" in ended.err
