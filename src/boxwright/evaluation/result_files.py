"""Result files: detections (and ground truth as text), written and read in the formats of other tools.

| format | where | a row |
|---|---|---|
| COCO | one JSON list | `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`, and masks, ... |
| text (Cartucho/mAP) | one file per image | `class score x1 y1 x2 y2`; ground truth `class x1 y1 x2 y2 [difficult]` |
| VOC | one file per class, `comp4_det_test_<class>.txt` | `image score x1 y1 x2 y2` |
| YOLO | one file per image | `class cx cy width height score`, as fractions of the image |
| DOTA | one file per class, `Task1_<class>.txt` | `image score x1 y1 x2 y2 x3 y3 x4 y4`, corners of a rotated box |

Coordinates are written so that reading them gives the same float32 values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxwright.evaluation.matching import Floats
from boxwright.evaluation.written_names import file_stems, name_of_row, names_of_stems, row_name
from boxwright.ops.rotated import rotated_around, rotated_corners, rotated_hull
from boxwright.ops.run_lengths import rle_extent
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.wording import counted
from boxwright.writing import writing

_LARGEST = 1e18  # pixels, or a score: beyond it sums and areas overflow float32
VOC_FILE = re.compile(r"comp\d+_det_[^_]+_(?P<name>.+)")
DOTA_FILE = re.compile(r"Task1_(?P<name>.+)")


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows of a result file before they are joined with images: boxes (N, 4) x1, y1, x2, y2 and scores (N,).

    `images` and `classes` (N) are ids or names as in the file. format is "coco", "text", "voc", "yolo" or "dota"; for
    YOLO, boxes are fractions of the image and classes are indices into the list of classes. `segmentations` (N) are
    COCO's, not yet decoded, if any row has one; None for a row without one. `keypoints` (N, P, 3) are x, y, score in
    pixels, `rotated` (N, 5) the boxes that `boxes` are the hulls of.
    """

    source: Path
    format: str
    images: tuple[int | str, ...]
    classes: tuple[int | str, ...]
    scores: Floats
    boxes: Floats
    segmentations: tuple[Any, ...] | None = None
    keypoints: Floats | None = None
    rotated: Floats | None = None

    def __len__(self) -> int:
        return len(self.scores)


def write_coco_results(
    path: Path, detections: Sequence[Detections], image_ids: Sequence[int | str], *, polygons: bool = False
) -> None:
    """One COCO result file with the user's own image and category ids; masks as run-length codes or polygons."""
    pairs = zip(detections, image_ids, strict=True)
    rows = [row for found, key in pairs for row in found.to_coco(key, polygons=polygons)]
    _write(path, json.dumps(rows))


def write_text_results(folder: Path, detections: Sequence[Detections], stems: Sequence[str]) -> None:
    """A text file per image, `class score x1 y1 x2 y2`; images without detections get an empty file."""
    for found, stem in zip(detections, stems, strict=True):
        rows = zip(found.names, found.scores.tolist(), found.boxes.tolist(), strict=True)
        lines = [f"{row_name(name)} {_join([score, *box])}\n" for name, score, box in rows]
        _write(folder / f"{stem}.txt", "".join(lines))


def write_dota_results(folder: Path, found: Detections, stem: str) -> None:
    """A line for each rotated box, `image score x1 y1 x2 y2 x3 y3 x4 y4`, added to the file of its class."""
    if found.rotated is None or not len(found):
        return
    folder.mkdir(parents=True, exist_ok=True)
    names = found.names if found.classes is None else found.classes.names
    files = dict(zip(names, file_stems(names), strict=True))
    corners = rotated_corners(found.rotated.double()).flatten(1).tolist()
    for name, score, places in zip(found.names, found.scores.tolist(), corners, strict=True):
        file = folder / f"Task1_{files[name]}.txt"
        with writing(file), file.open("a", encoding="utf-8") as lines:
            lines.write(f"{stem} {_join([score, *places])}\n")


def write_text_ground_truth(
    folder: Path, ground_truths: Sequence[GroundTruth], stems: Sequence[str], classes: Classes
) -> None:
    """A text file per image, `class x1 y1 x2 y2 [difficult]`."""
    for ground_truth, stem in zip(ground_truths, stems, strict=True):
        rows = zip(ground_truth.labels.tolist(), ground_truth.boxes.tolist(), ground_truth.ignore.tolist(), strict=True)
        names = [row_name(name) for name in classes.names]
        lines = [f"{names[label]} {_join(box)}{' difficult' if hard else ''}\n" for label, box, hard in rows]
        _write(folder / f"{stem}.txt", "".join(lines))


def write_voc_results(
    folder: Path, detections: Sequence[Detections], stems: Sequence[str], classes: Classes, split: str = "test"
) -> None:
    """A text file per class, `image score x1 y1 x2 y2`, named as the VOC kit expects (`file_stems`)."""
    lines: dict[int, list[str]] = {label: [] for label in range(len(classes))}
    for found, stem in zip(detections, stems, strict=True):
        for label, score, box in zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True):
            lines[label].append(f"{row_name(stem)} {_join([score, *box])}\n")
    for label, name in enumerate(file_stems(classes.names)):
        _write(folder / f"comp4_det_{split}_{name}.txt", "".join(lines[label]))


def write_yolo_results(folder: Path, detections: Sequence[Detections], stems: Sequence[str]) -> None:
    """A text file per image, `class cx cy width height score`, boxes as fractions of the image."""
    for found, stem in zip(detections, stems, strict=True):
        height, width = found.size_hw
        lines = []
        for label, score, (x1, y1, x2, y2) in zip(
            found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
        ):
            numbers = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height, score]
            lines.append(f"{label} {_join(numbers)}\n")
        _write(folder / f"{stem}.txt", "".join(lines))


def unique_stems(names: Sequence[str | Path]) -> list[str]:
    """A valid file name for each image: its stem, with its folder (and a number) if stems repeat."""
    paths = [Path(name) for name in names]
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        stems = [f"{path.parent.name}__{path.stem}" if path.parent.name else path.stem for path in paths]
    if len(set(stems)) < len(stems):
        stems = [f"{index:06d}__{stem}" for index, stem in enumerate(stems)]
    return stems


def _join(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:.9g}" for number in numbers)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path):
        # a file name may contain bytes that are not UTF-8
        path.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_results(path: Path, class_names: Sequence[str] = ()) -> ResultTable:
    """Detections from a COCO result file, or from a text, VOC, YOLO or DOTA folder, which are told apart by content.

    A folder holds VOC files if they are named `comp4_det_<split>_<class>.txt` or after names in `class_names`, and
    DOTA's if all are named `Task1_<class>.txt`. Raises ValueError with file and row, or FileNotFoundError.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder of detections")
    if path.is_file() and path.suffix == ".json":
        return _read_coco(path)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    files = [file for file in files if file.name != "classes.txt"]  # labelling tools write it beside YOLO files
    if not files or (path.is_file() and path.suffix != ".txt"):
        raise ValueError(f"{path}: expected a COCO result file (.json) or a folder of .txt files with detections")
    stems = {file.stem for file in files}
    if all(DOTA_FILE.fullmatch(stem) for stem in stems):
        return _read_dota(path, files, class_names)
    as_classes = {*class_names, *file_stems(class_names)}
    if any(VOC_FILE.fullmatch(stem) for stem in stems) or (class_names and stems <= as_classes):
        return _read_voc(path, files, class_names)
    rows = [(file, where, line) for file in files for where, line in _lines(file)]
    if rows and all(_is_yolo(line.split()) for _, _, line in rows):
        return _read_yolo(path, rows)
    named = [(file.stem, *_text_row(where, line, 5)) for file, where, line in rows]
    return _table(path, "text", [(stem, name, *numbers) for stem, name, numbers in named])


def _table(source: Path, kind: str, rows: list[tuple[Any, ...]]) -> ResultTable:
    """Rows (image, class, score, x1, y1, x2, y2) as one table."""
    numbers = np.array([row[2:] for row in rows], dtype=np.float64).reshape(-1, 5)
    images, names = tuple(row[0] for row in rows), tuple(row[1] for row in rows)
    return ResultTable(source, kind, images, names, numbers[:, 0], numbers[:, 1:])


def load_json(path: Path) -> Any:
    """The content of a JSON file; ValueError with file and line if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        at = f", line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{path}: not a JSON file{at}") from error


def _read_coco(path: Path) -> ResultTable:
    data = load_json(path)
    data = data.get("annotations") if isinstance(data, dict) else data
    if not isinstance(data, list):
        raise ValueError(f"{path}: expected a JSON list of detections with image_id, category_id, bbox and score")
    table = _table(path, "coco", [_coco_row(path, index, row) for index, row in enumerate(data)])
    masks = tuple(row.get("segmentation") if _has_mask(row) else None for row in data)
    table = replace(table, keypoints=_keypoints(path, data), rotated=_rotated(path, data))
    return replace(table, segmentations=masks) if any(mask is not None for mask in masks) else table


def _keypoints(path: Path, rows: list[dict[str, Any]]) -> Floats | None:
    """Keypoints (N, P, 3), half a pixel right and down of COCO's; None where the rows have none."""
    if not any(row.get("keypoints") for row in rows):
        return None
    points = [_points_of(f"{path}: detection {index}", row) for index, row in enumerate(rows)]
    for index, one in enumerate(points):
        if len(one) != len(points[0]):
            raise ValueError(
                f"{path}: detection {index} has {counted(len(one), 'keypoint')}, the first {len(points[0])}: expected "
                "as many in each"
            )
    placed: Floats = np.stack(points) + np.array([0.5, 0.5, 0.0])
    return placed


def _rotated(path: Path, rows: list[dict[str, Any]]) -> Floats | None:
    """Rotated boxes (N, 5) of a file in which all rows have one; None where none has."""
    if not any(row.get("rotated") for row in rows):
        return None
    for index, row in enumerate(rows):
        given = row.get("rotated")
        numbers = [_finite(value) for value in given] if isinstance(given, list) else []
        if len(numbers) != 5 or None in numbers:
            raise ValueError(
                f"{path}: detection {index}: expected rotated as cx, cy, w, h and degrees, five finite numbers in each "
                f"detection, got {given!r:.80}"
            )
    return np.array([row["rotated"] for row in rows], dtype=np.float64)


def _points_of(where: str, row: dict[str, Any]) -> Floats:
    """The keypoints (P, 3) of a row as they are written."""
    given = row.get("keypoints") or []
    numbers = [_finite(value) for value in given] if isinstance(given, list) else [None]
    if len(numbers) % 3 or None in numbers:
        raise ValueError(f"{where}: expected keypoints as x, y, score of each, finite numbers, got {given!r:.80}")
    return np.array(numbers, dtype=np.float64).reshape(-1, 3)


def _has_mask(row: dict[str, Any]) -> bool:
    """Whether a row has a mask: `[]` and `[[]]` do not count."""
    mask = row.get("segmentation")
    return any(part != [] for part in mask) if isinstance(mask, list) else bool(mask)


def _coco_row(path: Path, index: int, row: Any) -> tuple[Any, ...]:
    where = f"{path}: detection {index}"
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with image_id, category_id, bbox and score")
    if row.get("bbox") in (None, []) and "segmentation" in row:  # as the COCO tools do
        row = row | {"bbox": _box_of_mask(where, row)}
    if row.get("bbox") in (None, []) and row.get("keypoints"):
        x, y = _points_of(where, row)[:, :2].T
        row = row | {"bbox": [x.min(), y.min(), np.ptp(x), np.ptp(y)]}
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in row]
    if missing:
        hint = "; this looks like ground truth, not detections" if missing == ["score"] else ""
        raise ValueError(f"{where} has no {' and no '.join(missing)}{hint}")
    numbers = row["bbox"] if isinstance(row["bbox"], list) and len(row["bbox"]) == 4 else []
    x, y, width, height, score = (*map(_finite, numbers), _finite(row["score"])) if numbers else (None,) * 5
    if x is None or y is None or width is None or height is None or score is None:
        raise ValueError(f"{where}: expected bbox [x, y, width, height] and score as finite numbers, got {row}"[:300])
    image, category = (_identity(where, key, row[key]) for key in ("image_id", "category_id"))
    return image, category, score, x, y, x + width, y + height


def _identity(where: str, key: str, value: Any) -> int | str:
    """An id: an integer (1.0 is 1) or text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{where}: expected {key} as an integer or text, got {value!r:.60}")
    return value


def _box_of_mask(where: str, row: dict[str, Any]) -> list[float]:
    """The box [x, y, width, height] of a row's mask; zeros if the mask is empty."""
    mask = row["segmentation"]
    try:
        if not _has_mask(row):
            return [0.0] * 4
        if isinstance(mask, dict):
            height, width = (int(side) for side in mask["size"])
            return list(map(float, rle_extent(mask["counts"], (height, width))))
        parts = [np.asarray(part, np.float64) for part in (mask if isinstance(mask[0], list) else [mask])]
        points = np.concatenate([part.reshape(-1, 2) for part in parts])
        return [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
        raise ValueError(f"{where}: the mask cannot be decoded ({error})") from error


def _finite(value: Any) -> float | None:
    """A number in the range of float32 (also one written as text), or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < _LARGEST else None


def _read_voc(path: Path, files: list[Path], class_names: Sequence[str]) -> ResultTable:
    given = {file: match["name"] if (match := VOC_FILE.fullmatch(file.stem)) else file.stem for file in files}
    names = names_of_stems(given.values(), class_names)
    rows = []
    for file in files:
        for where, line in _lines(file):
            image, numbers = _text_row(where, line, 5)
            rows.append((image, names[given[file]], *numbers))
    return _table(path, "voc", rows)


def _read_dota(path: Path, files: list[Path], class_names: Sequence[str]) -> ResultTable:
    given = {file: str(file.stem).removeprefix("Task1_") for file in files}
    names = names_of_stems(given.values(), class_names)
    rows = [(names[given[file]], *_text_row(where, line, 9)) for file in files for where, line in _lines(file)]
    numbers = torch.tensor([found for _, _, found in rows], dtype=torch.float64).reshape(-1, 9)
    rotated = rotated_around(numbers[:, 1:].reshape(-1, 4, 2))
    images, classes = tuple(image for _, image, _ in rows), tuple(name for name, _, _ in rows)
    hulls = rotated_hull(rotated).numpy()
    return ResultTable(path, "dota", images, classes, numbers[:, 0].numpy(), hulls, rotated=rotated.numpy())


def _is_yolo(words: list[str]) -> bool:
    if len(words) not in (5, 6) or not words[0].isdecimal():
        return False
    numbers = [_finite(word) for word in words[1:]]
    return all(number is not None and -0.001 <= number <= 1.001 for number in numbers)


def _read_yolo(path: Path, lines: list[tuple[Path, str, str]]) -> ResultTable:
    rows = []
    for file, where, line in lines:
        words = line.split()
        if len(words) == 5:
            raise ValueError(f"{where}: five numbers contain no score; let YOLO write it (save_conf=True)")
        cx, cy, width, height, score = (float(word) for word in words[1:])
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        rows.append((file.stem, int(words[0]), score, *box))
    return _table(path, "yolo", rows)


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Each non-blank line: `file:line` and its text."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file") from error
    for number, line in enumerate(text.split("\n"), 1):  # read_text has normalised the line ends
        if line.strip():
            yield f"{file}:{number}", line


def _text_row(where: str, line: str, count: int) -> tuple[str, list[float]]:
    """A name (which may contain spaces) and the `count` numbers after it."""
    name, *words = line.strip().rsplit(None, count)
    known = [number for number in map(_finite, words) if number is not None]
    if len(known) < count:
        raise ValueError(f"{where}: expected a name and {count} numbers, got {line.strip()[:80]!r}")
    return name_of_row(name), known


def read_text_rows(folder: Path) -> list[tuple[str, str, str, list[float], bool]]:
    """Rows of ground truth text: file:line, image, class, the four coordinates, and the flag "difficult"."""
    rows = []
    for file in sorted(folder.glob("*.txt")):
        for where, line in _lines(file):
            body, hard = _without_flag(line)
            name, box = _text_row(where, body, 4)
            rows.append((where, file.stem, name, box, hard))
    return rows


def _without_flag(line: str) -> tuple[str, bool]:
    """A row of ground truth without its flag "difficult", and the flag."""
    words = line.rsplit(None, 1)
    return (words[0], True) if len(words) == 2 and words[1].lower() == "difficult" else (line, False)


def holds_text_ground_truth(folder: Path) -> bool:
    """Whether a folder holds ground truth as text files of `class x1 y1 x2 y2` (unlike YOLO's rows of fractions)."""
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    for file in files:
        for _, line in _lines(file):
            words = _without_flag(line)[0].split()
            return len(words) >= 5 and all(_finite(w) is not None for w in words[-4:]) and not _is_yolo(words)
    return False
