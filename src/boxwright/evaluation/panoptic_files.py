"""Panoptic results from a file, as COCO has them, against ground truth: any program's, ours too.

`panoptic.json` has a row of segments for each image, and the PNG files beside it, in a folder of the file's name or in
`panoptic/`, the pixels of each segment (`map_files`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxwright.data.formats.listing import ImageFinder
from boxwright.data.formats.numbered_pixels import pixels_of_size
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.image_io.decode import image_size
from boxwright.data.records import Split
from boxwright.data.segments import Segments, segments_of
from boxwright.evaluation.panoptic_quality import panoptic_counts
from boxwright.evaluation.pixel_counts import PixelCounts, PixelFigures
from boxwright.evaluation.result_files import load_json
from boxwright.evaluation.semantic_iou import label_confusion
from boxwright.reading.values import ById, identity, whole_number
from boxwright.structures import Classes
from boxwright.structures.classes import IGNORED
from boxwright.wording import counted


@dataclass(frozen=True, slots=True)
class PanopticComparison:
    """The figures of results, of how many images, and warnings as sentences."""

    figures: PixelFigures
    images: int
    warnings: tuple[str, ...]


def holds_panoptic_results(path: Path) -> bool:
    """Whether a file has segments of images, and not detections."""
    if not path.is_file() or path.suffix.lower() != ".json":
        return False
    rows = _rows(load_json(path))
    return bool(rows) and isinstance(rows[0], dict) and "segments_info" in rows[0]


def compare_panoptic_files(part: Split, results: Path, limit: int | None = None) -> PanopticComparison:
    """Results against the first `limit` images of a split; an image without results is one in which nothing is found.

    Raises ValueError for ground truth without stuff, and with the place in the file for segments that do not fit it.
    """
    classes = part.classes
    if not classes.stuff:
        raise ValueError(
            f"{results}: it has panoptic segments, and the ground truth has no stuff; give COCO panoptic ground truth "
            "(panoptic_val2017.json)"
        )
    finder = ImageFinder([results.parent / results.stem, results.parent / "panoptic", results.parent])
    rows = ById((key, row) for row in _rows(load_json(results)) if (key := _key(results, row)) is not None)
    total, absent = None, []
    records = part.records[:limit]
    for record in records:
        hw = record.stated_hw or image_size(record.path)
        ground_truth = ground_truth_of(record, hw, masks=True, semantic=True)
        assert ground_truth.semantic is not None
        row = rows.get(record.image_id)
        if row is None:
            absent.append(str(record.path.name))
            found = Segments(torch.zeros(hw, dtype=torch.int32), (), ())
        else:
            found = _segments(results, row, finder, classes, hw)
        confusion = label_confusion(_labels(found, classes), ground_truth.semantic, len(classes.semantic_names))
        number = len(classes.names) + len(classes.stuff)
        counts = PixelCounts(confusion, panoptic_counts(found, segments_of(ground_truth, classes), number))
        total = counts if total is None else total + counts
    if total is None:
        raise ValueError(f"{results}: the ground truth has no image")
    warnings: tuple[str, ...] = ()
    if absent:
        warnings = (f"{counted(len(absent), 'image')} without results, such as {absent[0]}: nothing is found there.",)
    return PanopticComparison(total.figures(classes), len(records), warnings)


def _rows(content: Any) -> list[Any]:
    rows = content.get("annotations") if isinstance(content, dict) else content
    return rows if isinstance(rows, list) else []


def _key(results: Path, row: Any) -> int | str | None:
    key = identity(row.get("image_id")) if isinstance(row, dict) else None
    if key is None or not isinstance(row.get("file_name"), str) or not isinstance(row.get("segments_info"), list):
        raise ValueError(f'{results}: expected rows with "image_id", "file_name" and "segments_info", got {row!r:.120}')
    return key


def _segments(
    results: Path, row: dict[str, Any], finder: ImageFinder, classes: Classes, hw: tuple[int, int]
) -> Segments:
    """The segments of one image, numbered from 1 in the order of the file."""
    where = f"{results}: image id {row['image_id']!r:.60}"
    path = finder.find(row["file_name"])
    if path is None:
        raise ValueError(f"{where}: there is no {row['file_name']!r:.120} in {finder.folders[0]} nor beside the file")
    plane = pixels_of_size(path, hw, colours=True)
    place = {key: label for label, key in enumerate(classes.ids + classes.stuff_ids)}
    labels, ids = [], []
    for segment in row["segments_info"]:
        number, category = (
            whole_number(segment.get(key)) if isinstance(segment, dict) else None for key in ("id", "category_id")
        )
        if number is None or number < 1 or category not in place:
            raise ValueError(
                f"{where}: expected an id from 1 and a category_id of the ground truth, got {segment!r:.80}"
            )
        ids.append(number)
        labels.append(place[category])
    known = {0, *ids}
    unknown = [number for number in np.unique(plane).tolist() if number not in known]
    if unknown:
        raise ValueError(f"{where}: {path.name} has the segment id {unknown[0]}, which segments_info does not name")
    order = np.argsort(ids)
    sorted_ids = np.concatenate([[0], np.asarray(ids, dtype=np.int64)[order]])
    numbers = np.concatenate([[0], order + 1]).astype(np.int32)
    return Segments(torch.from_numpy(numbers[np.searchsorted(sorted_ids, plane)]), tuple(labels), (False,) * len(ids))


def _labels(found: Segments, classes: Classes) -> torch.Tensor:
    """The semantic labels (H, W) uint8 that segments mean; 255 where there is none."""
    first = len(classes.semantic_names) - len(classes.stuff)
    things = len(classes.names)
    meant = [IGNORED, *(0 if label < things else first + label - things for label in found.labels)]
    return torch.tensor(meant, dtype=torch.uint8)[found.map.long()]
