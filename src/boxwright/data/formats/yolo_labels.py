"""Which label file belongs to which image of a YOLO dataset, and which label files belong to none.

The rule is `labels/x/a.txt` for `images/x/a.jpg`, or a text file beside the image. Files in practice deviate: other
case (`A.TXT`), the whole name of the image (`a.jpg.txt`), an empty `labels/` with the text files beside the images, the
name of an upload to Label Studio (`cb0618f6-a.txt` for `a.jpg`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from boxwright.data.formats.listing import files_in, folders_in, is_image, split_folders, split_name, subfolder
from boxwright.data.formats.tool_names import meant_names
from boxwright.data.formats.yolo_rows import text_of
from boxwright.data.records import Problem
from boxwright.reading.values import number
from boxwright.wording import counted

_NOT_LABELS = {"classes.txt", "obj.names", "labels.txt", "notes.txt", "readme.txt", "requirements.txt",
               "predefined_classes.txt"}  # fmt: skip
_DEPTH = 4


def label_files(images: Iterable[Path]) -> dict[Path, Path]:
    """The label file of each image, whether it exists or not."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for image in images:
        by_folder[image.parent].append(image)
    found: dict[Path, Path] = {}
    for folder, members in by_folder.items():
        found |= _matched(label_folder(folder), members)
    return found


def _matched(folder: Path, images: list[Path]) -> dict[Path, Path]:
    """Exact names are matched first; a file that matches one image exactly is not used for another one."""
    names = set(label_names(folder))
    exact = {image: f"{image.stem}.txt" for image in images}
    free = names - set(exact.values())
    lower = {name.lower(): name for name in sorted(free, reverse=True)}
    uploads: dict[str, list[str]] = defaultdict(list)
    for name in sorted(free):
        for meant in meant_names(name):
            uploads[meant].append(name)
    found = {}
    for image, name in exact.items():
        if name not in names:
            whole = f"{image.name}.txt"
            variant = whole if whole in free else lower.get(name.lower()) or lower.get(whole.lower())
            uploaded = uploads.get(name, [])
            name = variant or (uploaded[0] if len(uploaded) == 1 else name)
        found[image] = folder / name
    return found


def label_folder(folder: Path) -> Path:
    """Where the labels of a folder of images are: below `labels/` for one below `images/`, else beside the images."""
    beside = counterpart(folder)
    return beside if beside and (label_names(beside) or not label_names(folder)) else folder


def counterpart(folder: Path) -> Path | None:
    """`labels/x` for `images/x`, if that folder exists."""
    parts = folder.parts
    for index in range(len(parts) - 1, -1, -1):
        if parts[index].lower() == "images":
            labels = subfolder(Path(*parts[:index]), "labels")
            beside = labels.joinpath(*parts[index + 1 :]) if labels else None
            return beside if beside and beside.is_dir() else None
    return None


def label_names(folder: Path) -> list[str]:
    """Names of the text files of a folder that may contain labels."""
    return [name for name in files_in(folder) if name.lower().endswith(".txt") and name.lower() not in _NOT_LABELS]


def unclaimed_labels(
    root: Path, images: Mapping[str, Iterable[Path]], files: Mapping[Path, Path]
) -> dict[str, list[Problem]]:
    """A problem for each label file without an image in any split, by the split that it would belong to.

    Label files of existing images that a list or YAML leaves out give one note per folder.
    """
    claimed = set(files.values())
    split_of = {image.parent: split for split, members in images.items() for image in members}
    images_of: dict[Path, list[Path]] = defaultdict(list)
    for folder in split_of:
        images_of[label_folder(folder)].append(folder)
    places = dict.fromkeys(split_of, False)  # False: beside images; True: a folder for labels only
    for labels in _label_roots(root, split_of):
        places |= dict.fromkeys(_folders_below(labels), True)
    problems: dict[str, list[Problem]] = {split: [] for split in images}
    for place, only_labels in places.items():
        folders = images_of.get(place) or [_image_folder(place)]
        stems = _by_stem(folders)
        others = []
        for name in label_names(place):
            file = place / name
            if file not in claimed and _looks_like_labels(file, only_labels):
                beside = stems.get(_stem(name), [])
                if any(is_image(other.name) and other not in files for other in beside):
                    others.append(file)
                else:
                    split = _split(folders, place, split_of, images)
                    problems[split].append(_problem(file, beside, files, folders[0]))
        if others:
            message = f"{counted(len(others), 'label file')} of images that no split names, such as {others[0].name}"
            split = _split(folders, place, split_of, images)
            problems[split].append(Problem("label-without-image", str(place), message, severity="note"))
    return problems


def _problem(file: Path, beside: list[Path], files: Mapping[Path, Path], images: Path) -> Problem:
    known = [image for image in beside if image in files]
    if known:
        why = f"{known[0].name} is labelled by {files[known[0]].name} already"
    elif beside:
        why = f"{beside[0]} has a format that is not supported: convert it to JPEG or PNG"
    else:
        why = f"there is no image of this name in {images}"
    message = f"no image belongs to this label file, so its objects are not used: {why}"
    return Problem("label-without-image", str(file), message, quarantined=True)


def _label_roots(root: Path, image_folders: Iterable[Path]) -> Iterator[Path]:
    """Folders for labels: those of the images, and those of the root and its split folders."""
    for folder in (root, *split_folders(root).values()):
        labels = subfolder(folder, "labels")
        if labels is not None:
            yield labels
    for folder in image_folders:
        beside = counterpart(folder)
        if beside is not None:
            yield beside


def _folders_below(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    yield folder
    if depth:
        for name in folders_in(folder):
            yield from _folders_below(folder / name, depth - 1)


def _image_folder(labels: Path) -> Path:
    """Where the images of a folder of labels would be."""
    parts = labels.parts
    for index in range(len(parts) - 1, -1, -1):
        if parts[index].lower() == "labels":
            images = subfolder(Path(*parts[:index]), "images")
            return images.joinpath(*parts[index + 1 :]) if images else Path(*parts[:index])
    return labels


def _by_stem(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """The files of folders that are not text files, by their names without suffix, in lower case."""
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for name in files_in(folder):
            if not name.lower().endswith(".txt"):
                found[_stem(name)].append(folder / name)
    return found


def _stem(name: str) -> str:
    """The name that an image and its label file share: `a` of `a.txt`, of `A.JPG` and of `a.jpg.txt`."""
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem)[0] if suffix == ".txt" and is_image(stem) else stem


def _split(
    folders: list[Path], labels: Path, split_of: Mapping[Path, str], images: Mapping[str, Iterable[Path]]
) -> str:
    """The split of a label file: that of its images' folder, else that named by its own folder, else the first."""
    named = [split_of[folder] for folder in folders if folder in split_of]
    named += [found for part in reversed(labels.parts) if (found := split_name(part)) in images and found]
    return named[0] if named else next(iter(images))


def _looks_like_labels(file: Path, only_labels: bool) -> bool:
    """Whether a text file holds rows of numbers; in a folder for labels only, an empty one is a label file too."""
    if not file.is_file():
        return only_labels
    with file.open("rb") as handle:
        head = text_of(handle.read(4096))
    words = next((line.split() for line in islice(head.splitlines(), 20) if line.strip()), None)
    if words is None:
        return only_labels
    return len(words) >= 5 and all(number(word) is not None for word in words[1:5])
