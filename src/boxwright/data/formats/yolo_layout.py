"""Where the images, label files and class names of a YOLO dataset are, with or without its YAML."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from boxwright.data.formats.listing import (
    files_in,
    folders_in,
    images_below,
    is_image,
    split_folders,
    split_name,
    subfolder,
)
from boxwright.data.formats.yolo_labels import label_files, label_names
from boxwright.reading.values import whole_number
from boxwright.reading.yaml_text import read_yaml

_MOST_SKIPPED = 12  # leading folders of a path from another machine
_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class YoloLayout:
    """What a YOLO dataset consists of: images of each split, class names by index (None: unknown), notes.

    `pose_numbers`: how many numbers of keypoints follow each box (0: any), None if the dataset has no poses.
    """

    root: Path
    images: dict[str, list[Path]]
    names: dict[int, str] | None
    pose_numbers: int | None = None
    notes: tuple[str, ...] = ()


def find_layout(path: Path) -> YoloLayout | None:
    """The layout of a folder or of a data YAML; None if it is not a YOLO dataset."""
    if path.is_file():
        return _from_yaml(path, _load(path)) if path.suffix.lower() in _YAML else None
    for name in sorted(files_in(path), key=lambda name: (not name.startswith("data."), name)):
        if name.lower().endswith(_YAML):
            content = _load(path / name)
            if isinstance(content, dict) and ("names" in content or "train" in content):
                return _from_yaml(path / name, content)
    images = _images_of_darknet(path) or _images_without_yaml(path)
    return YoloLayout(path, images, _names_beside(path)) if images else None


def _load(file: Path) -> Any:
    try:
        return read_yaml(file, words=True)  # a class called `no` or `1.5` keeps its name
    except ValueError as error:
        raise ValueError(f"{file}: this is not valid YAML ({error!s:.200})") from error


def _from_yaml(file: Path, content: Any) -> YoloLayout:
    if not isinstance(content, dict):
        raise ValueError(f'{file}: expected keys such as "train", "val" and "names"')
    base = file.parent
    if isinstance(content.get("path"), str) and (base / content["path"]).is_dir():
        base = base / content["path"]
    images: dict[str, list[Path]] = {}
    notes: list[str] = []
    for split in ("train", "val", "valid", "validation", "test"):
        if content.get(split) not in (None, "", "null", "~"):
            found = _entry(file, base, split, content[split], notes)
            if found or split == "train":
                images.setdefault(split_name(split) or split, found)
    if not images:
        images = _images_without_yaml(base)
    if not images:
        raise ValueError(f'{file}: neither "train" nor "val" is given, and {base} holds no labelled images')
    names = _names(file, content.get("names"))
    return YoloLayout(base, images, names, _pose_numbers(file, content.get("kpt_shape")), tuple(notes))


def _pose_numbers(file: Path, shape: Any) -> int | None:
    if shape is None:
        return None
    sides = [whole_number(side) for side in shape] if isinstance(shape, list) else []
    count, per_point = sides if len(sides) == 2 else (None, None)
    if count is None or per_point not in (2, 3) or count < 1:
        raise ValueError(f'{file}: "kpt_shape" is {shape!r:.60}, expected [keypoints, 2 or 3]')
    return count * per_point


def _names(file: Path, names: Any) -> dict[int, str] | None:
    if not names:
        return None
    if isinstance(names, str):
        beside = file.parent / names
        if beside.is_file():
            return _read_names(beside)
        raise ValueError(f'{file}: "names" is the text {names!r}; give a list of class names')
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    indices = [(whole_number(index), name) for index, name in pairs]
    if any(index is None or index < 0 for index, _ in indices):
        raise ValueError(f'{file}: the keys of "names" must be class indices such as 0, 1, 2')
    result = {index: name or f"class{index}" for index, name in indices if index is not None and isinstance(name, str)}
    if len(result) != len(names):
        raise ValueError(f'{file}: every entry of "names" must be one class name')
    return _told_apart(file, dict(sorted(result.items())))


def _told_apart(file: Path, names: dict[int, str]) -> dict[int, str]:
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise ValueError(f"{file}: the class name {twice[0]!r:.60} occurs twice; give each class its own name")
    return names


def _entry(file: Path, base: Path, split: str, entry: Any, notes: list[str]) -> list[Path]:
    """Images of one split: a folder, a list of folders, or a text file with one path per line.

    A missing split other than train is only a note: exports name splits that they do not have.
    """
    images: list[Path] = []
    before = len(notes)
    items = [entry] if isinstance(entry, str) else entry
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(f'{file}: "{split}" is {entry!r:.60}, expected a folder, a text file, or a list of them')
    for item in items:
        found = _locate(file, base, item)
        if found is not None:
            images.extend(_listed(found, base) if found.is_file() else images_below(found))
            continue
        where = f'{file}: "{split}: {item:.200}" is neither a folder nor a file below {base}'
        if split == "train":
            raise ValueError(f"{where}; correct the path")
        notes.append(f"{where} and is left out")
    if not images and split != "train" and len(notes) == before:
        notes.append(f'{file}: "{split}" has no images, so there is no split {split_name(split)}')
    return list(dict.fromkeys(images))


def _locate(file: Path, base: Path, item: str) -> Path | None:
    # Many exports have "../train/images" for a folder beside the YAML.
    plain = item.replace("\\", "/")
    while plain.startswith(("../", "./")):
        plain = plain.split("/", 1)[1]
    candidates = (base / item, file.parent / item, base / plain, file.parent / plain)
    return next((candidate for candidate in candidates if os.path.exists(candidate)), None)


def _listed(file: Path, base: Path) -> list[Path]:
    """The images of a list, one path per line, relative to the list's folder or the base, perhaps after extra folders.

    CVAT writes `data/images/train/a.jpg` for `images/train/a.jpg`.
    """
    roots = tuple(dict.fromkeys((file.parent, base)))
    way = (roots[0], 0)  # the root and the number of leading folders that found the line before
    images = []
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        parts = PurePosixPath(line.strip().replace("\\", "/")).parts
        if parts:
            ways = ((root, skipped) for skipped in range(min(len(parts), _MOST_SKIPPED)) for root in roots)
            for root, skipped in chain([way], ways):
                image = root.joinpath(*parts[skipped:]) if skipped < len(parts) else root
                if os.path.isfile(image):
                    way = (root, skipped)
                    break
            else:
                image = roots[0].joinpath(*parts)
            images.append(image)
    return images


def _images_of_darknet(root: Path) -> dict[str, list[Path]]:
    """The images of an `obj.data`, as CVAT's YOLO 1.1 has it: lines `train = data/train.txt`; none without such a file.

    The lists name `data/obj_train_data/a.jpg` for `obj_train_data/a.jpg`.
    """
    file = root / "obj.data"
    found: dict[str, list[Path]] = {}
    if not file.is_file():
        return found
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        key, _, value = (part.strip() for part in line.partition("="))
        split, listing = split_name(key), PurePosixPath(value.replace("\\", "/")).name
        if split and listing and (root / listing).is_file():
            images = list(dict.fromkeys(_listed(root / listing, root)))
            if images:
                found[split] = images
    return found


def _images_without_yaml(root: Path) -> dict[str, list[Path]]:
    images, labels = subfolder(root, "images"), subfolder(root, "labels")
    found: dict[str, list[Path]] = {}
    if images and labels:
        named = split_folders(images)
        folders = named.items() if named else (("train", images),)
        found = {split: list(images_below(folder)) for split, folder in folders}
        texts = any(label_names(folder) for folder in (labels, *split_folders(labels).values()))
        return found if texts or _has_labels(found) else {}  # an image without a matching label is reported
    for split, folder in split_folders(root).items():
        found[split] = list(images_below(subfolder(folder, "images") or folder))
    if not found:
        inner = subfolder(root, "obj_train_data")
        found = {
            "train": [
                folder / name for folder in (root, inner) if folder for name in files_in(folder) if is_image(name)
            ]
        }
    return found if _has_labels(found) else {}


def _has_labels(images: dict[str, list[Path]]) -> bool:
    files = label_files([image for found in images.values() for image in found]).values()
    names = {folder: set(label_names(folder)) for folder in {file.parent for file in files}}
    return any(file.name in names[file.parent] for file in files)


def _names_beside(root: Path) -> dict[int, str] | None:
    for folder in (root, *(root / name for name in folders_in(root) if name.lower() in ("labels", "train"))):
        for name in ("classes.txt", "obj.names", "predefined_classes.txt"):
            if (folder / name).is_file():
                return _read_names(folder / name)
    return None


def _read_names(file: Path) -> dict[int, str]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return _told_apart(file, {index: line or f"class{index}" for index, line in enumerate(lines)})
