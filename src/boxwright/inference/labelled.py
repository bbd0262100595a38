"""An image of a labelled data folder, looked up by path, file name or stem, with its ground truth."""

from __future__ import annotations

from pathlib import Path

from boxwright.data.class_selection import relabelled
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.image_io.decode import image_size
from boxwright.data.records import Record
from boxwright.structures import Classes, GroundTruth
from boxwright.wording import counted


def labelled_image(
    image: str | Path,
    data: Path,
    model_classes: Classes,
    *,
    split: str | None = None,
    classes: str | None = None,
    masks: bool = False,
    num_keypoints: int = 0,
    semantic: bool = False,
    rotated: bool = False,
) -> tuple[Path, GroundTruth]:
    """The file of an image of a data folder, and its ground truth in original pixels with the labels of a model.

    `image` is a path, a file name or a stem; all splits are searched unless one is given; with `masks` the
    ground truth has its masks, with `semantic` its map of labels, with `rotated` rotated boxes, and it has keypoints
    where the data has `num_keypoints`. Raises FileNotFoundError where
    the data has no such image, ValueError where it has several or where its classes are not those of the model.
    """
    dataset = open_folder(data, classes=classes)
    parts = [find_split(dataset, split)] if split else list(dataset.splits.values())
    records = {record.path.resolve(): record for part in parts for record in relabelled(part, model_classes).records}
    found = _matching(records, Path(image))
    if not found:
        where = f"split {parts[0].name}" if split else f"{', '.join(part.name for part in parts)}"
        raise FileNotFoundError(
            f"{image}: {data} has no image of this name ({where}, {counted(len(records), 'image')})"
        )
    if len(found) > 1:
        raise ValueError(
            f"{image}: {data} has {len(found)} images of this name, such as {found[0].path} and {found[1].path}; "
            "give the whole path"
        )
    record = found[0]
    skeleton = dataset.classes.skeleton
    count = num_keypoints if skeleton is not None and len(skeleton) == num_keypoints else 0
    ground_truth = ground_truth_of(
        record, image_size(record.path), masks=masks, num_keypoints=count, semantic=semantic, rotated=rotated
    )
    return record.path, ground_truth


def _matching(records: dict[Path, Record], image: Path) -> list[Record]:
    """The record of this file; else those with its name; else those with its stem."""
    if image.exists() and image.resolve() in records:
        return [records[image.resolve()]]
    same_name = [record for record in records.values() if record.path.name == image.name]
    return same_name or [record for record in records.values() if record.path.stem == image.name]
