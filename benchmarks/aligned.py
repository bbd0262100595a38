"""Improved FCOS against the same network with a task-aligned assignment and quality focal loss, at equal minutes.

Everything is the recipe's (`fcos-small`, `fcos-shapes`): network, images, batch, schedule, seed, random weights. In the
second run a location learns an object if its own prediction fits it (`benchmarks.aligned_assignment`), class scores
learn the quality of the box in place of centerness, and detections are ranked by them alone. To stay in the package it
would have to be ahead by 0.02 AP on three of the four.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

if not __package__:  # as a file: python benchmarks/aligned.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from benchmarks.aligned_assignment import AlignedAssignment, assign_aligned, quality_focal_loss
from benchmarks.both import measure_ours
from benchmarks.table import Measurement, print_measurements
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.models.fcos import FCOS, FCOSOutputs
from boxwright.ops.assign import gather_rows
from boxwright.ops.losses import box_loss
from boxwright.ops.points import decode_ltrb, encode_ltrb
from boxwright.structures import ImageBatch, Losses, Targets
from boxwright.writing import free_folder

CERTAIN = 20.0
"""Logit of a centerness of 1: the score is the root of the class probability alone, and ranks as it does."""


class Rules(NamedTuple):
    """What the aligned run may set."""

    candidates: int = 13
    score_power: float = 1.0
    overlap_power: float = 6.0
    box_weight: float = 2.0
    """Of the box loss, beside the classification's 1 (TOOD, section 4)."""
    focus: float = 1.0
    """The power (beta) of the quality focal loss; 2 in its paper, which learns more slowly from random weights."""
    warm_part: float = 0.3
    """Part of the run, at its start, that learns by FCOS's own assignment (TOOD: 4 epochs of 12)."""


def assigned(model: FCOS, outputs: FCOSOutputs, targets: Targets, rules: Rules) -> AlignedAssignment:
    """Owner and quality of each location, from what is predicted there."""
    units = outputs.strides if model.config.head.normalise_targets else 1.0
    predicted = decode_ltrb(outputs.locations, outputs.distances.detach(), units)
    return assign_aligned(
        outputs.class_logits.detach(), predicted, outputs.locations, targets.boxes,
        model.channel_of_class[targets.labels.clamp(min=0)], targets.valid, targets.ignore,
        candidates=rules.candidates, score_power=rules.score_power, overlap_power=rules.overlap_power,
    )  # fmt: skip


def aligned_loss(model: FCOS, outputs: FCOSOutputs, targets: Targets, rules: Rules) -> Losses:
    """Losses "classification" and "box", both over the sum of qualities (TOOD, equations 6 and 7)."""
    owner, ignored, quality = assigned(model, outputs, targets, rules)
    labels = torch.where(owner >= 0, model.channel_of_class[gather_rows(targets.labels, owner)], -1)
    units = outputs.strides if model.config.head.normalise_targets else 1.0
    distances = encode_ltrb(outputs.locations, gather_rows(targets.boxes, owner), units)  # (B, P, 4)
    total: Tensor = quality.sum().clamp(min=1.0)
    box = box_loss(outputs.distances, distances, quality, model.config.loss.box)
    focal = quality_focal_loss(outputs.class_logits, labels, quality, ~ignored, beta=rules.focus)
    return Losses(
        classification=focal / total,
        box=rules.box_weight * box / total,
        centerness=0 * outputs.centerness_logits.sum(),  # its layer stays, and learns nothing
    )


@contextmanager
def aligned(rules: Rules, *, steps: int | None = None, minutes: float = 0.0) -> Iterator[None]:
    """Within it every FCOS learns and scores so, for a run of so many steps or minutes; afterwards as it did."""
    own_predict, own_loss, taken, start = FCOS.predict, FCOS.loss, 0, time.monotonic()

    def predict(model: FCOS, levels: list[Tensor], images: ImageBatch) -> FCOSOutputs:
        outputs = own_predict(model, levels, images)
        return outputs._replace(centerness_logits=CERTAIN + 0 * outputs.centerness_logits)

    def loss(model: FCOS, outputs: FCOSOutputs, targets: Targets) -> Losses:
        nonlocal taken
        done = taken / steps if steps else (time.monotonic() - start) / (60 * minutes)
        taken += model.training
        if done >= rules.warm_part:
            return aligned_loss(model, outputs, targets, rules)
        losses = own_loss(model, outputs, targets)
        return Losses(losses | {"centerness": 0 * outputs.centerness_logits.sum()})

    FCOS.predict, FCOS.loss = predict, loss  # type: ignore[method-assign]
    try:
        yield
    finally:
        FCOS.predict, FCOS.loss = own_predict, own_loss  # type: ignore[method-assign]


class Case(NamedTuple):
    """A dataset's recipe and splits, and the settings that a user would add for its images."""

    recipe: str
    train: str
    val: str
    test: str
    overrides: tuple[str, ...] = ()


FLIPPED = "data.augment.vertical_flip=0.5"  # a microscope knows no up
SMALL = ("data.resize.size=320", "data.batch_size=4", "optim.reference_batch=4")  # nuclei are small
CASES = {
    "shapes": Case("fcos-shapes", "train", "val", "val"),
    "bccd": Case("fcos-small", "trainval", "val", "test", (FLIPPED,)),
    "nuclei": Case("fcos-small", "train", "val", "val", (FLIPPED, *SMALL)),
    "fod": Case("fcos-small", "train", "val", "test"),
}


def compare(name: str, given: argparse.Namespace, rules: Rules) -> list[Measurement]:
    """Train and measure both on one dataset: aligned, then improved."""
    case, data = CASES[name], given.data / name
    if name == "shapes":
        data = free_folder(given.runs / "shapes")
        write_shapes(data, 1000, 150, "voc", ShapesConfig(), given.seed)
    train, test = given.train_split or case.train, given.test_split or case.test
    val = test if given.test_split else case.val
    overrides = [*case.overrides, "validation.times=1", *given.overrides]
    if given.steps:
        overrides.append(f"schedule.steps={given.steps}")

    def measured(title: str) -> Measurement:
        row = measure_ours(
            title, case.recipe, data, train_split=train, val_split=val, test_split=test, runs=given.runs,
            overrides=overrides, minutes=None if given.steps else given.minutes, seed=given.seed, device=given.device,
        )  # fmt: skip
        print(row, flush=True)
        return row._replace(name=f"{name}: {title}")

    with aligned(rules, steps=given.steps, minutes=given.minutes):
        rows = [measured("aligned")]
    return [*rows, measured("improved")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aligned", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="DATASET", help=f"of {', '.join(CASES)}; all if none is given")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of the datasets")
    parser.add_argument("--minutes", type=float, default=10.0, help="time of each run")
    parser.add_argument("--steps", type=int, help="steps of each run instead of minutes")
    parser.add_argument("--train-split", help="another split to train on, to choose settings with")
    parser.add_argument("--test-split", help="another split to measure on, to choose settings with")
    for field, default in Rules._field_defaults.items():
        option = f"--{field.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help=f"of the aligned run; {default}")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="of both")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where run folders are made")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in CASES]
    if unknown:
        parser.error(f"no dataset {unknown[0]!r}; there are {', '.join(CASES)}")
    rules = Rules(*(getattr(given, field) for field in Rules._fields))
    rows = [compare(name, given, rules) for name in given.names or CASES]
    for pair in rows:
        print_measurements(pair)
    won = sum(round(first.ap - second.ap, 4) >= 0.02 for first, second in rows)
    print(f"\nahead by 0.02 AP or more: {won} of {len(rows)}")


if __name__ == "__main__":
    main()
