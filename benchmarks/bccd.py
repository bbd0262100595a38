"""Blood cells from random weights in 13 minutes on two cores: ours, then torchvision's FCOS in the same time.

Both train on trainval and are measured on test with the weights that training ended with; test is never looked at
before. `python -m benchmarks.bccd --help` lists the options.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # as a file: python benchmarks/bccd.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import measure_ours, measure_peer
from benchmarks.table import print_measurements
from boxwright.recipes.schema import Augment

RECIPE = "fcos-small"
OVERRIDES = (
    "data.augment.vertical_flip=0.5",  # a microscope knows no up
    "validation.times=1",  # the budget is for training
)
"""What a user would add for microscope pictures."""
PEER_BATCH = 16
PEER_AUGMENT = Augment(horizontal_flip=0.5, vertical_flip=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bccd", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bccd"), help="the bccd folder")
    parser.add_argument("--minutes", type=float, default=13.0, help="training time of each")
    parser.add_argument("--peer-steps", type=int, help="steps of the peer instead of its minutes")
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where run folders are made")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings of ours (and picture size)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--ours-only", action="store_true")
    only.add_argument("--peer-only", action="store_true")
    given = parser.parse_args()
    overrides = [*OVERRIDES, *given.overrides]
    rows = []
    if not given.peer_only:
        ours = measure_ours(
            RECIPE, RECIPE, given.data, overrides=overrides, train_split="trainval", val_split="val",
            test_split="test", runs=given.runs, minutes=given.minutes, seed=given.seed,
        )  # fmt: skip
        rows.append(ours)
    if not given.ours_only:
        peer = measure_peer(
            RECIPE, given.data, overrides=overrides, train_split="trainval", test_split="test", augment=PEER_AUGMENT,
            minutes=None if given.peer_steps else given.minutes, steps=given.peer_steps, batch=PEER_BATCH,
            seed=given.seed,
        )  # fmt: skip
        rows.append(peer)
    print_measurements(rows)


if __name__ == "__main__":
    main()
