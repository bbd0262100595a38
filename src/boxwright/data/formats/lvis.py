"""LVIS: COCO JSON over 1203 classes on COCO's images, which lie in folders of another split's name.

Supported: `lvis_v1_train.json` and `lvis_v1_val.json` in the folder, in `annotations/` or in `lvis/`, or one of them as
a file; images in `train2017/` and `val2017/` (the validation images of LVIS come from both) of the folder, of `images/`
or of `coco/`. Rows and fields are those of COCO (`coco_rows`) and `federated`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwright.data.formats.coco import read_coco_files
from boxwright.data.formats.listing import ImageFinder, files_in, split_in_name, subfolder
from boxwright.data.records import LabelledFolder

LVIS_LAYOUT = "LVIS (lvis_v1_train.json and lvis_v1_val.json, also in annotations/ or lvis/, with train2017/, val2017/)"
_PLACES = ("annotations", "lvis")
_IMAGES = ("images", "coco")


def recognises_lvis(path: Path) -> bool:
    """Whether a path is a JSON file called lvis*.json, or a folder that has one in its usual places."""
    return _is_lvis(path.name) if path.is_file() else bool(_files(path))


def read_lvis(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read an LVIS folder or file; classes are ordered by category id unless `class_names` gives the order.

    Raises ValueError for a file that is no COCO ground truth, or where two files stand for one split.
    """
    files = [path] if path.is_file() else _files(path)
    root = files[0].parent if path.is_file() else path
    if path.is_file() and root.name.lower() in _PLACES:
        root = root.parent
    by_split: dict[str, Path] = {}
    for file in files:
        split = split_in_name(file.stem.lower()) or "train"
        if split in by_split:
            raise ValueError(
                f"{file.parent}: {by_split[split].name} and {file.name} both stand for {split}; give the file to use"
            )
        by_split[split] = file
    # The folders of an image are in its name (train2017/000000000009.jpg), whatever the split of the file.
    bases = [subfolder(root, *_IMAGES), root, root / "train2017", root / "val2017"]
    finder = ImageFinder([base for base in bases if base is not None])
    return read_coco_files(root, "lvis", by_split, lambda file, split: finder, class_names)


def _files(folder: Path) -> list[Path]:
    """The LVIS files of a folder, from the first of the usual places that has any."""
    for place in (folder, subfolder(folder, "annotations"), subfolder(folder, "lvis")):
        names = [name for name in files_in(place) if _is_lvis(name)] if place is not None else []
        if place is not None and names:
            return [place / name for name in names if (place / name).is_file()]
    return []


def _is_lvis(name: str) -> bool:
    return name.lower().startswith("lvis") and name.lower().endswith(".json")
