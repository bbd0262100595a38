"""COCO JSON: images, categories and annotations in one file per split, in the layouts found in practice.

Supported: `annotations/instances_{train,val}.json` (also `train2017`) with images in `images/`, `train/`,
`train2017/` or the root; `{train,valid,test}/_annotations.coco.json` beside the images; one JSON file. Category ids
may start anywhere and have gaps. `iscrowd` objects become ignore regions; the field `ignore` is not used, as in
pycocotools. Masks are passed on undecoded; keypoints are those that all categories with keypoints agree on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from boxwright.data.formats.coco_categories import join_categories, read_categories
from boxwright.data.formats.coco_rows import CocoRows
from boxwright.data.formats.coco_skeleton import read_skeleton
from boxwright.data.formats.json_lists import recognises_lists
from boxwright.data.formats.listing import (
    ImageFinder,
    files_in,
    folders_in,
    split_folders,
    split_in_name,
    split_name,
    split_order,
    subfolder,
)
from boxwright.data.records import LabelledFolder
from boxwright.structures import Classes

COCO_LAYOUT = "COCO (annotations/instances_train.json with images/, or {train,valid,test}/_annotations.coco.json)"
_PEEK = 65536  # bytes in which one of the keys of a COCO file must occur


def recognises_coco(path: Path) -> bool:
    """Whether a path is a JSON file, or a folder with JSON files in a layout that `read_coco` supports."""
    if path.is_file():
        return path.suffix.lower() == ".json" and not is_panoptic_name(path.name) and not recognises_lists(path)
    return bool(_annotation_files(path))


def read_coco(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read a COCO folder or file; classes are ordered by category id unless `class_names` gives the order."""
    files = {split_of(path): path} if path.is_file() else _annotation_files(path)
    if not files:
        raise ValueError(f"{path}: no COCO annotation file here")
    root = root_of(path) if path.is_file() else path

    def finder(file: Path, split: str) -> ImageFinder:
        return ImageFinder(list(image_folders(root, file, split)), root, split)

    return read_coco_files(root, "coco", files, finder, class_names)


def read_coco_files(
    root: Path,
    name: str,
    files: dict[str, Path],
    finder_of: Callable[[Path, str], ImageFinder],
    class_names: Sequence[str] | None,
) -> LabelledFolder:
    """Read COCO files by split; `name` is the format's, and `finder_of` gives where the images of a file and split are.

    Raises ValueError with one sentence.
    """
    notes: list[str] = []
    contents = _contents(files, notes)
    files = {split: file for split, file in files.items() if split in contents}
    categories, ids_of_file = join_categories(
        [(file, read_categories(contents[split], file, notes)) for split, file in files.items()], notes
    )
    skeleton = read_skeleton([(file, contents[split]) for split, file in files.items()], notes)
    classes = Classes(tuple(categories.values()), tuple(categories), skeleton)
    if class_names:
        classes = _ordered(classes, class_names, root)
    splits = {}
    for split in split_order(files):
        file = files[split]
        rows = CocoRows(file, finder_of(file, split), classes, ids_of_file[file])
        splits[split] = rows.split(split, contents.pop(split))
    return LabelledFolder(root, name, classes, splits, tuple(dict.fromkeys(notes)))


def _contents(files: dict[str, Path], notes: list[str]) -> dict[str, dict[str, Any]]:
    """The files by split; one that cannot be read is reported and left out if it is neither train nor val."""
    contents = {}
    for split, file in files.items():
        try:
            contents[split] = load_coco(file)
        except ValueError as error:
            if split in ("train", "val", "trainval") or len(files) == 1:
                raise
            notes.append(f"{error}: split {split} is left out")
    if not contents:
        load_coco(next(iter(files.values())))
    return contents


def load_coco(file: Path) -> dict[str, Any]:
    """The content of a COCO ground truth file, with its top-level structure checked.

    Raises ValueError with one sentence for a file that is not JSON or not COCO ground truth.
    """
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, or a number of 5,000 digits
        raise ValueError(f"{file}: this is not valid JSON ({error!s:.200})") from error
    if isinstance(content, list):
        rows = [row for row in content[:1] if isinstance(row, dict)]
        if rows and "score" in rows[0]:
            raise ValueError(
                f"{file}: this is a COCO result file (detections); give the ground truth file with its images"
            )
        raise ValueError(f'{file}: expected a JSON object with "images", "annotations" and "categories", got a list')
    if not isinstance(content, dict):
        raise ValueError(f'{file}: expected a JSON object with "images", "annotations" and "categories"')
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            state = "is missing" if key not in content else "is not a list"
            raise ValueError(
                f'{file}: "{key}" {state}; a COCO ground truth file has images, annotations and categories'
            )
    return content


def _ordered(classes: Classes, names: Sequence[str], path: Path) -> Classes:
    id_of = dict(zip(classes.names, classes.ids, strict=True))
    unknown = [name for name in names if name not in id_of]
    if unknown:
        raise ValueError(f"{path}: no category named {unknown[0]!r}; the file has {', '.join(classes.names)}")
    return Classes(tuple(names), tuple(id_of[name] for name in names), classes.skeleton)


def _annotation_files(root: Path) -> dict[str, Path]:
    """COCO files by split."""
    for folder in (subfolder(root, "annotations"), root):
        files = _coco_files(folder) if folder is not None else []
        instances = [file for file in files if file.stem.lower().startswith("instances")]
        if instances or files:
            return by_split(instances or files)
    found = {split: _coco_files(folder) for split, folder in split_folders(root).items()}
    for files in found.values():
        if len(files) > 1:
            raise ValueError(f"{files[0].parent}: several COCO files ({_names(files)}) for one split; keep one")
    return {split: files[0] for split, files in found.items() if files}


def _coco_files(folder: Path) -> list[Path]:
    names = [name for name in files_in(folder) if name.lower().endswith(".json") and not is_panoptic_name(name)]
    return [folder / name for name in names if _looks_coco(folder / name)]


def is_panoptic_name(name: str) -> bool:
    """Whether a JSON file is called as those of COCO panoptic are, which have segments in place of objects."""
    return name.lower().startswith("panoptic")


def _looks_coco(file: Path) -> bool:
    if not file.is_file():  # such as a pipe
        return False
    with file.open("rb") as handle:
        start = handle.read(_PEEK)
        # "categories" alone is in other files too, such as the notes.json of Label Studio's YOLO export
        if any(key in start for key in (b'"annotations"', b'"images"')) or (
            b'"categories"' in start and len(start) == _PEEK
        ):
            return True
    # A single JSON file called instances_*.json is meant as COCO; its errors are reported when it is read.
    return file.name.lower().startswith(("instances", "_annotations"))


def by_split(files: list[Path]) -> dict[str, Path]:
    """COCO files by the splits that their names stand for; ValueError where two stand for one."""
    if len(files) == 1:
        return {split_of(files[0]): files[0]}
    result: dict[str, Path] = {}
    for file in files:
        split = _named_split(file) or file.stem
        if split in result:
            raise ValueError(
                f"{file.parent}: {result[split].name} and {file.name} both stand for {split}; name one file"
            )
        result[split] = file
    unnamed = [split for split in result if split_name(split) is None]
    if "train" not in result and len(unnamed) == 1:  # CVAT's name for images without a subset
        result["train"] = result.pop(unnamed[0])
    return result


def split_of(file: Path) -> str:
    """The split of a single file: by its name, by its folder's name, or train."""
    return _named_split(file) or split_name(file.parent.name) or "train"


def _named_split(file: Path) -> str | None:
    return split_in_name(file.stem.lower().removesuffix(".coco"))


def root_of(file: Path) -> Path:
    """The folder of the dataset that an annotation file belongs to."""
    return file.parent.parent if file.parent.name.lower() == "annotations" else file.parent


def _names(files: list[Path]) -> str:
    return ", ".join(file.name for file in files)


def _named_in(base: Path, file: Path) -> Path | None:
    """The sub-folder named by the end of a file's name: `images/default/` for `instances_default.json`."""
    stem = file.stem.lower()
    names = [name for name in folders_in(base) if f"_{stem}".endswith(f"_{name.lower()}")]
    return base / max(names, key=len) if names else None


def image_folders(root: Path, file: Path, split: str) -> Iterator[Path]:
    """Where the images of a split may be, the most likely place first."""
    for base in (root, subfolder(root, "images", "jpegimages", "imgs", "data", "pictures")):
        if base is not None:
            named = split_folders(base).get(split) or _named_in(base, file)
            if named is not None:
                yield from (inner for inner in (subfolder(named, "images"), named) if inner is not None)
            if base != root:
                yield base
    inside = subfolder(file.parent, "images")
    yield from (folder for folder in (inside, file.parent, root) if folder is not None)
