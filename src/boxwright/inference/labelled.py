"""One picture of a labelled data folder, found by its path, its file name or its stem, with its truth."""

from __future__ import annotations

from pathlib import Path

from boxwright.data.classes import relabelled
from boxwright.data.folder import open_folder
from boxwright.data.folder import split as split_called
from boxwright.data.pictures import image_size
from boxwright.data.records import Record
from boxwright.data.truth import truth_of
from boxwright.structures import Classes, Truth
from boxwright.wording import counted


def labelled_picture(
    picture: str | Path, data: Path, model_classes: Classes, *, split: str | None = None, classes: str | None = None
) -> tuple[Path, Truth]:
    """The file of a picture of a data folder, and its truth in its own pixels with the labels of a model.

    `picture` is a path, a file name or a stem; all splits are searched unless one is given. Raises FileNotFoundError
    where the data has no such picture, ValueError where it has several or where its classes are not the model's.
    """
    dataset = open_folder(data, classes=classes)
    parts = [split_called(dataset, split)] if split else list(dataset.splits.values())
    records = {record.path.resolve(): record for part in parts for record in relabelled(part, model_classes).records}
    found = _matching(records, Path(picture))
    if not found:
        where = f"split {parts[0].name}" if split else f"{', '.join(part.name for part in parts)}"
        raise FileNotFoundError(
            f"{picture}: {data} has no picture of this name ({where}, {counted(len(records), 'picture')})"
        )
    if len(found) > 1:
        raise ValueError(
            f"{picture}: {data} has {len(found)} pictures of this name, such as {found[0].path} and {found[1].path}; "
            "give the whole path"
        )
    record = found[0]
    return record.path, truth_of(record, image_size(record.path))


def _matching(records: dict[Path, Record], picture: Path) -> list[Record]:
    """Records of the very file; else those of its name; else those of its stem."""
    if picture.exists() and picture.resolve() in records:
        return [records[picture.resolve()]]
    same_name = [record for record in records.values() if record.path.name == picture.name]
    return same_name or [record for record in records.values() if record.path.stem == picture.name]
