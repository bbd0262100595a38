"""A run that was killed and resumed equals one that never was: same weights, same figures, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes

STEPS = 24
SETTINGS = [
    f"schedule.steps={STEPS}", "schedule.warmup_steps=4", "validation.times=3", "data.batch_size=4",
    "optim.reference_batch=4", "data.workers=1", "ema_decay=0.9", "model.fpn.channels=16",
    "model.head.stem_channels=[16]", "data.augment.mosaic=0.5", "data.augment.scale_jitter=[0.7,1.4]",
    "data.augment.iou_crop=0.2", "data.train_scales=[0.75,1.0]", "detect.max_detections=20",
    "data.repeat_threshold=0.9", "class_weights=balanced",
]  # fmt: skip


# A run that ends itself: saves after each step up to one, and gets a signal some moment after another.
KILLED = """
import os, signal, sys, threading
from boxwright.cli.main import run
from boxwright.training import loop
from boxwright.training.step import EagerStep

number, saved_until, at, seconds, latest = int(sys.argv[1]), *map(float, sys.argv[2:6])
step = EagerStep.__call__
timer = threading.Timer(seconds, os.kill, (os.getpid(), number))

def killed(self, batches, settings):
    progress = self.state.progress
    loop.SAVE_SECONDS = 0.0 if progress.step < saved_until else float("inf")
    if progress.step == at:
        timer.start()
    if progress.step == latest:
        timer.cancel()
        os.kill(os.getpid(), number)
    return step(self, batches, settings)

EagerStep.__call__ = killed
sys.argv[1:6] = []
run()
"""


def start(folder: Path, *arguments: str, program: tuple[str, ...] = ("-m", "boxwright")) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, "train", *arguments], cwd=folder, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )  # fmt: skip


def expect(process: subprocess.Popen[str], code: int) -> str:
    """Wait until a run ends as it should; gives what it said."""
    ended = process.wait(timeout=300)
    # of a killed run only where it is of use: its loader process keeps the pipe open for seconds
    said = process.stderr.read() if process.stderr is not None and (ended >= 0 or ended != code) else ""
    assert ended == code, said
    return said


def anew(name: str) -> tuple[str, ...]:
    return ("fcos-shapes", *SETTINGS, "--data", "data", "--name", name, "--device", "cpu")


def step_of(run: Path) -> int:
    state = load_checkpoint(run / "weights" / "last.pt").training
    assert state is not None
    return int(state["progress"]["step"])


def figures(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second", "waiting_for_data")} for row in rows
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_shapes(folder / "data", 20, 6, "voc", ShapesConfig(size=96), 0)
    expect(start(folder, *anew("whole")), 0)
    return folder


@pytest.mark.e2e
def test_killed_at_random_steps_and_resumed_equals_uninterrupted(uninterrupted: Path) -> None:
    """Killed for good first, then asked to stop; each time after a save within the run, and before its end."""
    name, run = "parts", uninterrupted / "runs" / "parts"
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    chance, begun, arguments = random.Random(seed), 0, anew(name)
    for how, latest in ((signal.SIGKILL, STEPS // 2), (signal.SIGTERM, STEPS - 2)):
        at = chance.randint(begun + 2, latest)
        saved_until = chance.randint(begun + 1, at)
        words = (how.value, saved_until, at, chance.uniform(0.0, 1.0), latest)
        process = start(uninterrupted, *arguments, program=("-c", KILLED, *map(str, words)))
        expect(process, 0 if how == signal.SIGTERM else -how)
        print(f"{how.name}: saved after each step up to {saved_until}, due in step {at}; left at {step_of(run)}")
        assert begun < saved_until <= step_of(run) < STEPS
        begun, arguments = step_of(run), ("--resume", str(run))
    expect(start(uninterrupted, *arguments), 0)
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
    errors = expect(start(uninterrupted, "--resume", str(run)), 2)
    assert "is finished" in errors
    assert "Traceback" not in errors
