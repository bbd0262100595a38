"""The charts and tables of a run: what the network is shown at its start, what it found at its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Batch, Collate
from boxwright.data.sampler import StepSampler
from boxwright.evaluation.curves import best_threshold, score_curves
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.pixel_tables import write_pixel_tables
from boxwright.evaluation.report import write_report as write_metrics
from boxwright.ops.image import resize_plan
from boxwright.ops.points import level_ranges
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.training.batches import repeats_of
from boxwright.training.plots import plot_labels, plot_results, save_batch
from boxwright.training.run_folder import Results
from boxwright.training.run_page import NAME, read_check, write_page
from boxwright.training.validate import ValidationResult
from boxwright.writing import replacing

SHOWN = 16


class PageOf(NamedTuple):
    """What `report.html` says of where a run comes from."""

    recipe: str
    data: str
    train_split: str
    split: str


def draw_labels(images: DetectionDataset, classes: Classes, recipe: Recipe, path: Path) -> None:
    """`labels.jpg`: the boxes of the training images as the network sees them."""
    boxes: list[Tensor] = []
    labels: list[Tensor] = []
    sizes: list[Tensor] = []
    for index in range(len(images)):
        hw = images.original_hw(index)
        ground_truth, size_hw = images.network_ground_truth(index, hw), resize_plan(hw, images.rule).size_hw
        boxes.append(ground_truth.boxes)
        labels.append(ground_truth.labels)
        sizes.append(torch.tensor(size_hw).expand(len(ground_truth), 2))
    bounds = getattr(getattr(recipe.model, "assignment", None), "level_bounds", ())
    ranges = {f"P{level}": pair for level, pair in enumerate(level_ranges(bounds), start=3)} if bounds else None
    plot_labels(torch.cat(boxes), torch.cat(labels), torch.cat(sizes), classes, path, level_ranges=ranges)


def draw_training_batch(batch: Batch, classes: Classes, path: Path) -> None:
    """`train_batch0.jpg`: images with their ground truth after augmentation, just as the network gets them."""
    images, ground_truths = [], []
    for index, (height, width) in enumerate(batch.images.sizes_hw.tolist()[:SHOWN]):
        images.append(batch.images.pixels[index, :, :height, :width])
        ground_truths.append(batch.targets.image(index, (height, width)))
    save_batch(images, ground_truths, classes, path, max_images=SHOWN)


def draw_first_batches(
    images: DetectionDataset, aspects: Sequence[float], classes: Classes, recipe: Recipe, seed: int, folder: Path
) -> None:
    """What the network will be shown: statistics of the labels, and the first three batches."""
    if classes.names:  # else there are no boxes to count
        draw_labels(images, classes, recipe, folder / "labels.jpg")
    size = min(recipe.data.batch_size, SHOWN)
    collate = Collate(images.rule)
    sampler = StepSampler(
        aspects, size, seed=seed, start=0, stop=3, mosaic=lambda _: True, repeats=repeats_of(recipe, images)
    )  # fmt: skip
    for number, keys in enumerate(sampler):
        batch = collate([images[key] for key in keys])
        draw_training_batch(batch, classes, folder / f"train_batch{number}.jpg")


def draw_validation(
    images: DetectionDataset, result: ValidationResult, classes: Classes, score: float, folder: Path
) -> None:
    """`val_batch*_labels.jpg` and `val_batch*_pred.jpg`: ground truth and detections of the same images."""
    one = result.inputs  # in an order of its own
    index_of = {record.path: index for index, record in enumerate(images.records)}
    for number in range(min(3, -(-len(one.detections) // SHOWN))):
        rows = range(number * SHOWN, min((number + 1) * SHOWN, len(one.detections)))
        originals = [images.original(index_of[one.paths[row]]) for row in rows]
        ground_truths: list[Detections | GroundTruth] = [one.ground_truths[row] for row in rows]
        found: list[Detections | GroundTruth] = [one.detections[row] for row in rows]
        save_batch(originals, ground_truths, classes, folder / f"val_batch{number}_labels.jpg")
        save_batch(originals, found, classes, folder / f"val_batch{number}_pred.jpg", min_score=score)


def default_score(result: ValidationResult, classes: Classes) -> float | None:
    """The score threshold with the best F1; None where nothing was found."""
    inputs = result.inputs
    if not inputs.objects:
        return None
    best = best_threshold(score_curves(inputs.detections, inputs.ground_truths, len(classes)))
    return None if best is None else best.score


def write_report(
    folder: Path,
    results: Results,
    result: ValidationResult,
    images: DetectionDataset,
    classes: Classes,
    score: float | None,
    page: PageOf | None = None,
) -> dict[str, object]:
    """Everything that is made once, at the end; gives the figures that `metrics.json` holds.

    `page` is what `report.html` tells besides; None: none is written.
    """
    plot_results(results.rows, folder / "results.png")
    inputs = result.inputs
    if inputs.objects:
        write_metrics(folder, inputs.detections, inputs.ground_truths, classes, result.coco.per_class)
    if inputs.pixels is not None:
        write_pixel_tables(folder, inputs.pixels)
    draw_validation(images, result, classes, score or 0.3, folder)
    evaluation = result.evaluation()
    figures: dict[str, object] = {**evaluation.figures, "score_threshold": score}
    if page is not None:
        index_of = {record.path: index for index, record in enumerate(images.records)}
        facts = RunFacts(
            folder.name, page.recipe, page.data, page.train_split, page.split, inputs, evaluation, results.rows,
            read_check(folder), lambda path: images.original(index_of[path]),
        )  # fmt: skip
        write_page([facts], folder / NAME)
    with replacing(folder / "metrics.json") as partial:  # there only when whole: a run that has it is finished
        partial.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures
