"""From a folder to what the loop is fed: format, splits, classes, preflight, images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from boxwright.data.checks.preflight import PreflightReport, preflight
from boxwright.data.checks.report_text import finding_line
from boxwright.data.class_balance import balanced_weights, images_by_class, repeat_factors
from boxwright.data.class_selection import as_one_class, without_stuff
from boxwright.data.dataset import Augmentation, DetectionDataset
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.mosaic import Mosaic
from boxwright.data.proposals import StoredProposals, read_proposals
from boxwright.data.records import Record, Split
from boxwright.data.rotated_annotations import has_corners
from boxwright.data.sampler import aspects_of
from boxwright.data.tiles import cut_split
from boxwright.data.transforms import (
    ColourJitter,
    Compose,
    HorizontalFlip,
    RandomIoUCrop,
    ScaleJitter,
    Step,
    VerticalFlip,
)
from boxwright.inference.claims import unclaimed_findings, without_proposal
from boxwright.models import MODELS
from boxwright.models.class_weights import weights_by_name
from boxwright.models.fast_rcnn import FastRCNNConfig
from boxwright.models.panoptic_fpn import PanopticFPNConfig
from boxwright.models.semantic_fpn import SemanticFPNConfig
from boxwright.ops.points import level_ranges
from boxwright.recipes.schema import Augment, Recipe
from boxwright.structures import Classes, Skeleton
from boxwright.wording import counted
from boxwright.writing import writing

PROBLEMS_SHOWN = 8


@dataclass(frozen=True)
class CheckedData:
    """The checked data of a run: what it trains on and what it is validated on."""

    train: Split
    val: Split
    classes: Classes
    report: PreflightReport

    def settled(self, recipe: Recipe) -> Recipe:
        """The recipe with what its data decided: range of values, class weights as numbers, how many semantic classes.

        (`data.value_range=auto`; `class_weights` by name or "balanced"; `model.semantic.num_classes=null`.)
        """
        section = recipe.data.model_copy(update={"value_range": self.report.value_range})
        weights, names = recipe.class_weights, self.classes.names
        if weights == "balanced":
            weights = balanced_weights(self.train.records, len(names))
        elif isinstance(weights, dict):
            weights = weights_by_name(weights, names)
        model: Any = recipe.model
        if isinstance(model, SemanticFPNConfig | PanopticFPNConfig):
            semantic = replace(model.semantic, num_classes=len(self.classes.semantic_names))
            model = replace(model, semantic=semantic)
        return recipe.model_copy(update={"data": section, "class_weights": weights, "model": model})


def open_checked(
    path: str | Path,
    *,
    classes: str | None,
    train_split: str,
    val_split: str,
    overfit: int | None,
    recipe: Recipe,
    log: Callable[[str], None],
) -> CheckedData:
    """Open a data folder, check it, and pick the two splits; what was decided is logged."""
    dataset = open_folder(path, classes=classes)
    log(f"data: {dataset.root} ({dataset.format}), classes: {_classes_in_words(dataset.classes)}")
    for note in dataset.notes:
        log(f"data: {note}")
    if MODELS[recipe.model.name].one_class:
        dataset = as_one_class(dataset)
        log("data: this detector finds objects of any class, so all are one class, object")
    if MODELS[recipe.model.name].detects:
        _require_objects(path, dataset.classes, recipe.name)
    if not recipe.needs_semantic:
        dataset = without_stuff(dataset)
    wanted = {name: find_split(dataset, name) for name in [train_split, *([] if overfit else [val_split])]}
    bounds = getattr(getattr(recipe.model, "assignment", None), "level_bounds", None)
    ranges = None if bounds is None else level_ranges(bounds)
    report = preflight(
        replace(dataset, splits=wanted), level_ranges=ranges, resize=recipe.data.resize.rule(),
        need_masks=recipe.needs_masks, value_range=recipe.data.value_range, tiling=recipe.data.tiling(),
        check_maps=recipe.needs_semantic,
    )  # fmt: skip
    train = find_split(report.dataset, train_split)
    lost = unclaimed_findings(replace(report.dataset, splits={train_split: tiles_of(train, recipe)}), recipe)
    for finding in lost:
        log(f"data: {finding.message}")
    _log_problems(report, log)
    for finding in report.findings:
        if finding.kind == "narrow-values":
            log(f"data: {finding_line(finding)}")
    report = replace(report, findings=(*report.findings, *lost))
    _require_what_is_learnt(path, train, recipe, report)
    if overfit is not None:
        train = _first_labelled(train, overfit)
    val = train if overfit is not None else find_split(report.dataset, val_split)
    if not len(val):
        raise ValueError(f"{path}: split {val_split} has no usable image to validate on; name another: --val-split")
    train = tiles_of(train, recipe, log)
    _log_repeats(train, recipe.data.repeat_threshold, log)
    unit = "image" if recipe.data.tiles.size is None else "tile"
    log(f"data: {counted(len(train), unit)} to train on ({train.name}), {len(val)} to validate on ({val.name})")
    return CheckedData(train, val, dataset.classes, report)


def _require_what_is_learnt(path: str | Path, train: Split, recipe: Recipe, report: PreflightReport) -> None:
    """Refuse data without that which a recipe learns."""
    if not any(map(_labelled, train.records)):
        raise ValueError(f"{path}: split {train.name} has no labelled object to learn from")
    if recipe.needs_masks:
        _require_masks(path, train, recipe.name, report)
    if recipe.num_keypoints:
        _require_keypoints(path, train, recipe)
    if recipe.needs_semantic:
        _require_maps(path, train, recipe)
    if recipe.needs_rotated:
        _require_rotated(path, train, recipe)


def _first_labelled(train: Split, count: int) -> Split:
    """The first images that have something to learn; ValueError where there are fewer."""
    labelled = tuple(filter(_labelled, train.records))
    if len(labelled) < count:
        what = "objects" if train.classes.names else "labels"
        raise ValueError(f"--overfit {count}: split {train.name} has {counted(len(labelled), 'image')} with {what}")
    return train.with_records(labelled[:count])


def _labelled(record: Record) -> bool:
    """Whether an image has something to learn from."""
    return bool(record.annotations) or record.semantic is not None


def _classes_in_words(classes: Classes) -> str:
    things, stuff = ", ".join(classes.names), ", ".join(classes.stuff)
    return f"{things}; stuff: {stuff}" if things and stuff else things or f"stuff: {stuff}"


def tiles_of(split: Split, recipe: Recipe, log: Callable[[str], object] = lambda _: None) -> Split:
    """The images of a split after preflight, or the tiles that are trained on where the recipe cuts them.

    Raises ValueError for a model that needs whole images.
    """
    tiles, tiling = recipe.data.tiles, recipe.data.tiling()
    if tiling is None:
        return split
    if why := recipe.of_whole_images:
        raise ValueError(f"data.tiles: {recipe.name} {why} whole images: it cannot be trained on tiles")
    cut, sentence = cut_split(
        split, tiling, min_visible=tiles.min_visible, empty=tiles.empty, rotated=recipe.needs_rotated
    )  # fmt: skip
    log(f"data: {sentence}")
    return cut


def _log_repeats(train: Split, threshold: float | None, log: Callable[[str], None]) -> None:
    """Log what the repetition of images of rare classes comes to."""
    if threshold is None:
        return
    factors = repeat_factors(train.records, threshold)
    rare = sum(count < threshold * len(train) for count in images_by_class(train.records).values())
    log(
        f"data: {counted(sum(factor > 1 for factor in factors), 'image')} of {counted(rare, 'class')} are repeated, up "
        f"to {max(factors):.1f} times: {sum(factors):.0f} images an epoch in place of {len(train)}"
    )


def _require_masks(path: str | Path, train: Split, recipe: str, report: PreflightReport) -> None:
    """Refuse data on which a mask model would learn boxes only."""
    objects = [item for record in train.records for item in record.annotations]
    empty = {finding.where for finding in report.findings if finding.kind == "empty-mask"}
    if not any(item.segmentation and item.where not in empty for item in objects):
        raise ValueError(
            f"{path}: {recipe} learns masks, but none of the {counted(len(objects), 'object')} of split {train.name} "
            f"has one that can be used (the first: {objects[0].where}); give COCO JSON with segmentation, "
            "YOLO polygons or VOC's SegmentationObject/*.png, or train a recipe without masks"
        )


def _require_objects(path: str | Path, classes: Classes, recipe: str) -> None:
    """Refuse data without objects for a detector of objects."""
    if not classes.names:
        raise ValueError(
            f"{path}: {recipe} finds objects, but the data has none: all its classes are stuff "
            f"({', '.join(classes.stuff)}), labels of pixels; train a semantic recipe"
        )


def _require_maps(path: str | Path, train: Split, recipe: Recipe) -> None:
    """Refuse data without labels of pixels, or with another number of them than the recipe learns."""
    names = train.classes.semantic_names
    if not any(record.semantic is not None for record in train.records):
        raise ValueError(
            f"{path}: {recipe.name} learns the label of every pixel, but the data has none; give COCO panoptic "
            "(panoptic_train2017.json with its PNG files), or images/ and labels/ of PNG files with classes.txt"
        )
    wanted = getattr(getattr(recipe.model, "semantic", None), "num_classes", None)
    if wanted not in (None, len(names)):
        raise ValueError(
            f"{path}: {recipe.name} learns {counted(wanted, 'label')} of a pixel, but the data has {len(names)} "
            f"({', '.join(names)}); set model.semantic.num_classes={len(names)}"
        )


def _require_keypoints(path: str | Path, train: Split, recipe: Recipe) -> None:
    """Refuse data without keypoints, or with another number of them than the recipe learns."""
    skeleton, wanted = train.classes.skeleton, counted(recipe.num_keypoints, "keypoint")
    if skeleton is None:
        raise ValueError(
            f"{path}: {recipe.name} learns {wanted} of an object, but the data has none; give COCO JSON whose "
            "categories name their keypoints (person_keypoints_train2017.json), or train a recipe without keypoints"
        )
    if len(skeleton) != recipe.num_keypoints:
        raise ValueError(
            f"{path}: {recipe.name} learns {wanted} of an object, but the data has {len(skeleton)} "
            f"({', '.join(skeleton.names)}); set model.keypoint.num_keypoints={len(skeleton)}"
        )
    objects = [item for record in train.records for item in record.annotations]
    if not any(point[2] > 0 for item in objects for point in item.keypoints or ()):
        raise ValueError(
            f"{path}: {recipe.name} learns keypoints, but no object of split {train.name} has one to learn"
        )


def _require_rotated(path: str | Path, train: Split, recipe: Recipe) -> None:
    """Refuse data without any rotated box for a detector of rotated boxes."""
    objects = [item for record in train.records for item in record.annotations]
    if not any(item.rotated is not None or has_corners(item) for item in objects):
        raise ValueError(
            f"{path}: {recipe.name} learns rotated boxes, but none of the {counted(len(objects), 'object')} of split "
            f"{train.name} has an angle; give DOTA's labelTxt/, or YOLO rows with four corners, or train faster-rcnn"
        )


def _log_problems(report: PreflightReport, log: Callable[[str], None]) -> None:
    serious = [finding for finding in report.findings if finding.severity != "note"]
    for finding in serious[:PROBLEMS_SHOWN]:
        log(f"data: {finding_line(finding)}")
    if len(serious) > PROBLEMS_SHOWN:
        log(f"data: ... and {len(serious) - PROBLEMS_SHOWN} more: `boxwright inspect` shows all")


def augmentation(settings: Augment, skeleton: Skeleton | None = None) -> Augmentation:
    """The pipeline that a recipe's `data.augment` describes, for objects with such keypoints."""
    mirrored = () if skeleton is None else skeleton.mirrored
    steps: list[Step] = []
    if settings.iou_crop:
        steps.append(RandomIoUCrop(p=settings.iou_crop))
    if settings.scale_jitter:
        steps.append(ScaleJitter(*settings.scale_jitter))
    if settings.horizontal_flip:
        steps.append(HorizontalFlip(settings.horizontal_flip, mirrored))
    if settings.vertical_flip:
        steps.append(VerticalFlip(settings.vertical_flip, mirrored))
    colours = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    if any(colours):
        steps.append(ColourJitter(*colours))
    return Augmentation(Compose(steps), Mosaic(settings.mosaic) if settings.mosaic else None)


def open_proposals(path: str | None, recipe: Recipe, data: CheckedData) -> StoredProposals | None:
    """The proposal file of a run, checked against its images; ValueError where it is missing or of no use."""
    needed = MODELS[recipe.model.name].needs_proposals
    if path is None:
        if needed:
            raise ValueError(
                f"{recipe.name} finds no regions itself: give it proposals with --proposals FILE (boxwright proposals "
                "CHECKPOINT --data FOLDER --out FILE writes them)"
            )
        return None
    if not needed:
        raise ValueError(f"--proposals {path}: {recipe.name} finds its own regions; leave the file out")
    stored = read_proposals(path)
    stored.check((*data.train.records, *data.val.records))
    return stored


def log_missing_proposals(
    stored: StoredProposals | None, recipe: Recipe, data: CheckedData, log: Callable[[str], object]
) -> None:
    """Log which objects no proposal of the file covers well enough to be learned from."""
    if stored is None:
        return
    iou = cast(FastRCNNConfig, recipe.model).box.positive_iou
    for part in (data.train, data.val):
        sentence = without_proposal(stored, part, iou)
        if sentence is not None:
            log(f"data: {sentence}")


def image_sets(
    recipe: Recipe, data: CheckedData, *, augment: bool, proposals: StoredProposals | None = None
) -> tuple[DetectionDataset, DetectionDataset, list[float]]:
    """Training and validation images, and the aspect of each training image."""
    resize = recipe.data.resize
    pipeline = augmentation(recipe.data.augment, data.classes.skeleton) if augment else None
    masks, points, maps = recipe.needs_masks, recipe.num_keypoints, recipe.needs_semantic
    cache, values = recipe.data.cache, recipe.data.value_range
    train = DetectionDataset(
        data.train, resize.training_rule(), augmentation=pipeline, masks=masks, num_keypoints=points, semantic=maps,
        rotated=recipe.needs_rotated, cache=cache, proposals=proposals, value_range=values,
    )  # fmt: skip
    val = DetectionDataset(
        data.val, resize.rule(), masks=masks, num_keypoints=points, semantic=maps, rotated=recipe.needs_rotated,
        cache=cache, proposals=proposals, value_range=values, tiling=recipe.data.tiling(),
        min_visible=recipe.data.tiles.min_visible,
    )  # fmt: skip
    return train, val, aspects_of(data.train)


def worker_count(wanted: int | None, device: torch.device, cached: bool) -> int:
    """Loader processes: the recipe's number, else what the machine has to spare.

    A CPU that trains and has the images in memory loads them between steps: a process more would only take turns.
    """
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cpu":
        return 0 if cached else min(2, max(1, cores // 4))
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this run on the same machine
    return max(1, min(8, (cores - 1) // beside))


def write_check(report: PreflightReport, path: Path) -> None:
    """Write the findings of preflight as JSON."""
    text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False)
    with writing(path):  # a file name may hold bytes that are no UTF-8
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
