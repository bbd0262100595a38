"""Two gloo processes on one machine: the same losses and weights as one process with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.data.shapes import ShapesConfig, write_shapes

SETTINGS = [
    "schedule.steps=6", "schedule.warmup_steps=1", "validation.times=2", "optim.reference_batch=4",
    "precision=fp32", "model.fpn_channels=16", "model.stem_channels=[16]", "model.backbone_norm=frozen_bn",
    "detect.max_detections=20", "data.workers=0", "ema_decay=0.5",
    # AdamW would turn the rounding of gradients that are zero in truth (a bias before a norm) into whole steps
    "optim.kind=sgd", "optim.lr=0.01",
]  # fmt: skip


def run(folder: Path, name: str, launcher: list[str], batch: int) -> Path:
    command = [
        sys.executable, *launcher, "-m", "boxwright", "train", "fcos-shapes", *SETTINGS, f"data.batch_size={batch}",
        "--data", str(folder / "data"), "--runs", str(folder / "runs"), "--name", name, "--device", "cpu",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("folder:") == 1  # only the main process talks
    return folder / "runs" / name


@pytest.mark.e2e
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Some pictures are emptied, so that now and then a whole rank has no box: nothing may hang."""
    write_shapes(tmp_path / "data", 12, 5, "coco", ShapesConfig(size=96), 0)
    truth = tmp_path / "data" / "annotations" / "instances_train.json"
    content = json.loads(truth.read_text())
    empty = {image["id"] for image in content["images"][::2]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in empty]
    truth.write_text(json.dumps(content))

    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = run(tmp_path, "two", launcher, batch=2)
    one = run(tmp_path, "one", [], batch=4)
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.name.startswith("two-")] == []
    first, second = (load_checkpoint(path / "weights" / "last.pt") for path in (one, two))
    for key, value in first.weights.items():
        # sums are taken in another order: float32 rounding, grown over six steps
        torch.testing.assert_close(second.weights[key], value, rtol=1e-3, atol=1e-5, msg=key)
    rows = [json.loads((path / "results.jsonl").read_text().splitlines()[0]) for path in (one, two)]
    assert rows[0]["val/AP50"] == pytest.approx(rows[1]["val/AP50"], abs=1e-3)
    # one process would be the same command with the same batch: make sure that two took part
    assert second.training is not None
    assert "batch 4" in (two / "log.txt").read_text()
