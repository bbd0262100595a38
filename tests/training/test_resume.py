"""A run that was killed and resumed equals one that never was: same weights, same figures, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.data.shapes import ShapesConfig, write_shapes

STEPS = 24
SETTINGS = [
    f"schedule.steps={STEPS}", "schedule.warmup_steps=4", "validation.times=3", "data.batch_size=4",
    "optim.reference_batch=4", "data.workers=1", "precision=bf16", "ema_decay=0.9", "model.fpn_channels=16",
    "model.stem_channels=[16]", "data.augment.mosaic=0.5", "data.augment.scale_jitter=[0.7,1.4]",
    "data.augment.iou_crop=0.2", "data.train_scales=[0.75,1.0]", "detect.max_detections=20",
]  # fmt: skip


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "boxwright", "train", *arguments, "--runs", str(folder / "runs")]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    arguments = ("fcos-shapes", *SETTINGS, "--data", str(folder / "data"), "--name", name, "--device", "cpu")
    return subprocess.Popen(
        command(folder, *arguments), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def figures(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "pictures_per_second", "waiting_for_data")}
        for row in rows
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_shapes(folder / "data", 20, 6, "voc", ShapesConfig(size=96), 0)
    process = start(folder, "whole")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder


@pytest.mark.e2e
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_killed_at_random_steps_and_resumed_equals_uninterrupted(uninterrupted: Path, how: signal.Signals) -> None:
    name = how.name.lower()
    run, chance = uninterrupted / "runs" / name, random.Random()
    process, kills = start(uninterrupted, name), 0
    for _ in range(12):
        deadline = time.monotonic() + 120
        before = (run / "weights" / "last.pt").stat().st_mtime_ns if (run / "weights" / "last.pt").exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            last = run / "weights" / "last.pt"
            if last.exists() and (last.stat().st_mtime_ns != before or kills):
                break
            time.sleep(0.01)
        if kills < 2:
            time.sleep(chance.uniform(0.0, 4.0) + (4.0 if kills else 0.0))
            if process.poll() is None:
                process.send_signal(how)
                kills += 1
        _, errors = process.communicate(timeout=300)
        if (run / "metrics.json").exists():
            break
        assert process.returncode in (0, -how), errors
        process = subprocess.Popen(
            command(uninterrupted, "--resume", str(run)), env=environment(), stderr=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert kills >= 1
    assert process.returncode in (0, -how), errors  # the signal may come when all is written, on the way out
    assert (run / "metrics.json").exists(), errors
    whole, parts = (load_checkpoint(uninterrupted / "runs" / n / "weights" / "last.pt") for n in ("whole", name))
    for key, value in whole.weights.items():
        assert torch.equal(value, parts.weights[key]), key
    assert whole.training is not None
    assert parts.training is not None
    for key, value in whole.training["model"].items():
        assert torch.equal(value, parts.training["model"][key]), key
    assert figures(uninterrupted / "runs" / "whole") == figures(run)


@pytest.mark.e2e
def test_a_finished_run_is_refused_not_started_again(uninterrupted: Path) -> None:
    run = uninterrupted / "runs" / "whole"
    process = subprocess.run(
        command(uninterrupted, "--resume", str(run)), env=environment(), capture_output=True, text=True
    )
    assert process.returncode == 2
    assert "is finished" in process.stderr
    assert "Traceback" not in process.stderr
