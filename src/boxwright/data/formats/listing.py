"""Listing folders: their images, their sub-folders, and the split that a name stands for.

No file is opened here, and a folder is listed once, so that a hundred thousand images do not cost as many calls.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from boxwright.data.image_io.file_types import is_image_name

_MOST_SEARCHED = 500_000  # images that are searched for one that is not where it should be
SPLIT_ORDER = ("train", "val", "trainval", "test")
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "minival": "val",
    "trainval": "trainval",
    "test": "test",
    "testing": "test",
}


def split_name(text: str) -> str | None:
    """The split that a folder or file name stands for, None where it names none.

    >>> split_name("valid"), split_name("train2017"), split_name("Validation"), split_name("pictures")
    ('val', 'train', 'val', None)
    """
    return _SPLIT_NAMES.get(re.sub(r"[_-]?(19|20)\d\d$", "", text.lower()))


def split_in_name(stem: str) -> str | None:
    """The split that a file's name has as its whole or as a part.

    >>> split_in_name("instances_val2017"), split_in_name("voc07_train"), split_in_name("all")
    ('val', 'train', None)
    """
    parts = [stem, *re.split(r"[-._]", stem)]
    return next((found for found in map(split_name, parts) if found), None)


def split_order(names: Iterable[str]) -> list[str]:
    """Split names in the usual order: train, val, trainval, test, then the rest by name."""
    return sorted(names, key=lambda name: (SPLIT_ORDER.index(name) if name in SPLIT_ORDER else 9, name))


def is_image(name: str) -> bool:
    """Whether a file name ends like an image."""
    return is_image_name(name)


def files_of(folder: Path) -> list[str]:
    """Names of the entries of a folder that are not folders, sorted, including broken links and hidden files."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def files_in(folder: Path) -> list[str]:
    """Names of the visible files directly in a folder, sorted; none if the folder does not exist."""
    return _entries(folder)[0]


def folders_in(folder: Path) -> list[str]:
    """Names of the visible folders directly in a folder, sorted."""
    return _entries(folder)[1]


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    files: list[str] = []
    folders: list[str] = []
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                # macOS leaves "._a.jpg" beside every image of an archive: not images.
                if not entry.name.startswith((".", "__MACOSX")):
                    (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(files), sorted(folders)


def subfolder(folder: Path, *names: str) -> Path | None:
    """The first sub-folder with one of the names, ignoring case."""
    present = {name.lower(): name for name in folders_in(folder)}
    return next((folder / present[name] for name in names if name in present), None)


def split_folders(folder: Path) -> dict[str, Path]:
    """Sub-folders whose names stand for a split, by split; of several for one split the shortest name wins."""
    found: dict[str, Path] = {}
    for name in sorted(folders_in(folder), key=lambda name: (len(name), name)):
        split = split_name(name)
        if split:
            found.setdefault(split, folder / name)
    return {split: found[split] for split in split_order(found)}


def images_below(folder: Path, depth: int = 4) -> Iterator[Path]:
    """Images in a folder and its sub-folders, in the order of their names."""
    files, folders = _entries(folder)
    yield from (folder / name for name in files if is_image(name))
    if depth > 0:
        for name in folders:
            yield from images_below(folder / name, depth - 1)


def stands_for_another_split(name: str, split: str) -> bool:
    """Whether a folder's name stands for a split other than `split` (trainval is made of train and val)."""
    named = split_name(name)
    return named is not None and named != split and "trainval" not in (named, split)


def _files_in_any(folder: Path) -> list[str]:
    """The files of a folder whose name came from an annotation file and may be invalid on this system."""
    try:
        return files_in(folder)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            return []
        raise


def _parts(name: str) -> list[str]:
    return [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in (".", "/")]


def _images_of_split(folder: Path, split: str, depth: int = 4) -> Iterator[Path]:
    files, folders = _entries(folder)
    yield from (folder / name for name in files if is_image(name))
    for name in folders if depth else ():
        if not stands_for_another_split(name, split):
            yield from _images_of_split(folder / name, split, depth - 1)


class ImageFinder:
    r"""Finds an image by its name in an annotation file, in any of several folders.

    The exact name is preferred, then the same name in other case, then the same stem with another image suffix.
    Paths from another machine ("C:\data\a.jpg", "/home/x/a.jpg", "../a.jpg") are reduced to their last part.
    An image that is in none of the folders is searched everywhere below `root`, except in folders that stand for
    another split than `split`; there its name, or its last folders and name, must be unique.
    """

    def __init__(self, folders: Sequence[Path | None], root: Path | None = None, split: str = "") -> None:
        self.folders = tuple(dict.fromkeys(folder for folder in folders if folder is not None))
        self.root, self.split = root, split
        self._listed: dict[Path, tuple[set[str], dict[str, str], dict[str, str]]] = {}
        self._everywhere: dict[str, list[Path]] | None = None

    def find(self, name: str) -> Path | None:
        """The path of an image named `name`, None if there is none."""
        return self._search(name, 0) or self._search(name, 1) or self.find_stem(name) or self.find_below(name)

    def find_exact(self, name: str) -> Path | None:
        """The path of an image named `name`, ignoring case."""
        return self._search(name, 0) or self._search(name, 1)

    def find_stem(self, name: str) -> Path | None:
        """The path of an image with the stem of `name` and any image suffix."""
        return self._search(name, 2)

    def find_below(self, name: str) -> Path | None:
        """The only image anywhere below the root that matches `name` or its stem; None if there are several."""
        parts = _parts(name.lower())
        if self.root is None or not parts:
            return None
        if self._everywhere is None:
            self._everywhere = {}
            for path in islice(_images_of_split(self.root, self.split), _MOST_SEARCHED):
                for key in {path.name.lower(), os.path.splitext(path.name)[0].lower()}:
                    self._everywhere.setdefault(key, []).append(path)
        stem = os.path.splitext(parts[-1])[0] if is_image(parts[-1]) else parts[-1]
        found = self._everywhere.get(parts[-1]) or self._everywhere.get(stem, [])
        for length in range(1, len(parts)):  # a/b/c.jpg may be the only one below a folder b
            if len(found) < 2:
                break
            found = [
                path for path in found if [p.lower() for p in path.parts[-1 - length : -1]] == parts[-1 - length : -1]
            ]
        return found[0] if len(found) == 1 else None

    def _search(self, name: str, rule: int) -> Path | None:
        parts = _parts(name)
        if not parts:
            return None
        relative = not name.startswith(("/", "\\")) and ":" not in parts[0] and ".." not in parts
        for below in ([parts[:-1]] if relative and len(parts) > 1 else []) + [[]]:
            for folder in self.folders:
                found = self._in_folder(folder.joinpath(*below), parts[-1], rule)
                if found:
                    return found
        return None

    def _in_folder(self, folder: Path, name: str, rule: int) -> Path | None:
        if folder not in self._listed:
            images = [file for file in _files_in_any(folder) if is_image(file)]
            lower = {file.lower(): file for file in reversed(images)}
            stems = {os.path.splitext(file)[0].lower(): file for file in reversed(images)}
            self._listed[folder] = (set(images), lower, stems)
        names, lower, stems = self._listed[folder]
        if rule == 0:
            return folder / name if name in names else None
        stem = os.path.splitext(name)[0] if is_image(name) else name
        found = lower.get(name.lower()) if rule == 1 else stems.get(stem.lower())
        return folder / found if found else None
