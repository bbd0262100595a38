"""Detections of a trained detector on a labelled split, beside the truth: what the metrics are computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from boxwright.data.classes import relabelled
from boxwright.data.folder import open_folder
from boxwright.data.folder import split as split_called
from boxwright.data.preflight import preflight
from boxwright.data.proposals import read_proposals
from boxwright.data.truth import clip_box, truth_of
from boxwright.inference.predictor import Detector
from boxwright.structures import Classes, Detections, Truth

UNREADABLE = ("missing-picture", "unreadable-picture")
"""Findings of preflight about a picture that cannot be read."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Detections and truth of the same pictures in the same order, in original pixels.

    `areas` are those that the annotation file states, per object of the truth; `unreadable` is how many pictures could
    not be read and are left out.
    """

    detections: list[Detections]
    truths: list[Truth]
    classes: Classes
    image_ids: list[int | str]
    paths: list[Path]
    areas: list[list[float | None]]
    unreadable: int = 0


def evaluate_checkpoint(
    checkpoint: Path | Detector,
    data: Path,
    split: str,
    *,
    classes: str | None = None,
    batch: int = 8,
    device: str = "auto",
    score_threshold: float | None = None,
    max_detections: int | None = None,
    limit: int | None = None,
    proposals: Path | None = None,
) -> Evaluated:
    """Run a checkpoint (or a detector that is loaded) over a split of a data folder.

    Raises ValueError with both class lists where the model's classes are not those of the data. The score threshold is
    the recipe's if not given (0.05 or less): a higher one cuts the tail off every precision-recall curve. A picture
    that cannot be read is said and left out, and its truth with it.
    """
    detector = checkpoint if isinstance(checkpoint, Detector) else Detector.load(checkpoint, device)
    dataset = open_folder(data, classes=classes)
    part = relabelled(split_called(dataset, split), detector.classes)
    needed = detector.recipe.needs_masks
    report = preflight(replace(dataset, splits={part.name: part}, classes=part.classes), check_masks=needed)
    records = report.dataset.splits[part.name].records[:limit]
    if not records:
        raise ValueError(f"{data}: split {split} has no usable picture")
    masks = needed and any(item.segmentation for record in records for item in record.annotations)
    stored = None if proposals is None else read_proposals(proposals)
    if stored is not None:
        stored.check(records)
    score = min(0.05, detector.settings.score_threshold) if score_threshold is None else score_threshold
    stream = detector.try_stream(
        (record.path for record in records), score=score, batch=batch, max_detections=max_detections, proposals=stored
    )
    console = Console(stderr=True)  # standard output is for the figures
    for finding in report.findings:
        if finding.kind in (*UNREADABLE, "no-usable-object", "bad-mask", "empty-mask", "mask-off-box"):
            sentence = f"boxwright: {finding.where}: {finding.message}"
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if needed and not masks:
        console.print(f"boxwright: {data} has no masks: only boxes are measured", markup=False, highlight=False)
    shown = track(stream, "evaluating", len(records), console=console, disable=not console.is_terminal)
    found, kept = [], []
    for record, one in zip(records, shown, strict=True):
        if isinstance(one, Exception):
            console.print(f"boxwright: {one}", markup=False, highlight=False, soft_wrap=True)
            continue
        found.append(replace(one[1], classes=part.classes))
        kept.append(record)
    if not kept:
        raise ValueError(f"{data}: split {split} has no usable picture")
    if broken := len(records) - len(kept):
        console.print(
            f"boxwright: {broken} of {len(records)} pictures are damaged inside and left out with their objects: the "
            "figures are those of the others", markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    sizes = [one.size_hw for one in found]
    return Evaluated(
        detections=found,
        truths=[truth_of(record, hw, masks=masks) for record, hw in zip(kept, sizes, strict=True)],
        classes=part.classes,
        image_ids=[record.image_id for record in kept],
        paths=[record.path for record in kept],
        areas=[
            [item.area for item in record.annotations if clip_box(item.box, hw) is not None]
            for record, hw in zip(kept, sizes, strict=True)
        ],
        unreadable=broken + sum(finding.kind in UNREADABLE for finding in report.findings),
    )
