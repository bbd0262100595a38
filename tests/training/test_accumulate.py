"""Gradient accumulation: two steps of twice two images are two steps of four, through the whole command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training.run import train

pytestmark = pytest.mark.usefixtures("without_charts")

# 64 channels: with fewer group norm has one channel a group, and the gradient of the bias before it is exactly 0
SETTINGS = (
    "schedule.steps=2", "schedule.warmup_steps=0", "validation.times=1", "optim.reference_batch=4", "precision=fp32",
    "model.fpn.channels=64", "model.head.stem_channels=[64]", "model.backbone.norm=frozen_bn", "data.workers=0",
    "data.train_scales=[]", "data.augment.iou_crop=0", "data.augment.horizontal_flip=0", "optim.kind=sgd",
    "optim.lr=0.005", "optim.momentum=0.9", "optim.clip_norm=null",
)  # fmt: skip


def data_with_the_same_boxes(folder: Path) -> Path:
    """Different images, of which any two hold as many positives: losses are divided by those of each batch."""
    write_shapes(folder, 8, 2, "coco", ShapesConfig(size=96), 0)
    ground_truth = folder / "annotations" / "instances_train.json"
    content = json.loads(ground_truth.read_text())
    boxes = ([8, 8, 30, 24], [40, 30, 50, 60])
    content["annotations"] = [
        {"id": 2 * n + k, "image_id": image["id"], "category_id": content["categories"][k]["id"], "bbox": box,
         "area": box[2] * box[3], "iscrowd": 0}
        for n, image in enumerate(content["images"]) for k, box in enumerate(boxes)
    ]  # fmt: skip
    ground_truth.write_text(json.dumps(content))
    return folder


def trained(folder: Path, batch: int, accumulate: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The state of a run at its end, and its row of numbers."""
    settings = [*SETTINGS, f"data.batch_size={batch}", f"optim.accumulate={accumulate}"]
    run = train("fcos-shapes", folder / "data", overrides=settings, runs=folder / "runs", device="cpu").folder
    state = load_checkpoint(run / "weights" / "last.pt").training
    assert state is not None
    (row,) = (json.loads(line) for line in (run / "results.jsonl").read_text().splitlines())
    return state, row


@pytest.mark.e2e
def test_two_steps_of_twice_two_images_are_two_steps_of_four(tmp_path: Path) -> None:
    data_with_the_same_boxes(tmp_path / "data")
    (whole, row), (halves, row_of_halves) = trained(tmp_path, 4, 1), trained(tmp_path, 2, 2)
    assert whole["progress"]["step"] == halves["progress"]["step"] == 2
    for key, value in whole["model"].items():  # float32 sums in another order
        torch.testing.assert_close(halves["model"][key], value, rtol=1e-4, atol=1e-6, msg=key)
    for key, value in whole["optimizer"]["state"].items():  # the gradients, added up
        theirs, scale = halves["optimizer"]["state"][key]["momentum_buffer"], value["momentum_buffer"].abs().max()
        assert scale > 0
        torch.testing.assert_close(theirs, value["momentum_buffer"], rtol=1e-3, atol=float(scale) * 1e-3)
    for key in ("train/loss", "train/classification", "train/box", "val/loss"):
        assert row_of_halves[key] == pytest.approx(row[key], rel=1e-4)
