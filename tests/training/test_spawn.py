"""Loader processes that are started anew (the rule on Windows and macOS) instead of being forked."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.ops.image import ResizeRule

SCRIPT = """
import multiprocessing
import resource
import sys

from boxwright.cli.main import run

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    multiprocessing.set_start_method("spawn")
    sys.argv[0] = "boxwright"
    run()
"""
SETTINGS = (
    "schedule.steps=2", "validation.times=1", "data.batch_size=2", "optim.reference_batch=2", "data.workers=1",
    "model.fpn.channels=16", "model.head.stem_channels=[16]", "precision=fp32",
)  # fmt: skip


@pytest.mark.slow
def test_two_steps_with_more_images_in_memory_than_files_may_be_open(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", 80, 2, "voc", ShapesConfig(size=64), 0)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", "train", "fcos-shapes", *SETTINGS, "--data", "data", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "loader: 1 worker, 1 MiB of decoded images in memory" in done.stderr
    assert json.loads((tmp_path / "runs/fcos-shapes/results.jsonl").read_text().splitlines()[-1])["step"] == 2


@pytest.mark.parametrize("cache", [True, False])
def test_what_such_a_process_gets_is_the_same_images(tmp_path: Path, cache: bool) -> None:
    write_shapes(tmp_path / "data", 3, 1, "coco", ShapesConfig(size=64), 0)
    images = DetectionDataset(open_folder(tmp_path / "data").splits["train"], ResizeRule(), masks=True, cache=cache)
    before = [images.base(index) for index in range(3)]
    for other in (pickle.loads(pickle.dumps(images)), images):  # what was sent is used on here
        assert other.cached_bytes == images.cached_bytes
        assert (other.cached_bytes > 0) == cache
        for index, expected in enumerate(before):
            found = other.base(index)
            assert torch.equal(found.image, expected.image)
            assert torch.equal(found.ground_truth.boxes, expected.ground_truth.boxes)
            assert other.original_hw(index) == images.original_hw(index)
            assert found.ground_truth.masks is not None
            assert expected.ground_truth.masks is not None
            for one, two in zip(found.ground_truth.masks, expected.ground_truth.masks, strict=True):
                assert torch.equal(one.bitmap, two.bitmap)
