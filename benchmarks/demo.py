"""The demo's training, ours and torchvision's FCOS: same backbone, same synthetic images, same time.

The images, their number and the minutes are those of `boxwright demo`. The peer gets the recipe's own augmentation.
With --disturbed: the command `boxwright demo` itself, while another process takes one core for its first minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

if not __package__:  # as a file: python benchmarks/demo.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import measure_ours, measure_peer
from benchmarks.table import print_measurements
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.recipes import load_recipe
from boxwright.writing import free_folder

RECIPE = "fcos-shapes"


BURN = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    pass
"""


def disturbed(runs: Path, seconds: float = 60.0) -> None:
    """Run `boxwright demo` beside a process that keeps one core busy for its first seconds; prints time and AP."""
    folder = runs / f"disturbed-{time.strftime('%H%M%S')}"
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", BURN, str(seconds)]) as other:
        subprocess.run([sys.executable, "-m", "boxwright", "demo", "--out", str(folder)], check=True)
        took = time.monotonic() - start
        other.wait()
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"boxwright demo, one of {cores} cores taken for {seconds:.0f} s: {took:.0f} s, "
          f"AP {figures['AP']:.4f}, AP50 {figures['AP50']:.4f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=3.5, help="time of each: ours for the whole run, the peer's for training"
    )
    parser.add_argument("--train", type=int, default=1000, help="images to train on")
    parser.add_argument("--val", type=int, default=150, help="images to measure on")
    parser.add_argument("--peer-steps", type=int, help="steps of the peer instead of its minutes")
    parser.add_argument("--seed", type=int, default=0, help="of images and training")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where images and runs are put")
    parser.add_argument("--disturbed", action="store_true", help="run `boxwright demo` beside a process that is busy")
    given = parser.parse_args()
    if given.disturbed:
        disturbed(given.runs)
        return
    data = free_folder(given.runs / "shapes")
    write_shapes(data, given.train, given.val, "voc", ShapesConfig(), given.seed)
    rows = [
        measure_ours(
            RECIPE, RECIPE, data, train_split="train", val_split="val", test_split="val", runs=given.runs,
            minutes=given.minutes, seed=given.seed,
        ),
        measure_peer(
            RECIPE, data, train_split="train", test_split="val", augment=load_recipe(RECIPE).data.augment,
            minutes=None if given.peer_steps else given.minutes, steps=given.peer_steps, seed=given.seed,
        ),
    ]  # fmt: skip
    print_measurements(rows)


if __name__ == "__main__":
    main()
