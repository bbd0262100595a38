"""Writing files: errors name the file, no partial file is left behind, and JSON files are written entry by entry.

A folder that is written to is a new one: `free_folder`.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # which change the direction of text


def printable(name: str) -> str:
    r"""A name for one line of a terminal, a table or an image, with control characters escaped.

    >>> print(printable("two\nlines"), printable("[/b] \x1b[31mred"), printable("été"))
    two\nlines [/b] \x1b[31mred été
    """
    steering = (letter in _DIRECTIONS or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)
    return "".join(
        letter.encode("unicode_escape").decode() if steers else letter
        for letter, steers in zip(name, steering, strict=True)
    )


@contextmanager
def writing(path: Path, *, whole: bool = True) -> Iterator[Path]:
    """Add the file's name to errors while it is written (the system does so only if it cannot be opened).

    With `whole`, a partial file is removed, since it would be read as if it were complete.
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
    """A temporary path beside the file, which replaces the file once it is complete; until then the old file stays.

    Errors name the file, as with `writing`.
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
    """A JSON list or object that is valid after each entry, so that nothing is lost if the program ends early."""

    def __init__(self, path: Path, brackets: str, key: str | None = None) -> None:
        """Args:

        path: the file; an existing one is overwritten.
        brackets: "[]" or "{}".
        key: the list or object is the value of this key of an object, which is the whole file.
        """
        self.path = path
        opening, closing = brackets[0], brackets[1]
        if key is not None:
            opening, closing = f"{{{json.dumps(key)}: {opening}", closing + "}"
        self._closing, self._first = f"\n{closing}".encode(), len(opening.encode())
        self._end = 0
        with writing(path):
            self._file = path.open("wb", buffering=0)
            self._put(opening.encode())

    def add(self, entries: str) -> None:
        """Append entries, given as JSON text without the surrounding brackets."""
        if entries:
            with writing(self.path, whole=False):
                self._put(
                    ("\n" if self._end == self._first else ",\n").encode() + entries.encode("utf-8", "backslashreplace")
                )

    def _put(self, text: bytes) -> None:
        try:
            self._overwrite(text + self._closing)
        except BaseException:  # the old end fits where it was before
            self._overwrite(self._closing)
            self._file.truncate()
            raise
        self._end += len(text)

    def _overwrite(self, data: bytes) -> None:
        """Write after the last entry; an unbuffered file may accept only a part at a time."""
        self._file.seek(self._end)
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
