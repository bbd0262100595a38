"""Folders of semantic maps: an image, a PNG file of the same name whose pixels are numbers of classes, and their names.

    images/train/a.jpg  labels/train/a.png   or   train/images/a.jpg  train/masks/a.png   or   images/  masks/

`classes.txt` names the classes (`semantic_names`). Every class is stuff: such data has no objects. Pixels of 255 are of
no class, and so are those of a class that is called void or the like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from boxwright.data.formats.listing import files_in, folders_in, images_below, split_folders, subfolder
from boxwright.data.formats.numbered_pixels import LabelPixels
from boxwright.data.formats.semantic_names import VOID, read_names
from boxwright.data.records import LabelledFolder, Problem, Record, Split
from boxwright.structures import Classes
from boxwright.wording import counted, listed

SEMANTIC_LAYOUT = "semantic maps (images/{train,val}/ with labels/{train,val}/*.png and classes.txt)"
_IMAGES = ("images", "jpegimages", "image", "imgs", "img")
_LABELS = ("labels", "masks", "annotations", "label", "mask", "segmentations", "segmentation", "maps")
_ENDINGS = ("", "_mask", "_labels", "_label", "_seg")
"""What follows the name of an image in that of its map."""


class _Place(NamedTuple):
    """Where the images of a split are, and their maps; both may be one folder."""

    images: Path
    labels: Path


def recognises_semantic(path: Path) -> bool:
    """Whether a folder has images and a folder of PNG files beside them, without annotation files of another format."""
    return path.is_dir() and bool(_places(path))


def read_semantic(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read such a folder; labels are in the order of the values of the classes, which are their ids.

    `class_names` names the values 0, 1, ... where no file does. Raises ValueError where neither names them.
    """
    places = _places(path)
    named = read_names([path, *(folder for place in places.values() for folder in (place.labels, place.labels.parent))])
    if named is None:
        if not class_names:
            raise ValueError(
                f"{path}: nothing names the classes of its semantic maps; write classes.txt there, a name a line, the "
                "first for pixels of value 0"
            )
        named = dict(enumerate(class_names))
    names = {value: name for value, name in named.items() if name.lower() not in VOID and value != 255}
    if not names:
        raise ValueError(f"{path}: every class is called void or the like; name at least one other")
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise ValueError(f"{path}: the class name {twice[0]!r:.60} occurs twice; give each class its own name")
    classes = Classes((), (), stuff=tuple(names.values()), stuff_ids=tuple(names))
    pairs = tuple((value, label) for label, value in enumerate(names))
    pairs += tuple((value, 255) for value in named if value not in names)
    splits = {name: _split(name, place, classes, pairs) for name, place in places.items()}
    return LabelledFolder(path, "semantic", classes, splits)


def _places(root: Path) -> dict[str, _Place]:
    """Images and maps by split."""
    images, labels = subfolder(root, *_IMAGES), subfolder(root, *_LABELS)
    if images is not None and labels is not None:
        of_images, of_labels = split_folders(images), split_folders(labels)
        both = {name: _Place(of_images[name], of_labels[name]) for name in of_images if name in of_labels}
        found = both or {"train": _Place(images, labels)}
    else:
        found = {}
        for name, folder in split_folders(root).items():
            images, labels = subfolder(folder, *_IMAGES), subfolder(folder, *_LABELS)
            found[name] = _Place(images or folder, labels or folder)
    return {name: place for name, place in found.items() if _has_maps(place)}


def _has_maps(place: _Place) -> bool:
    """Whether a folder holds maps, and nothing else that labels could be in."""
    names = [name.lower() for folder in _with_subfolders(place.labels) for name in files_in(folder)]
    maps = [name for name in names if name.endswith(".png")]
    if place.images == place.labels:
        return any(name.endswith("_mask.png") for name in maps)
    return bool(maps) and not any(name.endswith((".txt", ".xml", ".json")) for name in names)


def _with_subfolders(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (folder / name for name in folders_in(folder))


def _split(name: str, place: _Place, classes: Classes, pairs: tuple[tuple[int, int], ...]) -> Split:
    maps = {
        (path.parent.relative_to(place.labels), path.stem): path
        for path in images_below(place.labels) if path.suffix.lower() == ".png"
    }  # fmt: skip
    records: list[Record] = []
    alone: list[str] = []
    used: set[Path] = set()
    together = place.images == place.labels
    for image in images_below(place.images):
        if together and image.suffix.lower() == ".png" and image.stem.endswith(_ENDINGS[1:]):
            continue
        inside = image.parent.relative_to(place.images)
        keys = [(inside, image.stem + ending) for ending in _ENDINGS[1 if together else 0 :]]
        found = next((maps[key] for key in keys if key in maps), None)
        if found is None:
            alone.append(image.name)
            continue
        used.add(found)
        identity = image.stem if inside == Path() else (inside / image.stem).as_posix()
        records.append(Record(image, identity, None, (), str(found), semantic=LabelPixels(found, pairs)))
    problems = []
    if alone:
        message = f"{counted(len(alone), 'image')} of {name} without a map: left out, {listed(alone, 3)}"
        problems.append(Problem("image-without-map", str(place.images), message))
    left = [] if together else [path.name for path in maps.values() if path not in used]
    if left:
        message = f"{counted(len(left), 'map')} of {name} without an image: not used, {listed(left, 3)}"
        problems.append(Problem("map-without-image", str(place.labels), message))
    return Split(name, tuple(records), classes, tuple(problems))
