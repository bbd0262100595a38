"""Checks of image files: missing, damaged, truncated, nearly flat, or the same content twice.

Headers are read, and contents of files of equal size are compared by hash. Pixels are decoded only if asked for, if a
file does not end as its format requires, or if it has more than 8 bits per value.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from boxwright.data.image_io.decode import image_header, read_with_note
from boxwright.data.image_io.value_range import UsedRange, ValueRange, common_range
from boxwright.data.records import Problem, Split

_TAIL = 64  # bytes; a file with more than this after its end marker is decoded to be sure


@dataclass(frozen=True, slots=True)
class ImageState:
    """The result of checking one file: its upright size, whether EXIF swapped its sides, its bytes, or the error.

    `note` describes a defect of a readable image, `used` the range of values of an image of more than 8 bits.
    """

    hw: tuple[int, int] | None
    turned: bool
    num_bytes: int
    fault: str | None = None
    missing: bool = False
    note: str | None = None
    used: UsedRange | None = None


def look_at_images(paths: Iterable[Path], *, decode: bool = False) -> dict[Path, ImageState]:
    """The state of every image file, each checked once; `decode` reads all pixels."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        return dict(zip(unique, pool.map(lambda path: look_at_image(path, decode=decode), unique), strict=True))


def look_at_image(path: Path, *, decode: bool = False) -> ImageState:
    """The state of one image file from its header and its end, or from all its pixels."""
    try:
        num_bytes = path.stat().st_size
        hw, turned, is_deep = image_header(path)
        read = read_with_note(path) if decode or is_deep or not _ends_as_it_must(path, num_bytes) else None
    except FileNotFoundError:
        return ImageState(None, False, 0, "the image is missing", missing=True)
    except (ValueError, OSError) as error:
        text = str(error).removeprefix(f"{path}: ")
        return ImageState(None, False, 0, text)
    note, used = (read.note, read.used) if read is not None else (None, None)
    return ImageState(hw, turned, num_bytes, note=note, used=used)


def _ends_as_it_must(path: Path, num_bytes: int) -> bool:
    with path.open("rb") as handle:
        start = handle.read(12)
        handle.seek(max(0, num_bytes - _TAIL))
        tail = handle.read()
    if start.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in tail
    if start.startswith(b"\x89PNG"):
        return b"IEND" in tail
    if start.startswith(b"RIFF"):
        return num_bytes >= int.from_bytes(start[4:8], "little") + 8
    if start.startswith(b"BM"):
        return num_bytes >= int.from_bytes(start[2:6], "little")
    return False


def range_of(split: Split, states: dict[Path, ImageState]) -> ValueRange:
    """The meaning of `auto` for a training split: one range of values for all its images."""
    return common_range([used for record in split.records if (used := states[record.path].used) is not None])


def value_problems(states: dict[Path, ImageState], value_range: ValueRange, *, was_auto: bool) -> Iterator[Problem]:
    """Findings on truncated images that are still used, and on images of more than 8 bits that become flat."""
    narrow = []
    for path, state in states.items():
        if state.note is not None:
            kind = "short-image" if "cut short" in state.note else "flat-image"
            yield Problem(kind, str(path), f"{state.note}; it is used")
        if state.used is not None:
            if lost := state.used.lost(value_range):
                yield Problem("flat-image", str(path), lost)
            if state.used.is_narrow:
                narrow.append(path)
    if narrow and was_auto and isinstance(value_range, tuple):
        used = states[narrow[0]].used
        assert used is not None
        message = (
            f"{len(narrow)} images of more than 8 bits use a narrow part of their range, such as {used.low:g} to "
            f"{used.high:g} of 0 to {used.highest:g}: training scales {value_range[0]:g} to {value_range[1]:g} of all "
            "images to 0 to 255, and stores that with the model (data.value_range)"
        )
        yield Problem("narrow-values", str(narrow[0]), message, severity="note")


def same_content(states: dict[Path, ImageState]) -> list[list[Path]]:
    """Groups of different files with the same bytes, each in the order of `states`."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path, state in states.items():
        if state.fault is None:
            by_size[state.num_bytes].append(path)
    candidates = [path for paths in by_size.values() if len(paths) > 1 for path in paths]
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        digests = list(pool.map(_digest, candidates))
    groups: dict[bytes, list[Path]] = defaultdict(list)
    for path, digest in zip(candidates, digests, strict=True):
        if digest:
            groups[digest].append(path)
    return [paths for paths in groups.values() if len(paths) > 1]


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").digest()
    except OSError:
        return b""
