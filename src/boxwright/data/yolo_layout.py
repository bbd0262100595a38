"""Where the pictures, label files and class names of a YOLO data set lie, with or without its YAML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwright.data.listing import (
    files_in,
    folders_in,
    is_picture,
    pictures_below,
    split_folders,
    split_name,
    subfolder,
)
from boxwright.reading.yaml_text import read_yaml

_YAML = (".yaml", ".yml")
_NOT_LABELS = {"classes.txt", "obj.names", "labels.txt", "notes.txt", "readme.txt", "requirements.txt"}


@dataclass(frozen=True, slots=True)
class YoloLayout:
    """What a YOLO data set consists of: pictures of each split, class names by index (None: unknown), pose or not."""

    root: Path
    pictures: dict[str, list[Path]]
    names: dict[int, str] | None
    has_keypoints: bool = False


def find_layout(path: Path) -> YoloLayout | None:
    """The layout of a folder or of a data YAML; None where it is no YOLO data set."""
    if path.is_file():
        return _from_yaml(path, _load(path)) if path.suffix.lower() in _YAML else None
    for name in sorted(files_in(path), key=lambda name: (not name.startswith("data."), name)):
        if name.lower().endswith(_YAML):
            content = _load(path / name)
            if isinstance(content, dict) and ("names" in content or "train" in content):
                return _from_yaml(path / name, content)
    pictures = _pictures_without_yaml(path)
    return YoloLayout(path, pictures, _names_beside(path)) if pictures else None


def label_files(pictures: Iterable[Path]) -> dict[Path, Path]:
    """The label file of each picture, whether it is there or not."""
    folders: dict[Path, Path] = {}
    for picture in pictures:
        if picture.parent not in folders:
            folders[picture.parent] = _label_folder(picture.parent)
    return {picture: folders[picture.parent] / f"{picture.stem}.txt" for picture in pictures}


def _label_folder(folder: Path) -> Path:
    """Where the labels of a folder of pictures lie: below `labels/` for one below `images/`, else there too."""
    parts = folder.parts
    for index in range(len(parts) - 1, -1, -1):
        if parts[index].lower() == "images":
            labels = subfolder(Path(*parts[:index]), "labels")
            beside = labels.joinpath(*parts[index + 1 :]) if labels else None
            return beside if beside and beside.is_dir() else folder
    return folder


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
    pictures: dict[str, list[Path]] = {}
    for split in ("train", "val", "valid", "validation", "test"):
        if content.get(split) not in (None, "", "null", "~"):
            found = _entry(file, base, split, content[split])
            pictures.setdefault(split_name(split) or split, found)
    if not pictures:
        pictures = _pictures_without_yaml(base)
    if not pictures:
        raise ValueError(f'{file}: neither "train" nor "val" is given, and {base} holds no labelled pictures')
    return YoloLayout(base, pictures, _names(file, content.get("names")), "kpt_shape" in content)


def _names(file: Path, names: Any) -> dict[int, str] | None:
    if not names:
        return None
    if isinstance(names, str):
        beside = file.parent / names
        if beside.is_file():
            return _read_names(beside)
        raise ValueError(f'{file}: "names" is the text {names!r}; give a list of class names')
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        result = {int(index): str(name) for index, name in pairs if isinstance(name, str)}
    except ValueError:
        raise ValueError(f'{file}: the keys of "names" must be class indices such as 0, 1, 2') from None
    if len(result) != len(names):
        raise ValueError(f'{file}: every entry of "names" must be one class name')
    return dict(sorted(result.items()))


def _entry(file: Path, base: Path, split: str, entry: Any) -> list[Path]:
    """Pictures of one split: a folder, a list of folders, or a text file with one path a line."""
    pictures: list[Path] = []
    for item in [entry] if isinstance(entry, str) else entry:
        found = _locate(file, base, str(item))
        if found is None:
            raise ValueError(f'{file}: "{split}: {item}" is neither a folder nor a file below {base}; correct the path')
        pictures.extend(_listed(found) if found.is_file() else pictures_below(found))
    return list(dict.fromkeys(pictures))


def _locate(file: Path, base: Path, item: str) -> Path | None:
    # Exports are full of "../train/images" that means a folder beside the YAML.
    plain = item.replace("\\", "/")
    while plain.startswith(("../", "./")):
        plain = plain.split("/", 1)[1]
    candidates = (base / item, file.parent / item, base / plain, file.parent / plain)
    return next((candidate for candidate in candidates if candidate.exists()), None)


def _listed(file: Path) -> list[Path]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines())
    return [file.parent / line.replace("\\", "/").removeprefix("./") for line in lines if line]


def _pictures_without_yaml(root: Path) -> dict[str, list[Path]]:
    images, labels = subfolder(root, "images"), subfolder(root, "labels")
    found: dict[str, list[Path]] = {}
    if images and labels:
        named = split_folders(images)
        folders = named.items() if named else (("train", images),)
        found = {split: list(pictures_below(folder)) for split, folder in folders}
        return found if _has_labels(found) else {}
    for split, folder in split_folders(root).items():
        found[split] = list(pictures_below(subfolder(folder, "images") or folder))
    if not found:
        inner = subfolder(root, "obj_train_data")
        found = {
            "train": [
                folder / name for folder in (root, inner) if folder for name in files_in(folder) if is_picture(name)
            ]
        }
    return found if _has_labels(found) else {}


def _has_labels(pictures: dict[str, Sequence[Path]] | dict[str, list[Path]]) -> bool:
    wanted = set(label_files([picture for found in pictures.values() for picture in found]).values())
    folders = {file.parent for file in wanted}
    texts = (folder / name for folder in folders for name in files_in(folder) if name.lower() not in _NOT_LABELS)
    return any(file in wanted for file in texts)


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
    return {index: line or f"class{index}" for index, line in enumerate(lines)}
