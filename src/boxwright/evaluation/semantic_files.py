"""Label maps from PNG files against ground truth: any program's, ours too.

`semantic/NAME.png` has the number of each pixel's label, 255 where there is none, and `semantic.json` beside that
folder (or in it) the name of each number (`map_files`, `boxwright predict --format semantic`). Without names the
numbers are the labels of the ground truth in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boxwright.data.formats.numbered_pixels import LabelPixels
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.image_io.decode import image_size
from boxwright.data.records import Split
from boxwright.evaluation.pixel_counts import PixelCounts, PixelFigures
from boxwright.evaluation.result_files import load_json, unique_stems
from boxwright.evaluation.semantic_iou import label_confusion
from boxwright.structures.classes import IGNORED
from boxwright.wording import counted

NAMES = "semantic.json"


@dataclass(frozen=True, slots=True)
class SemanticComparison:
    """The figures of label maps, of how many images, and warnings as sentences."""

    figures: PixelFigures
    images: int
    warnings: tuple[str, ...]


def holds_semantic_results(path: Path) -> bool:
    """Whether this is a folder of PNG files alone (and their names), or such a file of names."""
    if path.is_dir():
        files = [one for one in path.iterdir() if not one.name.startswith(".")]
        return any(one.suffix == ".png" for one in files) and all(
            one.suffix == ".png" or one.name == NAMES for one in files
        )
    return path.is_file() and path.name == NAMES and _names_in(load_json(path)) is not None


def compare_semantic_files(part: Split, results: Path, limit: int | None = None) -> SemanticComparison:
    """Label maps against the first `limit` images of a split; of an image without one no pixel is labelled.

    Raises ValueError for ground truth without labels of pixels, for names that it does not have, and for a file that is
    damaged or of another size than its image.
    """
    known = part.classes.semantic_names
    if not known:
        raise ValueError(f"{results}: it has labels of pixels, and the ground truth has none")
    folder, names = _folder_and_names(results)
    label_of = tuple(enumerate(range(len(known)))) if names is None else _labels_of(results, names, known)
    total, absent = None, []
    records = part.records[:limit]
    stems = unique_stems([record.path for record in part.records])
    for record, stem in zip(records, stems, strict=False):
        hw = record.stated_hw or image_size(record.path)
        wanted = ground_truth_of(record, hw, masks=False, semantic=True).semantic
        file = folder / f"{stem}.png"
        if wanted is None:
            continue
        if file.is_file():
            found = LabelPixels(file, label_of).labels(hw)
        else:
            absent.append(record.path.name)
            found = torch.full(hw, IGNORED, dtype=torch.uint8)
        counts = PixelCounts(label_confusion(found, wanted, len(known)))
        total = counts if total is None else total + counts
    if total is None:
        raise ValueError(f"{results}: no image of the ground truth has labels of pixels")
    if len(absent) == len(records):
        raise ValueError(f"{folder}: it has no map of any image; expected names such as {stems[0]}.png")
    warnings: tuple[str, ...] = ()
    if absent:
        warnings = (f"{counted(len(absent), 'image')} without a map, such as {absent[0]}: no pixel is labelled there.",)
    return SemanticComparison(total.figures(part.classes), len(records), warnings)


def _folder_and_names(results: Path) -> tuple[Path, dict[int, str] | None]:
    """Where the maps are, and the names of their numbers, if there are any."""
    if results.is_file():
        inside = results.parent / results.stem
        return (inside if inside.is_dir() else results.parent), _names_in(load_json(results))
    for file in (results / NAMES, results.parent / NAMES):
        if file.is_file():
            return results, _names_in(load_json(file))
    return results, None


def _names_in(content: Any) -> dict[int, str] | None:
    """The name of each number; None where this is something else."""
    if not isinstance(content, dict) or not content:
        return None
    if not all(key.isdecimal() and isinstance(name, str) for key, name in content.items()):
        return None
    return {int(key): name for key, name in content.items()}


def _labels_of(results: Path, names: dict[int, str], known: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The label that each number of a file means in the ground truth."""
    for name in names.values():
        if name not in known:
            raise ValueError(f"{results}: the ground truth has no label {name!r:.60}; it has {', '.join(known)}")
    return tuple((number, known.index(name)) for number, name in names.items())
