"""The images of a batch job: from folders and patterns, parquet, text and CSV listings, and webdataset shards.

Each is listed once with the place of its bytes, so that any worker can read it directly.
"""

from __future__ import annotations

import csv
import os
import tarfile
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from boxwright.data.formats.listing import files_of
from boxwright.data.image_io.decode import (
    ReadImage,
    StoredSize,
    bytes_with_note,
    read_with_note,
    stored_size,
    stored_size_of_bytes,
)
from boxwright.data.image_io.file_types import SUFFIXES, is_image_name
from boxwright.data.image_io.value_range import ValueRange
from boxwright.data.inputs import image_paths
from boxwright.runtime.missing import required
from boxwright.wording import counted

LISTINGS = (".parquet", ".txt", ".csv", ".tar")
MOST_BYTES = 2 << 30
"""Maximum size of a row group of images in a parquet file: each worker holds one in memory."""
_LOCK = threading.Lock()


class Entry(NamedTuple):
    """One image: its key in the tables, and where its bytes are.

    `kind` "file" is an image file, "tar" are `length` bytes of an archive from position `at`, "parquet" is row `length`
    of row group `at`.
    """

    key: str
    kind: str
    file: str
    at: int = 0
    length: int = 0


def list_images(sources: Sequence[str | Path]) -> list[Entry]:
    """The images of all sources in order, each once.

    Raises FileNotFoundError, and ValueError for a listing without the needed columns or with one key for two images.
    """
    found: dict[str, Entry] = {}
    for source in sources:
        for file in _files(source):
            for entry in _entries(file.absolute()):
                if found.setdefault(entry.key, entry) != entry:
                    raise ValueError(f"{file}: two images have the key {entry.key!r}; give each its own")
    return list(found.values())


def read_entry(entry: Entry, value_range: ValueRange = "auto") -> Tensor:
    """The image as an upright RGB tensor (3, H, W) uint8. Raises ValueError or OSError where it cannot be read."""
    return read_with_note_of(entry, value_range).pixels


def read_with_note_of(entry: Entry, value_range: ValueRange) -> ReadImage:
    """The image with a note on a defect, if there is one. Raises ValueError or OSError where it cannot be read."""
    if entry.kind == "file":
        return read_with_note(entry.file, value_range=value_range)
    return bytes_with_note(_bytes(entry), entry.key, value_range=value_range)


def _bytes(entry: Entry) -> bytes:
    if entry.kind == "tar":
        with open(entry.file, "rb") as archive:
            archive.seek(entry.at)
            return archive.read(entry.length)
    with _LOCK:
        return _row_group(entry.file, entry.at)[entry.length].as_py() or b""


def stored_size_of(entry: Entry) -> StoredSize:
    """The memory that the decoded image needs, from its header."""
    return stored_size(entry.file) if entry.kind == "file" else stored_size_of_bytes(_bytes(entry), entry.key)


def _files(source: str | Path) -> list[Path]:
    """The images and listings of a source; of a folder without images its parquet files or shards."""
    folder = Path(source)
    if folder.is_dir() and not any(map(is_image_name, files_of(folder))):
        for suffix in (".parquet", ".tar"):
            if found := sorted(file for file in folder.glob(f"*{suffix}") if file.is_file()):
                return found
    return image_paths(source)


def _entries(file: Path) -> Iterator[Entry]:
    if file.suffix not in LISTINGS:
        yield _image(file, file.parent)
    elif file.suffix == ".tar":
        yield from _members(file)
    elif file.suffix == ".parquet":
        yield from _rows(file)
    else:
        for path in _lines(file) if file.suffix == ".txt" else _column(file):
            yield _image(path, file.parent)


def _image(path: str | Path, folder: Path) -> Entry:
    """An image file; relative paths in a listing are relative to the folder of the listing."""
    if "://" in str(path):
        raise ValueError(f"{path}: a URL; images are read from files, so copy or mount them")
    file = os.path.abspath(folder / path)
    return Entry(_text(file), "file", file)


def _text(path: str) -> str:
    """A path as text; bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _lines(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected a text file with a path on each line") from error
    yield from (line.strip() for line in text.splitlines() if line.strip())


def _column(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", newline="") as handle:
        try:
            rows = csv.DictReader(handle)
            _require_columns(file, ["path"], list(rows.fieldnames or []))
            for row in rows:
                if not row["path"]:
                    raise ValueError(f"{file}, line {rows.line_num}: no path")
                yield row["path"]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{file}: not a CSV file ({error})") from error


def _members(file: Path) -> Iterator[Entry]:
    """Images of a webdataset shard: members with an image suffix after their first dot (17.jpg, not 17.seg.png)."""
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                _, dot, suffix = member.name.rpartition("/")[2].partition(".")
                if member.isreg() and dot + suffix.lower() in SUFFIXES:
                    yield Entry(_text(f"{file}/{member.name}"), "tar", str(file), member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{file}: not a tar archive, or a compressed or damaged one ({error})") from error


def _rows(file: Path) -> Iterator[Entry]:
    """Rows of a parquet file with a column `path`, or with `bytes` and `key` (or `path`, then used as the key)."""
    parquet = required("pyarrow.parquet", "ray")
    try:
        table = parquet.ParquetFile(file)
    except ValueError as error:  # pyarrow's own is one
        raise ValueError(f"{file}: not a parquet file ({str(error).splitlines()[0][:120]})") from error
    columns = table.schema_arrow.names
    holds = "bytes" in columns
    name = "key" if holds and ("key" in columns or "path" not in columns) else "path"
    _require_columns(file, [name], columns)
    for group in range(table.num_row_groups):
        if holds:
            _check_size(file, table.metadata.row_group(group))
        for row, key in enumerate(table.read_row_group(group, columns=[name])[name].to_pylist()):
            if key is None or key == "":
                raise ValueError(f"{file}: row {row} of row group {group} has no {name}")
            yield Entry(str(key), "parquet", str(file), group, row) if holds else _image(str(key), file.parent)


def _check_size(file: Path, group: Any) -> None:
    columns = [group.column(index) for index in range(group.num_columns)]
    size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "bytes")
    if size > MOST_BYTES:
        raise ValueError(
            f"{file}: {counted(group.num_rows, 'image')} of {size / 2**30:.1f} GiB in one row group, expected at "
            f"most {MOST_BYTES >> 30} GiB; write the file again with row_group_size=256"
        )


@lru_cache(maxsize=1)
def _row_group(file: str, group: int) -> Any:
    return required("pyarrow.parquet", "ray").ParquetFile(file).read_row_group(group, columns=["bytes"])["bytes"]


def _require_columns(file: Path, expected: list[str], got: list[str]) -> None:
    if missing := [name for name in expected if name not in got]:
        raise ValueError(f"{file}: expected a column {' and a column '.join(missing)}, got {', '.join(got) or 'none'}")
