"""Zip archives (`.pt`, `.pt2`, `.npz`): every member is compared with its checksum before its content is used.

Torch and NumPy write a checksum of every member and do not compare it when they read: a flipped bit would pass as
another weight.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath

SPARE_BYTES = 64 << 20
LARGEST_RATIO = 100
"""A file may unpack to so many times its size, and `SPARE_BYTES` more."""
_BLOCK = 1 << 20
_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError)


class DamagedError(ValueError):
    """A file is truncated, or its bytes are not those that were written."""


class CheckedArchive:
    """The members of an archive by name, each compared with its checksum when it is read."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.sizes = {info.filename: info.file_size for info in archive.infolist()}
        written = [info.CRC for info in archive.infolist() if info.file_size]
        self._without_checksums = bool(written) and not any(written)  # torch can be told to leave them out

    def read(self, name: str) -> bytes:
        """The content of a member."""
        content = bytearray(self.sizes[name])
        self.read_into(name, memoryview(content))
        return bytes(content)

    def read_into(self, name: str, content: memoryview) -> None:
        """Read a member into memory of its size."""
        done = 0
        try:
            with self._archive.open(name) as member:
                if self._without_checksums:
                    member._expected_crc = None  # type: ignore[attr-defined]
                while block := member.read(_BLOCK):  # the checksum is compared at the end
                    content[done : done + len(block)] = block
                    done += len(block)
        except _ERRORS as error:
            raise DamagedError(f"{_last(name)} in it is not what was written ({str(error)[:80]})") from error
        if done != len(content):
            raise DamagedError(f"{_last(name)} in it is not what was written ({done} of {len(content)} bytes)")


@contextmanager
def checked_archive(source: Path | bytes) -> Iterator[CheckedArchive]:
    """Open an archive. Raises DamagedError where it is damaged, ValueError where its names or sizes are suspicious.

    Both messages give the reason only, without the file's name.
    """
    try:
        archive = zipfile.ZipFile(BytesIO(source) if isinstance(source, bytes) else source)
    except _ERRORS as error:
        raise DamagedError(f"it is cut or damaged ({str(error)[:80]})") from error
    with archive:
        _check_members(archive, len(source) if isinstance(source, bytes) else source.stat().st_size)
        yield CheckedArchive(archive)


def check_archive(path: Path) -> None:
    """Compare every member of an archive with its checksum; raises as `checked_archive` does."""
    with checked_archive(path) as archive:
        for name in archive.sizes:
            archive.read(name)


def is_archive(path: Path) -> bool:
    """Whether a file begins or ends like a zip archive, even a truncated one."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" or zipfile.is_zipfile(file)


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    names = [info.filename for info in archive.infolist()]
    if len({name.lower() for name in names}) != len(names):
        raise ValueError("it has two members of one name")
    if any(not 0 <= info.header_offset < size for info in archive.infolist()):
        raise DamagedError("it is cut or damaged (a member begins outside of it)")
    for name in names:
        place = PurePosixPath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in place.parts[0] if place.parts else True:
            raise ValueError(f"its member {name[:80]!r} would lie outside of it")
    if sum(info.file_size for info in archive.infolist()) > SPARE_BYTES + LARGEST_RATIO * size:
        raise ValueError(f"far more would come out of it than its {size} bytes hold")


def _last(name: str) -> str:
    return PurePosixPath(name).name[:80]
