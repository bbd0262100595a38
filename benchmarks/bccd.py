"""Blood cells from random weights in 13 minutes each on two cores: our detectors, and torchvision's FCOS.

All train on trainval and are measured on test with the weights that training ended with; test is not looked at before.
torchvision's FCOS runs twice: on the backbone of our recipes in batches of the same size, and on RegNetX-400MF in
batches of 16. `python -m benchmarks.bccd --help` lists the options.
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

OURS = ("fcos-small", "retinanet-small", "faster-rcnn-small")
PEERS = {
    "torchvision FCOS, RegNetX-400MF": (("model.backbone=regnet_x_400mf",), 16),
    "torchvision FCOS": ((), None),
}
"""By name: settings of the peer's own, and its batch (the recipe's if none is given)."""
OVERRIDES = (
    "data.augment.vertical_flip=0.5",  # a microscope knows no up
    "validation.times=1",  # the budget is for training
)
"""What a user would add for microscope images."""
PEER_AUGMENT = Augment(horizontal_flip=0.5, vertical_flip=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bccd", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bccd"), help="the bccd folder")
    parser.add_argument("--minutes", type=float, default=13.0, help="training time of each")
    parser.add_argument("--peer-steps", type=int, help="steps of the peers instead of their minutes")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where run folders are made")
    parser.add_argument("--only", choices=(*OURS, *PEERS), action="append", help="one of them; may be repeated")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings of ours (and image size)")
    given = parser.parse_args()
    overrides = [*OVERRIDES, *given.overrides]
    rows = []
    for name in given.only or (*OURS, *PEERS):
        if name in PEERS:
            own, batch = PEERS[name]
            row = measure_peer(
                OURS[0], given.data, overrides=[*overrides, *own], train_split="trainval", test_split="test",
                augment=PEER_AUGMENT, minutes=None if given.peer_steps else given.minutes, steps=given.peer_steps,
                batch=batch, seed=given.seed, title=name,
            )  # fmt: skip
        else:
            row = measure_ours(
                name, name, given.data, overrides=overrides, train_split="trainval", val_split="val",
                test_split="test", runs=given.runs, minutes=given.minutes, seed=given.seed,
            )  # fmt: skip
        print(row, flush=True)
        rows.append(row)
    print_measurements(rows)


if __name__ == "__main__":
    main()
