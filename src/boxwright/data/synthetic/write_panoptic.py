"""A shapes dataset with stuff as files: in COCO's panoptic layout, or as a plain folder of semantic maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from boxwright.data.formats.voc_masks import colour_of_index
from boxwright.data.segments import segments_of
from boxwright.structures import Classes, GroundTruth
from boxwright.visualize.label_images import panoptic_image
from boxwright.writing import writing


def write_panoptic(folder: Path, split: str, entries: Sequence[tuple[str, GroundTruth]], classes: Classes) -> None:
    """Write one split: `annotations/panoptic_SPLIT.json`, and the pixels of segments in a folder of that name."""
    target = folder / "annotations" / f"panoptic_{split}.json"
    pixels = target.with_suffix("")
    pixels.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for key, (file, ground_truth) in enumerate(entries, start=1):
        ids, segments = _numbered(ground_truth, classes)
        height, width = ids.shape
        name = f"{Path(file).stem}.png"
        with writing(pixels / name) as image:
            panoptic_image(ids).save(image)
        images.append({"id": key, "file_name": file, "width": width, "height": height})
        rows.append({"image_id": key, "file_name": name, "segments_info": segments})
    text = json.dumps({"images": images, "annotations": rows, "categories": categories_of(classes)})
    with writing(target):
        target.write_text(text, encoding="utf-8")


def categories_of(classes: Classes) -> list[dict[str, Any]]:
    """COCO's categories of classes of objects and stuff."""
    return [
        {"id": key, "name": name, "isthing": thing}
        for thing, names, keys in ((1, classes.names, classes.ids), (0, classes.stuff, classes.stuff_ids))
        for key, name in zip(keys, names, strict=True)
    ]


def segment_id(number: int) -> int:
    """The id of the n-th segment of an image, counted from 1: colours that are told apart by eye, up to 255 of them.

    >>> [segment_id(number) for number in (1, 2, 3, 300)]
    [128, 32768, 32896, 300]
    """
    red, green, blue = colour_of_index(number) if number < 256 else (number % 256, number // 256, 0)
    return red + (green << 8) + (blue << 16)


def _numbered(ground_truth: GroundTruth, classes: Classes) -> tuple[Tensor, list[dict[str, Any]]]:
    """The ids of the segments of an image (H, W), 0 where there is none, and COCO's row of each segment."""
    segments = segments_of(ground_truth, classes)
    ids = torch.tensor([0, *(segment_id(n) for n in range(1, len(segments.labels) + 1))])
    categories = classes.ids + classes.stuff_ids
    rows = []
    for number, label in enumerate(segments.labels, start=1):
        plane = segments.map == number
        down, across = plane.any(1).nonzero().flatten().tolist(), plane.any(0).nonzero().flatten().tolist()
        box = [across[0], down[0], across[-1] + 1 - across[0], down[-1] + 1 - down[0]]
        row = {"id": segment_id(number), "category_id": categories[label], "area": int(plane.sum()), "bbox": box}
        rows.append(row | {"iscrowd": 0})
    return ids[segments.map.long()], rows


def write_maps(folder: Path, split: str, entries: Sequence[tuple[str, GroundTruth]], classes: Classes) -> None:
    """Write the semantic maps of one split as grey PNG files, `labels/SPLIT/`, and the names of their values."""
    labels = folder / "labels" / split
    labels.mkdir(parents=True, exist_ok=True)
    for file, ground_truth in entries:
        assert ground_truth.semantic is not None
        with writing(labels / f"{Path(file).stem}.png") as target:
            Image.fromarray(ground_truth.semantic.numpy()).save(target)
    names = folder / "classes.txt"
    with writing(names):
        names.write_text("".join(f"{name}\n" for name in classes.semantic_names), encoding="utf-8")
