"""One data folder, two trainers: ours through `boxwright.train`, the peer through `torchvision_fcos`.

Both are measured on the same images against the same ground truth by the same `coco_ap`, with the weights that training
ended with. The images measured on play no part in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.table import Measurement
from benchmarks.torchvision_fcos import build_peer, detect_peer, train_peer
from boxwright import train
from boxwright.checkpoint import load_checkpoint
from boxwright.data.checks.preflight import preflight
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.sampler import aspects_of
from boxwright.evaluation.coco_ap import coco_ap
from boxwright.inference.evaluate import evaluate_checkpoint
from boxwright.recipes import load_recipe
from boxwright.recipes.schema import Augment
from boxwright.training.prepare import augmentation


class TrainedRun(NamedTuple):
    """A finished run of ours: its last weights, optimiser steps, and seconds of training."""

    last: Path
    steps: int
    seconds: float


def train_ours(
    name: str,
    recipe: str,
    data: Path,
    *,
    train_split: str,
    val_split: str,
    runs: Path,
    overrides: Sequence[str] = (),
    minutes: float | None = None,
    classes: str | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> TrainedRun:
    """Train by a recipe."""
    result = train(
        recipe, data, overrides=overrides, classes=classes, train_split=train_split, val_split=val_split,
        name=f"{data.name}-{name}", runs=runs, minutes=minutes, device=device, seed=seed,
    )  # fmt: skip
    if not result.finished:
        raise SystemExit(f"stopped; go on with boxwright train --resume {result.folder}")
    training = load_checkpoint(result.last).training
    assert training is not None
    progress = training["progress"]
    return TrainedRun(result.last, progress["step"], progress["seconds"])


def measure_ours(
    name: str,
    recipe: str,
    data: Path,
    *,
    train_split: str,
    val_split: str,
    test_split: str,
    runs: Path,
    overrides: Sequence[str] = (),
    classes: str | None = None,
    minutes: float | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Measurement:
    """Train by a recipe, then measure the last weights on the test split."""
    run = train_ours(
        name, recipe, data, train_split=train_split, val_split=val_split, runs=runs, overrides=overrides,
        minutes=minutes, classes=classes, seed=seed, device=device,
    )  # fmt: skip
    evaluated = evaluate_checkpoint(run.last, data, test_split, classes=classes, device=device)
    found, ground_truths, classes = evaluated.detections, evaluated.ground_truths, evaluated.classes
    masks = coco_ap(found, ground_truths, classes, kind="masks") if ground_truths[0].masks is not None else None
    return Measurement.of(f"boxwright {name}", coco_ap(found, ground_truths, classes), run.steps, run.seconds, masks)


def measure_peer(
    recipe: str,
    data: Path,
    *,
    train_split: str,
    test_split: str,
    augment: Augment,
    overrides: Sequence[str] = (),
    minutes: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    title: str = "torchvision FCOS",
) -> Measurement:
    """Train torchvision's FCOS on the images as the recipe resizes them, then measure it on the test split.

    `batch` is the recipe's if not given; the backbone is the recipe's.
    """
    settings = load_recipe(recipe, overrides)
    dataset = open_folder(data)
    wanted = {name: find_split(dataset, name) for name in (train_split, test_split)}
    checked = preflight(replace(dataset, splits=wanted)).dataset
    rule = settings.data.resize.rule()
    images = DetectionDataset(checked.splits[train_split], rule, augmentation=augmentation(augment))
    network = settings.model
    model = build_peer(
        len(dataset.classes), backbone=network.backbone.name, variant=network.backbone.variant,
        precision=settings.precision, seed=seed,
    )  # fmt: skip
    run = train_peer(
        model, images, aspects_of(checked.splits[train_split]), minutes=minutes, steps=steps,
        batch=batch or settings.data.batch_size, seed=seed,
    )  # fmt: skip
    test = DetectionDataset(checked.splits[test_split], rule)
    ground_truths = [ground_truth_of(record, test.original_hw(index)) for index, record in enumerate(test.records)]
    figures = coco_ap(detect_peer(model, test), ground_truths, dataset.classes)
    return Measurement.of(title, figures, run.steps, run.seconds)
