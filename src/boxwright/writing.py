"""Files that are written: an error names the file, nothing half-written stays, and a JSON file grows entry by entry.

A folder that is written to is a new one: `free_folder`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # which turn the text around them


def printable(name: str) -> str:
    r"""A name as data, for one line of a terminal, a table or an image: what would steer these is shown as an escape.

    >>> print(printable("two\nlines"), printable("[/b] \x1b[31mred"), printable("été"))
    two\nlines [/b] \x1b[31mred été
    """
    steering = (
        letter in _DIRECTIONS or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name
    )  # fmt: skip
    return "".join(
        letter.encode("unicode_escape").decode() if steers else letter
        for letter, steers in zip(name, steering, strict=True)
    )


@contextmanager
def writing(path: Path, *, whole: bool = True) -> Iterator[Path]:
    """Let an error name the file that is being written, which the system does only where a file cannot be opened.

    With `whole`, half a file is taken away: it would be read as if nothing were missing.
    """
    try:
        yield path
    except (OSError, RuntimeError) as error:  # torch and OpenVINO have their own writers, which raise RuntimeError
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if whole and path.is_file():
            path.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise OSError(f"could not write {path} ({reason}); is the disk full?") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place beside the file to write to, which becomes the file once it is whole; what was there stays so long.

    An error names the file, as with `writing`.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with writing(path, whole=False):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def free_folder(wanted: Path) -> Path:
    """Create `wanted`, or `wanted-2`, `-3`, ... where that is taken."""
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        return folder


class GrowingJson:
    """A JSON list or object that is whole after each entry, so that whatever ends the program loses nothing of it."""

    def __init__(self, path: Path, brackets: str) -> None:
        """Args:

        path: the file; what was in it goes.
        brackets: "[]" or "{}".
        """
        self.path = path
        opening, closing = brackets.encode()
        self._closing = b"\n" + bytes([closing])
        self._end = 0
        with writing(path):
            self._file = path.open("wb", buffering=0)
            self._put(bytes([opening]))

    def add(self, entries: str) -> None:
        """Put entries, as JSON text without the brackets around them, at the end."""
        if entries:
            with writing(self.path, whole=False):
                self._put(("\n" if self._end == 1 else ",\n").encode() + entries.encode("utf-8", "backslashreplace"))

    def _put(self, text: bytes) -> None:
        try:
            self._overwrite(text + self._closing)
        except BaseException:  # the old end lies where there was room for it before
            self._overwrite(self._closing)
            self._file.truncate()
            raise
        self._end += len(text)

    def _overwrite(self, data: bytes) -> None:
        """Write from the last entry on; an unbuffered file may take a part only."""
        self._file.seek(self._end)
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
