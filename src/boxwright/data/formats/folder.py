"""Opening a folder of labelled images: detect its format, read it, and make a validation split if there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from boxwright.data.class_selection import select_classes
from boxwright.data.formats.cityscapes import CITYSCAPES_LAYOUT, read_cityscapes, recognises_cityscapes
from boxwright.data.formats.coco import COCO_LAYOUT, read_coco, recognises_coco
from boxwright.data.formats.coco_panoptic import PANOPTIC_LAYOUT, read_panoptic, recognises_panoptic
from boxwright.data.formats.cvat import CVAT_LAYOUT, read_cvat, recognises_cvat
from boxwright.data.formats.dota import DOTA_LAYOUT, read_dota, recognises_dota
from boxwright.data.formats.json_lists import LISTS_LAYOUT, read_lists, recognises_lists
from boxwright.data.formats.listing import images_below, split_name, split_order
from boxwright.data.formats.lvis import LVIS_LAYOUT, read_lvis, recognises_lvis
from boxwright.data.formats.semantic_folder import SEMANTIC_LAYOUT, read_semantic, recognises_semantic
from boxwright.data.formats.voc import VOC_LAYOUT, read_voc, recognises_voc
from boxwright.data.formats.yolo import YOLO_LAYOUT, read_yolo, recognises_yolo
from boxwright.data.records import LabelledFolder, Record, Split
from boxwright.wording import counted


class Reader(NamedTuple):
    """One format: its name, its layout in words, a test whether a path has it, and its reader."""

    name: str
    layout: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Sequence[str] | None], LabelledFolder]


# the first that fits: lists name the images to use, so they come before the folder of XML files that lies beside them
READERS = (
    Reader("lists", LISTS_LAYOUT, recognises_lists, read_lists),
    Reader("voc", VOC_LAYOUT, recognises_voc, read_voc),
    Reader("cvat", CVAT_LAYOUT, recognises_cvat, read_cvat),
    Reader("cityscapes", CITYSCAPES_LAYOUT, recognises_cityscapes, read_cityscapes),
    Reader("lvis", LVIS_LAYOUT, recognises_lvis, read_lvis),
    Reader("coco", COCO_LAYOUT, recognises_coco, read_coco),
    Reader("panoptic", PANOPTIC_LAYOUT, recognises_panoptic, read_panoptic),
    Reader("dota", DOTA_LAYOUT, recognises_dota, read_dota),
    Reader("yolo", YOLO_LAYOUT, recognises_yolo, read_yolo),
    Reader("semantic", SEMANTIC_LAYOUT, recognises_semantic, read_semantic),
)
VALIDATION_SHARE = 0.1


def open_folder(
    path: str | Path, classes: str | None = None, class_names: Sequence[str] | None = None
) -> LabelledFolder:
    """Read a folder of labelled images (or a YAML, COCO JSON, CVAT XML or list), with a train and a validation split.

    `classes` selects a subset or merges ("car,person", "car+truck=vehicle"); `class_names` gives the order of classes
    if the format does not. A missing validation split is made from the training images, always the same one, and
    mentioned in the notes. Raises FileNotFoundError or ValueError with one sentence.
    """
    path = Path(path)
    reader, notes = _reader_for(path)
    dataset = reader.read(path, class_names)
    records = [record for split in dataset.splits.values() for record in split.records]
    if not any(record.annotations or record.semantic is not None for record in records):
        problems = [problem for split in dataset.splits.values() for problem in split.problems]
        hint = f"; the first problem is {problems[0].where}: {problems[0].message}" if problems else ""
        raise ValueError(f"{path}: no image has a labelled object ({reader.name} layout){hint}")
    dataset = with_validation(replace(dataset, notes=notes + dataset.notes))
    return select_classes(dataset, classes) if classes else dataset


def find_split(dataset: LabelledFolder, name: str) -> Split:
    """The split called `name` ("valid", "validation" and "val2017" mean "val"); ValueError lists those that exist."""
    known = name if name in dataset.splits else split_name(name) or name
    if known not in dataset.splits:
        raise ValueError(f"{dataset.root}: no split {name!r}; it has {', '.join(dataset.splits)}: name one of these")
    return dataset.splits[known]


def with_validation(dataset: LabelledFolder) -> LabelledFolder:
    """The same data with a validation split, made from the training images if there is none.

    A hash of an image's own name decides, so that an image never changes splits when others are added; augmented copies
    of one image ("name.rf.<hash>.jpg") and images of the same name stay together.
    """
    source = "train" if "train" in dataset.splits else "trainval"
    if "val" in dataset.splits or source not in dataset.splits:
        return dataset
    whole = dataset.splits[source]
    chosen = {record.image_id for record in whole.records if _fraction(record) < VALIDATION_SHARE}
    groups = {_group(record) for record in whole.records}
    if len(groups) < 2:
        note = "one training image is too few to make a validation split"
        return replace(dataset, notes=tuple(dict.fromkeys((*dataset.notes, note))))
    if not chosen or len(chosen) == len(whole):
        first = min(whole.records, key=_fraction)
        chosen = {record.image_id for record in whole.records if _group(record) == _group(first)}
    parts = {
        name: replace(whole, name=name, records=tuple(r for r in whole.records if (r.image_id in chosen) is held))
        for name, held in (("train", False), ("val", True))
    }
    parts["val"] = replace(
        parts["val"], problems=()
    )  # they stay with the training split, so that each is reported once
    count = len(parts["val"])
    note = f"no validation split: {count} of the {counted(len(whole), f'{source} image')} "
    note += f"{'was' if count == 1 else 'were'} set aside as val, by their names"
    splits = dataset.splits | parts
    return replace(dataset, splits={name: splits[name] for name in split_order(splits)}, notes=(*dataset.notes, note))


def _group(record: Record) -> str:
    return record.path.stem.split(".rf.")[0]


def _fraction(record: Record) -> float:
    digest = hashlib.sha256(_group(record).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _reader_for(path: Path) -> tuple[Reader, tuple[str, ...]]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such folder or file")
    fitting, errors = [], []
    for reader in READERS:
        try:
            fitting += [reader] if reader.recognises(path) else []
        except ValueError as error:  # such as a broken YAML, which matters only if no other format fits
            errors.append(error)
    if fitting:
        others = ", ".join(reader.name for reader in fitting[1:])
        also = f"{path} fits several layouts; it is read as {fitting[0].name} (also found: {others})"
        if "panoptic" in others:
            also += "; for objects and stuff of its panoptic files give one of them, such as panoptic_train2017.json"
        return fitting[0], (also,) if others else ()
    if errors:
        raise errors[0]
    layouts = "; ".join(reader.layout for reader in READERS)
    if path.is_file():
        raise ValueError(f"{path}: expected a folder of labelled images, a COCO .json, a CVAT .xml or a data .yaml")
    if not any(path.iterdir()):
        raise ValueError(f"{path}: the folder is empty; understood layouts: {layouts}")
    images = len(list(islice(images_below(path), 100_000)))
    state = f"{counted(images, 'image')} but no labels were found" if images else "neither images nor labels were found"
    raise ValueError(f"{path}: {state}; understood layouts: {layouts}")
