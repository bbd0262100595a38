"""COCO JSON: pictures, categories and annotations in one file a split, in the layouts that people really have.

Understood: `annotations/instances_{train,val}.json` (also `train2017`) with pictures in `images/`, `train/`,
`train2017/` or the root; `{train,valid,test}/_annotations.coco.json` beside the pictures; one JSON file. Category ids
may start anywhere and have gaps. `iscrowd` objects become ignore regions, and `ignore` means nothing, as in
pycocotools; masks are handed on undecoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

from boxwright.data.coco_categories import join_categories, read_categories
from boxwright.data.listing import PictureFinder, files_in, split_folders, split_name, split_order, subfolder
from boxwright.data.records import Annotation, DataSet, Problem, Record, Split
from boxwright.ops.masks import rle_extent
from boxwright.structures import Classes

COCO_LAYOUT = "COCO (annotations/instances_train.json with images/, or {train,valid,test}/_annotations.coco.json)"
_PEEK = 65536  # bytes in which one of the keys of a COCO file must stand


def recognises_coco(path: Path) -> bool:
    """Whether a path is a JSON file, or a folder with JSON files in a layout that `read_coco` understands."""
    if path.is_file():
        return path.suffix.lower() == ".json"
    return bool(_annotation_files(path))


def read_coco(path: Path, class_names: Sequence[str] | None = None) -> DataSet:
    """A COCO folder or file; classes are ordered by category id unless `class_names` orders them."""
    files = {_split_of(path): path} if path.is_file() else _annotation_files(path)
    if not files:
        raise ValueError(f"{path}: no COCO annotation file here")
    root = _root_of(path) if path.is_file() else path
    contents = {split: load_coco(file) for split, file in files.items()}
    notes: list[str] = []
    categories, ids_of_file = join_categories(
        [(file, read_categories(contents[split], file, notes)) for split, file in files.items()], notes
    )
    classes = Classes(tuple(categories.values()), tuple(categories))
    if class_names:
        classes = _ordered(classes, class_names, path)
    splits = {}
    for split in split_order(files):
        file = files[split]
        finder = PictureFinder(list(_picture_folders(root, file, split)))
        reader = _FileReader(file, finder, classes, ids_of_file[file])
        splits[split] = reader.split(split, contents.pop(split))
    return DataSet(root, "coco", classes, splits, tuple(dict.fromkeys(notes)))


def load_coco(file: Path) -> dict[str, Any]:
    """The content of a COCO truth file, its outer shape checked.

    Raises ValueError with one sentence for JSON that cannot be read, or that is something else.
    """
    try:
        content = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: this is not valid JSON ({error})") from error
    if isinstance(content, list):
        rows = [row for row in content[:1] if isinstance(row, dict)]
        if rows and "score" in rows[0]:
            raise ValueError(f"{file}: this is a COCO result file (detections); give the truth file with its pictures")
        raise ValueError(f'{file}: expected a JSON object with "images", "annotations" and "categories", got a list')
    if not isinstance(content, dict):
        raise ValueError(f'{file}: expected a JSON object with "images", "annotations" and "categories"')
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            state = "is missing" if key not in content else "is not a list"
            raise ValueError(f'{file}: "{key}" {state}; a COCO truth file has images, annotations and categories')
    return content


def _ordered(classes: Classes, names: Sequence[str], path: Path) -> Classes:
    id_of = dict(zip(classes.names, classes.ids, strict=True))
    unknown = [name for name in names if name not in id_of]
    if unknown:
        raise ValueError(f"{path}: no category named {unknown[0]!r}; the file has {', '.join(classes.names)}")
    return Classes(tuple(names), tuple(id_of[name] for name in names))


def _annotation_files(root: Path) -> dict[str, Path]:
    """COCO files by split."""
    for folder in (subfolder(root, "annotations"), root):
        files = _coco_files(folder) if folder is not None else []
        instances = [file for file in files if file.stem.lower().startswith("instances")]
        if instances or files:
            return _by_split(instances or files)
    found = {split: _coco_files(folder) for split, folder in split_folders(root).items()}
    for files in found.values():
        if len(files) > 1:
            raise ValueError(f"{files[0].parent}: several COCO files ({_names(files)}) for one split; keep one")
    return {split: files[0] for split, files in found.items() if files}


def _coco_files(folder: Path) -> list[Path]:
    return [folder / name for name in files_in(folder) if name.lower().endswith(".json") and _looks_coco(folder / name)]


def _looks_coco(file: Path) -> bool:
    with file.open("rb") as handle:
        start = handle.read(_PEEK)
        if any(key in start for key in (b'"annotations"', b'"images"', b'"categories"')):
            return True
    # Someone's only JSON file called instances_*.json is meant as COCO; what is wrong with it is said on reading.
    return file.name.lower().startswith(("instances", "_annotations"))


def _by_split(files: list[Path]) -> dict[str, Path]:
    if len(files) == 1:
        return {_split_of(files[0]): files[0]}
    result: dict[str, Path] = {}
    for file in files:
        split = _split_in_name(file) or file.stem
        if split in result:
            raise ValueError(
                f"{file.parent}: {result[split].name} and {file.name} both stand for {split}; name one file"
            )
        result[split] = file
    return result


def _split_of(file: Path) -> str:
    """The split that a single file stands for: by its name, by its folder's, or train."""
    return _split_in_name(file) or split_name(file.parent.name) or "train"


def _split_in_name(file: Path) -> str | None:
    stem = file.stem.lower().removesuffix(".coco")
    parts = [stem, *stem.replace("-", "_").replace(".", "_").split("_")]
    return next((found for found in map(split_name, parts) if found), None)


def _root_of(file: Path) -> Path:
    return file.parent.parent if file.parent.name.lower() == "annotations" else file.parent


def _names(files: list[Path]) -> str:
    return ", ".join(file.name for file in files)


def _picture_folders(root: Path, file: Path, split: str) -> Iterator[Path]:
    """Where the pictures of a split may lie, the likeliest first."""
    for base in (root, subfolder(root, "images", "jpegimages", "imgs", "data", "pictures")):
        if base is not None:
            named = split_folders(base).get(split)
            if named is not None:
                yield from (inner for inner in (subfolder(named, "images"), named) if inner is not None)
            if base != root:
                yield base
    inside = subfolder(file.parent, "images")
    yield from (folder for folder in (inside, file.parent, root) if folder is not None)


class _FileReader:
    """Turns the content of one file into the records of a split; what it cannot use becomes a problem."""

    def __init__(self, file: Path, finder: PictureFinder, classes: Classes, id_of: dict[Any, int]) -> None:
        self.file, self.finder, self.classes, self.id_of = file, finder, classes, id_of
        self.labels = {identity: label for label, identity in enumerate(classes.ids)}
        self.problems: list[Problem] = []

    def split(self, name: str, content: dict[str, Any]) -> Split:
        objects: dict[int | str, list[Annotation]] = {}
        images = dict(self._images(content["images"]))
        for index, row in enumerate(content["annotations"]):
            self._annotation(index, row, images, objects)
        records = []
        for identity, image in images.items():
            path, size = self._picture(image), _size(image)
            where = f"{self.file}: image id {identity}"
            records.append(Record(path, identity, size, tuple(objects.get(identity, ())), where))
        return Split(name, tuple(records), self.classes, tuple(self.problems))

    def _images(self, rows: list[Any]) -> Iterator[tuple[int | str, dict[str, Any]]]:
        seen: set[int | str] = set()
        for index, row in enumerate(rows):
            identity = row.get("id") if isinstance(row, dict) else None
            if not isinstance(identity, int | str) or not isinstance(row.get("file_name"), str):
                self._problem("bad-image", f"entry {index} of images", 'it has no "id" or no "file_name"')
            elif identity in seen:
                self._problem("repeated-image-id", f"image id {identity}", "the id stands twice; the first one counts")
            else:
                seen.add(identity)
                yield identity, row

    def _picture(self, image: dict[str, Any]) -> Path:
        name = image["file_name"]
        found = self.finder.find(name)
        return found or self.finder.folders[0] / Path(name.replace("\\", "/")).name

    def _annotation(
        self, index: int, row: Any, images: dict[int | str, Any], objects: dict[int | str, list[Annotation]]
    ) -> None:
        if not isinstance(row, dict) or not isinstance(row.get("image_id"), int | str):
            self._problem("bad-annotation", f"entry {index} of annotations", 'it has no "image_id"')
            return
        identity, category = row["image_id"], row.get("category_id")
        image = images.get(identity)
        place = f"annotation id {row.get('id', f'missing, entry {index}')} (image id {identity}"
        place += f", {image['file_name']})" if image else ")"
        box = _corners(row)
        label = self.labels.get(self.id_of[category]) if _is_key(category) and category in self.id_of else None
        if image is None:
            self._problem("unknown-image", place, f"no image has the id {identity!r}", box)
        elif not _is_key(category) or category not in self.id_of:
            self._problem("unknown-class", place, f"no category has the id {category!r}", box)
        elif box is None:
            self._problem("bad-box", place, f'"bbox" is not four numbers x, y, width, height: {row.get("bbox")!r:.60}')
        elif label is not None:
            objects.setdefault(identity, []).append(
                Annotation(
                    box=box,
                    label=label,
                    where=f"{self.file}: {place}",
                    ignore=bool(row.get("iscrowd")),
                    segmentation=row.get("segmentation") or None,
                    area=float(row["area"]) if _is_number(row.get("area")) else None,
                )
            )

    def _problem(
        self, kind: str, place: str, message: str, box: tuple[float, float, float, float] | None = None
    ) -> None:
        where = f"{self.file}: {place}"
        self.problems.append(Problem(kind, where, message, box, quarantined=True, severity="error"))


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e18)


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    if not _is_number(height) or not _is_number(width):
        return None
    return (int(height), int(width)) if 0 < height < 1e9 and 0 < width < 1e9 else None


def _corners(row: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Corners of an annotation's box, from its mask where it has none."""
    box, polygons = row.get("bbox"), row.get("segmentation")
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        x, y, width, height = map(float, box)
        return x, y, x + width, y + height
    if not box and isinstance(polygons, list) and polygons and all(isinstance(item, list) for item in polygons):
        points = list(chain.from_iterable(polygons))
        if len(points) >= 6 and all(map(_is_number, points)):
            columns, rows = points[0::2], points[1::2]
            return float(min(columns)), float(min(rows)), float(max(columns)), float(max(rows))
    if not box and isinstance(polygons, dict):
        return _corners_of_code(polygons)
    return None


def _corners_of_code(code: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Corners of the box around a run-length code, None where that is damaged or covers no pixel."""
    try:
        height, width = map(int, code["size"])
        x, y, across, down = map(float, rle_extent(code["counts"], (height, width)))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        return None
    return (x, y, x + across, y + down) if across else None
