"""From a proposal network to Fast R-CNN through a file, on the command line; and what is refused on the way."""

import json
from pathlib import Path

import numpy as np
import pytest

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes import load_recipe
from boxwright.structures import Classes

QUICK = (
    "model.backbone=mobilenet_v3_small", "model.fpn.channels=8", "data.resize.mode=none", "data.batch_size=2",
    "data.workers=0", "optim.reference_batch=2", "schedule.steps=2", "validation.times=1", "precision=fp32",
)  # fmt: skip


@pytest.fixture
def folder(voc, tmp_path):
    return voc(tmp_path / "data")


def test_a_proposal_network_feeds_fast_rcnn(boxwright, folder, tmp_path):
    runs = tmp_path / "runs"
    run = boxwright("train", "rpn", *QUICK, "--data", folder, "--runs", runs, "--device", "cpu")
    assert "all are one class, object" in run.err
    rpn = Path(run.out.strip())
    evaluated = boxwright("evaluate", rpn, "--data", folder, "--json", "--max-detections", 150)
    figures = json.loads(evaluated.out)
    assert list(figures["per_class"]) == ["object"]
    assert figures["AR1"] <= figures["AR100"] <= figures["AR150"]

    file = tmp_path / "proposals.npz"
    written = boxwright("proposals", rpn, "--data", folder, "--out", file, "--max-proposals", 40, "--device", "cpu")
    assert written.code == 0, written
    assert "proposals for 4 images" in written.out
    arrays = np.load(file, allow_pickle=False)
    assert sorted(arrays["names"].tolist()) == [f"JPEGImages/p{k}.png" for k in range(4)]
    assert arrays["sizes"].tolist() == [[48, 64]] * 4
    assert 0 < arrays["counts"].max() <= 40

    given = ("--data", folder, "--proposals", file, "--device", "cpu")
    run = boxwright("train", "fast-rcnn", *QUICK, *given, "--runs", runs)
    assert run.code == 0, run
    assert "objects have no proposal with an IoU of 0.5 or more in" in run.err
    fast = Path(run.out.strip())
    evaluated = boxwright("evaluate", fast, *given, "--json")
    assert list(json.loads(evaluated.out)["per_class"]) == ["cell", "dot"]
    image = folder / "JPEGImages" / "p0.png"
    out = ("--out", tmp_path / "out", "--json", "--device", "cpu")
    assert boxwright("predict", fast, image, "--proposals", file, *out).code == 0
    boxwright("predict", fast, image, *out).refused("fast_rcnn needs a proposal file")
    boxwright("predict", rpn, image, "--proposals", file, *out).refused("rpn takes no proposal file")
    boxwright("proposals", fast, "--data", folder, "--out", tmp_path / "other.npz").refused("needs proposals itself")
    boxwright("proposals", rpn, "--data", folder, "--out", folder / "p.npz").refused("inside the data folder")
    boxwright("proposals", rpn, "--data", folder, "--out", tmp_path / "p.pkl").refused("ends in .npz")

    other = ("--runs", runs, "--device", "cpu", "--proposals", file)
    boxwright("train", "fcos", *QUICK, "--data", folder, *other).refused("fcos-small finds its own regions")


def test_training_says_which_proposals_it_misses(boxwright, folder, voc, tmp_path):
    boxwright("train", "fast-rcnn", *QUICK, "--data", folder).refused("--proposals FILE", "boxwright proposals")
    missing = tmp_path / "p.npz"
    boxwright("train", "fast-rcnn", *QUICK, "--data", folder, "--proposals", missing).refused("no such proposal file")
    np.savez(missing, names=["JPEGImages/p0.png"], sizes=[[48, 64]], counts=[1], boxes=np.ones((1, 4)), scores=[0.5])
    boxwright("train", "fast-rcnn", *QUICK, "--data", folder, "--proposals", missing).refused(
        "no proposals for 3 of 4 images, first", "p1.png"
    )
    np.savez(
        missing, names=[f"p{k}.png" for k in range(4)], sizes=[[9, 9]] * 4, counts=[0] * 4, boxes=np.ones((0, 4)),
        scores=[],
    )  # fmt: skip
    boxwright("train", "fast-rcnn", *QUICK, "--data", folder, "--proposals", missing).refused("9 x 9 pixels", "48 x 64")


def test_images_that_cannot_be_read_are_said_and_the_others_are_done(boxwright, folder, tmp_path):
    recipe = load_recipe("rpn-shapes", ["model.fpn.channels=16"])
    model = recipe.build_model(1)
    save_checkpoint(Checkpoint(recipe, Classes.named(["object"]), model.state_dict()), tmp_path / "rpn.pt")
    broken = folder / "JPEGImages" / "p1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    done = boxwright("proposals", tmp_path / "rpn.pt", "--data", folder, "--out", tmp_path / "p.npz", "--device", "cpu")
    assert done.code == 2, done
    assert "proposals for 3 images" in done.out
    assert f"boxwright: {broken}: the image is damaged" in done.err
    boxwright("proposals", tmp_path / "rpn.pt", "--data", "nowhere", "--out", "p.npz").refused("nowhere: no such data")
