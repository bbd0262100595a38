"""A shapes dataset with stuff as files: in COCO's panoptic layout, or as a plain folder of semantic maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.data.formats.panoptic_pixels import segment_id, write_segment_pixels
from boxwright.structures import Classes, GroundTruth
from boxwright.structures.classes import IGNORED
from boxwright.writing import writing


def write_panoptic(folder: Path, split: str, entries: Sequence[tuple[str, GroundTruth]], classes: Classes) -> None:
    """Write one split: `annotations/panoptic_SPLIT.json`, and the pixels of segments in a folder of that name."""
    target = folder / "annotations" / f"panoptic_{split}.json"
    pixels = target.with_suffix("")
    pixels.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for key, (file, ground_truth) in enumerate(entries, start=1):
        assert ground_truth.semantic is not None
        height, width = ground_truth.semantic.shape
        images.append({"id": key, "file_name": file, "width": width, "height": height})
        ids, segments = segments_of(ground_truth, classes)
        name = f"{Path(file).stem}.png"
        write_segment_pixels(pixels / name, ids.numpy())
        rows.append({"image_id": key, "file_name": name, "segments_info": segments})
    categories = [
        {"id": key, "name": name, "isthing": thing, "supercategory": "shape" if thing else "texture"}
        for thing, names, keys in ((1, classes.names, classes.ids), (0, classes.stuff, classes.stuff_ids))
        for key, name in zip(keys, names, strict=True)
    ]
    text = json.dumps({"images": images, "annotations": rows, "categories": categories})
    with writing(target):
        target.write_text(text, encoding="utf-8")


def segments_of(ground_truth: GroundTruth, classes: Classes) -> tuple[Tensor, list[dict[str, Any]]]:
    """The ids of the segments of an image (H, W) int64, 0 where there is none, and COCO's row of each segment.

    Objects come first, then the stuff of the semantic map; a later object covers an earlier one.
    """
    assert ground_truth.semantic is not None
    ids = torch.zeros(ground_truth.semantic.shape, dtype=torch.int64)
    category_of: dict[int, int] = {}
    for label, mask in zip(ground_truth.labels.tolist(), ground_truth.masks or (), strict=True):
        number = segment_id(len(category_of) + 1)
        category_of[number] = classes.ids[label]
        height, width = mask.bitmap.shape
        ids[mask.y : mask.y + height, mask.x : mask.x + width][mask.bitmap] = number
    first = len(classes.semantic_names) - len(classes.stuff)
    for label in ground_truth.semantic.unique().tolist():
        if first <= label < IGNORED:
            number = segment_id(len(category_of) + 1)
            category_of[number] = classes.stuff_ids[label - first]
            ids[(ground_truth.semantic == label) & (ids == 0)] = number
    rows = []
    for number, category in category_of.items():
        plane = (ids == number).numpy()
        if plane.any():
            down, across = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
            x, y = int(across[0]), int(down[0])
            box = [x, y, int(across[-1]) + 1 - x, int(down[-1]) + 1 - y]
            row = {"id": number, "category_id": category, "area": int(plane.sum()), "bbox": box, "iscrowd": 0}
            rows.append(row)
    return ids, rows


def write_maps(folder: Path, split: str, entries: Sequence[tuple[str, GroundTruth]], classes: Classes) -> None:
    """Write the semantic maps of one split as grey PNG files, `labels/SPLIT/`, and the names of their values."""
    labels = folder / "labels" / split
    labels.mkdir(parents=True, exist_ok=True)
    for file, ground_truth in entries:
        assert ground_truth.semantic is not None
        target = labels / f"{Path(file).stem}.png"
        with writing(target):
            Image.fromarray(ground_truth.semantic.numpy()).save(target)
    names = folder / "classes.txt"
    with writing(names):
        names.write_text("".join(f"{name}\n" for name in classes.semantic_names), encoding="utf-8")
