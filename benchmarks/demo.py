"""The demo's training, ours and torchvision's FCOS: same backbone, same synthetic pictures, same time.

The pictures, their number and the minutes are those of `boxwright demo`. The peer gets the recipe's own augmentation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # as a file: python benchmarks/demo.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import measure_ours, measure_peer
from benchmarks.table import print_measurements
from boxwright.data.shapes import ShapesConfig, write_shapes
from boxwright.recipes import load_recipe
from boxwright.training.run_folder import free_folder

RECIPE = "fcos-shapes"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.1, help="training time of each")
    parser.add_argument("--train", type=int, default=1000, help="pictures to train on")
    parser.add_argument("--val", type=int, default=150, help="pictures to measure on")
    parser.add_argument("--peer-steps", type=int, help="steps of the peer instead of its minutes")
    parser.add_argument("--seed", type=int, default=0, help="of pictures and training")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where pictures and runs are put")
    given = parser.parse_args()
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
