"""Detections of a trained detector on a labelled split, beside the ground truth: what the metrics are computed from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from boxwright.data.checks.preflight import preflight
from boxwright.data.class_selection import relabelled
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.proposals import read_proposals
from boxwright.evaluation.detect_split import (
    EvaluationInputs,
    SplitDetections,
    detect_split,
    evaluation_settings,
    with_ground_truth,
)
from boxwright.inference.predictor import Detector

UNREADABLE = ("missing-image", "unreadable-image")
"""Findings of preflight about an image that cannot be read."""


def evaluate_checkpoint(
    checkpoint: Path | Detector,
    data: Path,
    split: str,
    *,
    classes: str | None = None,
    batch: int | None = None,
    device: str = "auto",
    score_threshold: float | None = None,
    max_detections: int | None = None,
    limit: int | None = None,
    proposals: Path | None = None,
) -> EvaluationInputs:
    """Run a checkpoint (or a detector that is loaded) over a split of a data folder.

    Raises ValueError with both class lists where the model's classes are not those of the data. The batch is the
    recipe's if not given, and so is the score threshold (0.05 or less): a higher one cuts the tail off every
    precision-recall curve. An image that cannot be read is said and left out, and its ground truth with it.
    """
    detector = checkpoint if isinstance(checkpoint, Detector) else Detector.load(checkpoint, device)
    dataset = open_folder(data, classes=classes)
    part = relabelled(find_split(dataset, split), detector.classes)
    needed = detector.recipe.needs_masks
    report = preflight(replace(dataset, splits={part.name: part}, classes=part.classes), check_masks=needed)
    checked = report.dataset.splits[part.name]
    if not len(checked):
        raise ValueError(f"{data}: split {split} has no usable image")
    masks = needed and any(item.segmentation for record in checked.records for item in record.annotations)
    stored = None if proposals is None else read_proposals(proposals)
    if stored is not None:
        stored.check(checked.records[:limit])
    detector.check_proposals(stored)
    images = DetectionDataset(checked, detector.resize, masks=masks, cache=False, proposals=stored,
                          value_range=detector.value_range)  # fmt: skip
    settings = evaluation_settings(detector.settings, score_threshold, max_detections)
    console = Console(stderr=True)  # standard output is for the figures
    for finding in report.findings:
        if finding.kind in (*UNREADABLE, "no-usable-object", "bad-mask", "empty-mask", "mask-off-box"):
            sentence = f"boxwright: {finding.where}: {finding.message}"
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if needed and not masks:
        console.print(f"boxwright: {data} has no masks: only boxes are measured", markup=False, highlight=False)
    count, parts = min(limit or len(images), len(images)), []
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=count)
        for found in detect_split(detector, images, settings, batch=batch, limit=limit):
            parts.append(found)
            progress.advance(task, len(found.images))
    joined = SplitDetections.joined(parts)
    for index in sorted(joined.images):
        if isinstance(one := joined.images[index], Exception):
            console.print(f"boxwright: {one}", markup=False, highlight=False, soft_wrap=True)
    for index, note in sorted(joined.notes.items()):
        sentence = f"boxwright: {images.records[index].path}: {note}"
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    evaluated = with_ground_truth(joined, images, part.classes)
    if not evaluated.detections:
        raise ValueError(f"{data}: split {split} has no usable image")
    if evaluated.unreadable:
        console.print(
            f"boxwright: {evaluated.unreadable} of {count} images are damaged inside and left out with their "
            "objects: the figures are those of the others", markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    before = sum(finding.kind in UNREADABLE for finding in report.findings)
    return replace(evaluated, unreadable=evaluated.unreadable + before)
