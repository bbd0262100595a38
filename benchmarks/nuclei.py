"""Nuclei and their masks from random weights, 13 minutes each on two cores: FCOS-Mask, Mask R-CNN, and torchvision's.

All three have the same backbone and 320-pixel inputs, train on the split train and are measured on val with the weights
that training ended with. `python -m benchmarks.nuclei --help` lists the options.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if not __package__:  # as a file: python benchmarks/nuclei.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import measure_ours
from benchmarks.table import Measurement, print_measurements
from benchmarks.torchvision_fcos import train_peer
from benchmarks.torchvision_mask_rcnn import build_mask_peer, detect_mask_peer, mask_targets
from boxwright.data.checks.preflight import preflight
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.sampler import aspects_of
from boxwright.evaluation.coco_ap import coco_ap
from boxwright.recipes import load_recipe
from boxwright.recipes.schema import Augment
from boxwright.training.prepare import augmentation

OURS = ("fcos-mask-small", "mask-rcnn-small")
BATCH = 4
OVERRIDES = (
    "data.resize.size=320",
    "data.augment.vertical_flip=0.5",  # a microscope knows no up
    f"data.batch_size={BATCH}",  # many steps in little time
    f"optim.reference_batch={BATCH}",
    "validation.times=1",  # the budget is for training
)
"""What a user would add for microscope images and a short time."""
PEER_AUGMENT = Augment(horizontal_flip=0.5, vertical_flip=0.5)


def measure_mask_peer(
    data: Path, overrides: list[str], minutes: float | None, steps: int | None, seed: int
) -> Measurement:
    """Train torchvision's Mask R-CNN on the images as the recipe resizes them, then measure it on val."""
    settings = load_recipe("mask-rcnn-small", overrides)
    dataset = open_folder(data)
    wanted = {name: dataset.splits[name] for name in ("train", "val")}
    checked = preflight(replace(dataset, splits=wanted), need_masks=True).dataset
    rule, network = settings.data.resize.rule(), settings.model
    train = checked.splits["train"]
    images = DetectionDataset(train, rule, augmentation=augmentation(PEER_AUGMENT), masks=True)
    model = build_mask_peer(
        len(dataset.classes), backbone=network.backbone.name, variant=network.backbone.variant,
        precision=settings.precision, anchor_sizes=[sizes[0] for sizes in network.rpn.anchor_sizes], seed=seed,
    )  # fmt: skip
    run = train_peer(
        model, images, aspects_of(train), minutes=minutes, steps=steps, batch=settings.data.batch_size, seed=seed,
        targets_of=mask_targets,
    )  # fmt: skip
    val = DetectionDataset(checked.splits["val"], rule)
    ground_truths = [
        ground_truth_of(record, val.original_hw(index), masks=True) for index, record in enumerate(val.records)
    ]
    found = detect_mask_peer(model, val)
    boxes, masks = (coco_ap(found, ground_truths, dataset.classes, kind=kind) for kind in ("boxes", "masks"))
    return Measurement.of("torchvision Mask R-CNN", boxes, run.steps, run.seconds, masks)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nuclei", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/nuclei"), help="the nuclei folder")
    parser.add_argument("--minutes", type=float, default=13.0, help="training time of each")
    parser.add_argument("--steps", type=int, help="steps of each instead of minutes")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where run folders are made")
    parser.add_argument("--only", choices=[*OURS, "peer"], help="one of the three")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings of ours (and image size)")
    given = parser.parse_args()
    overrides = [*OVERRIDES, *given.overrides]
    minutes = None if given.steps else given.minutes
    rows = []
    for recipe in OURS:
        if given.only in (None, recipe):
            own = [*overrides, f"schedule.steps={given.steps}"] if given.steps else overrides
            rows.append(
                measure_ours(
                    recipe, recipe, given.data, overrides=own, train_split="train", val_split="val",
                    test_split="val", runs=given.runs, minutes=minutes, seed=given.seed,
                )
            )  # fmt: skip
    if given.only in (None, "peer"):
        rows.append(measure_mask_peer(given.data, overrides, minutes, given.steps, given.seed))
    print_measurements(rows)


if __name__ == "__main__":
    main()
