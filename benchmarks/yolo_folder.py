"""A split as Ultralytics' command line wants it: linked images, label files, a data.yaml; and what it writes, read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.records import Split
from boxwright.evaluation.joining import Image, join_results
from boxwright.evaluation.result_files import read_results
from boxwright.structures import Classes, Detections, GroundTruth


def write_yolo_folder(folder: Path, splits: dict[str, Split], classes: Classes) -> Path:
    """A YOLO dataset of checked splits, by the names that the YAML has for them; gives the path of the YAML.

    Regions to ignore are left out: the format has none.
    """
    for name, split in splits.items():
        images, labels = folder / "images" / name, folder / "labels" / name
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index, record in enumerate(split.records):
            assert record.stated_hw is not None  # as it is after preflight
            (images / f"{index:06d}{record.path.suffix.lower()}").symlink_to(record.path.resolve())
            rows = _rows(ground_truth_of(record, record.stated_hw), record.stated_hw)
            (labels / f"{index:06d}.txt").write_text("".join(rows))
    data = folder / "data.yaml"
    content = {"path": str(folder.resolve()), **{name: f"images/{name}" for name in splits}}
    data.write_text(yaml.safe_dump({**content, "names": dict(enumerate(classes.names))}, sort_keys=False))
    return data


def _rows(ground_truth: GroundTruth, size_hw: tuple[int, int]) -> list[str]:
    """`class cx cy width height` of each object, as fractions of the image."""
    height, width = size_hw
    rows = []
    for (x1, y1, x2, y2), label, ignore in zip(
        ground_truth.boxes.tolist(), ground_truth.labels.tolist(), ground_truth.ignore.tolist(), strict=True
    ):
        numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        if not ignore:
            rows.append(f"{label} {' '.join(f'{number:.6f}' for number in numbers)}\n")
    return rows


def read_yolo_results(folder: Path, sizes_hw: Sequence[tuple[int, int]], classes: Classes) -> list[Detections]:
    """Detections of each image from the text files of `save_txt save_conf`; an image without a file has none."""
    images = [Image(f"{index:06d}", f"{index:06d}.jpg", size) for index, size in enumerate(sizes_hw)]
    if not any(file.stat().st_size for file in folder.glob("*.txt")):
        nothing = torch.zeros(0)
        return [Detections(torch.zeros(0, 4), nothing, nothing.long(), size, classes) for size in sizes_hw]
    return join_results(read_results(folder), images, classes).detections
