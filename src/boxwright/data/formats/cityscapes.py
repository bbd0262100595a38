"""Cityscapes: `leftImg8bit/<split>/<city>/*_leftImg8bit.png` with `gtFine/<split>/<city>/*_gtFine_*`, eight classes.

Objects and masks are those of `*_gtFine_instanceIds.png`, or are painted from `*_gtFine_polygons.json` where there is
no such file; both give the same. Groups (`persongroup`) are ignore regions of their class, other labels background.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from boxwright.data.formats.cityscapes_pixels import IDS, read_objects
from boxwright.data.formats.listing import ImageFinder, files_in, folders_in, is_image, split_folders, subfolder
from boxwright.data.records import LabelledFolder, Problem, Record, Split
from boxwright.structures import Classes
from boxwright.wording import counted

CITYSCAPES_LAYOUT = "Cityscapes (gtFine/<split>/<city>/*_gtFine_polygons.json or *_instanceIds.png with leftImg8bit/)"
_PIXELS, _POLYGONS = "_gtFine_instanceIds.png", "_gtFine_polygons.json"
_IMAGE = "_leftImg8bit"


class _Place(NamedTuple):
    """One image: its name without an ending, its city, and its annotation file."""

    name: str
    city: str
    file: Path


def recognises_cityscapes(path: Path) -> bool:
    """Whether a folder has `gtFine/` with the annotation files of Cityscapes."""
    annotations = subfolder(path, "gtfine") if path.is_dir() else None
    if annotations is None:
        return False
    return any(True for folder in split_folders(annotations).values() for _ in _places(folder))


def read_cityscapes(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read a Cityscapes folder; the classes are its eight, with the ids of its files, or those of `class_names` alone.

    A split whose labels are withheld (test) is left out with a note. Raises ValueError for other class names.
    """
    names = tuple(class_names or IDS)
    unknown = [name for name in names if name not in IDS]
    if unknown:
        raise ValueError(f"{path}: Cityscapes has no objects called {unknown[0]!r}; it has {', '.join(IDS)}")
    classes = Classes(names, tuple(IDS[name] for name in names))
    annotations, images = subfolder(path, "gtfine"), subfolder(path, "leftimg8bit")
    assert annotations is not None  # as recognised
    splits, notes = {}, []
    for name, folder in split_folders(annotations).items():
        split = _split(name, folder, images or path, path, classes)
        if name == "test" and not any(record.annotations for record in split.records):
            notes.append(
                f"split test is left out: its labels are withheld ({counted(len(split), 'image')} without an object)"
            )
        elif len(split) or split.problems:
            splits[name] = split
    return LabelledFolder(path, "cityscapes", classes, splits, tuple(notes))


def _places(folder: Path) -> Iterator[_Place]:
    """The annotated images of a split, city by city; pixels come before polygons."""
    for city in folders_in(folder):
        names = files_in(folder / city)
        found = {name.removesuffix(_POLYGONS): name for name in names if name.endswith(_POLYGONS)}
        found |= {name.removesuffix(_PIXELS): name for name in names if name.endswith(_PIXELS)}
        yield from (_Place(name, city, folder / city / file) for name, file in sorted(found.items()))


def _split(name: str, folder: Path, images: Path, root: Path, classes: Classes) -> Split:
    label_of = [classes.names.index(known) if known in classes.names else None for known in IDS]
    places = list(_places(folder))
    finders: dict[str, ImageFinder] = {}
    records: list[Record] = []
    problems: list[Problem] = []
    inside = images / folder.name
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # decoding a PNG leaves the interpreter to the others
        for place, read in zip(places, pool.map(read_objects, [place.file for place in places]), strict=True):
            problems += read.problems
            if read.size_hw is None:
                continue
            finder = finders.setdefault(place.city, ImageFinder([inside / place.city, inside], root, name))
            stem = f"{place.name}{_IMAGE}"
            path = finder.find_stem(stem) or finder.find_below(stem) or inside / place.city / f"{stem}.png"
            pairs = [(item, label_of[item.label]) for item in read.annotations]
            kept = tuple(replace(item, label=label) for item, label in pairs if label is not None)
            records.append(Record(path, place.name, read.size_hw, kept, str(place.file), read.rejected, void=read.void))
    known = {place.name for place in places}
    for city in folders_in(inside):
        stems = [file.rsplit(".", 1)[0].removesuffix(_IMAGE) for file in files_in(inside / city) if is_image(file)]
        lonely = [stem for stem in stems if stem not in known]
        if lonely:
            message = f"{counted(len(lonely), 'image')} without an annotation file: left out, such as {lonely[0]}"
            problems.append(Problem("image-without-annotation", str(inside / city), message))
    return Split(name, tuple(records), classes, tuple(problems))
