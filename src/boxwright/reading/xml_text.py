"""Untrusted XML, element by element: decoded by Python where expat cannot, bounded in depth, never with entities.

A document type is refused because it can declare entities, whose expansion can fill the memory or read other files.
"""

from __future__ import annotations

import codecs
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

DEEPEST = 64
"""How deep elements may be nested; an annotation file needs ten levels."""
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["']""")
_WIDER = {  # an encoding and the supersets that its writers often mean, tried where it does not fit itself
    "gb2312": ("gb18030",),
    "gbk": ("gb18030",),
    "gb18030": (),
    "hz": (),
    "big5": ("cp950", "big5hkscs"),
    "cp950": ("big5hkscs",),
    "big5hkscs": (),
    "shift_jis": ("cp932", "shift_jis_2004"),
    "cp932": ("shift_jis_2004",),
    "shift_jis_2004": (),
    "shift_jisx0213": (),
    "euc_jp": ("euc_jis_2004",),
    "euc_jis_2004": (),
    "euc_jisx0213": (),
    "iso2022_jp": ("iso2022_jp_ext",),
    "iso2022_jp_1": (),
    "iso2022_jp_2": (),
    "iso2022_jp_3": (),
    "iso2022_jp_2004": (),
    "iso2022_jp_ext": (),
    "euc_kr": ("cp949",),
    "cp949": (),
    "johab": (),
    "iso2022_kr": (),
    "utf-32": (),
}


class Unreadable(NamedTuple):
    """Why a file cannot be read, and the line where it fails."""

    line: int
    reason: str


class _RefusedError(Exception):
    """Ends the parsing, with the reason."""


def parse_xml(
    path: Path,
    start: Callable[[str, dict[str, str], int], object],
    end: Callable[[str], object] = lambda tag: None,
    text: Callable[[str], object] = lambda text: None,
) -> Unreadable | None:
    """Call back for each element's start (tag, attributes, line), end and text; None, or why the file is unreadable.

    Elements before the fault have been reported by then. No file raises an exception, whatever it holds.
    """
    try:
        data = regular_bytes(path)
    except OSError as error:
        return Unreadable(1, error.strerror or str(error))
    try:
        encoding, data = _decoded(data)
    except (UnicodeDecodeError, LookupError) as error:
        return Unreadable(1, f"not well-formed XML ({error!s:.120})")
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    depth = 0

    def started(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise _RefusedError(f"elements are nested more than {DEEPEST} deep, so this is no annotation file")
        start(tag, attributes, parser.CurrentLineNumber)

    def ended(tag: str) -> None:
        nonlocal depth
        depth -= 1
        end(tag)

    def declared(*_: object) -> None:
        raise _RefusedError(
            "the XML declares a document type or entities (<!DOCTYPE ...>), which boxwright refuses for safety; "
            "remove the declaration"
        )

    parser.StartElementHandler, parser.EndElementHandler = started, ended
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = declared
    try:
        parser.Parse(data, True)
    except _RefusedError as reason:
        return Unreadable(parser.CurrentLineNumber, str(reason))
    except expat.ExpatError as error:
        return Unreadable(error.lineno, f"not well-formed XML ({expat.ErrorString(error.code)})")
    except (LookupError, ValueError) as error:  # an unknown encoding, or one of several bytes a character
        return Unreadable(1, f"not well-formed XML ({error!s:.120})")
    return None


def regular_bytes(path: Path) -> bytes:
    """The content of a regular file; OSError for a pipe or a device, which could block the reader for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no regular file")
    return path.read_bytes()


def root_element(path: Path) -> str:
    """The name of the outermost element, "" where the file is not XML; only the beginning of the file is read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as handle:
            head = handle.read(4096)
    except OSError:
        return ""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if head.startswith(mark):
            head = head.decode(encoding, "ignore").encode()
    plain = re.sub(rb"<!--.*?-->|<\?.*?\?>|<!DOCTYPE[^>\[]*(\[.*?\])?[^>]*>", b"", head, flags=re.DOTALL)
    found = re.match(rb"[^<]*<([A-Za-z_][\w.-]*)", plain)
    return found[1].decode("ascii", "replace") if found else ""


def _decoded(data: bytes) -> tuple[str | None, bytes]:
    """The encoding that expat is told (None: what the file says) and the bytes for it."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-8", data.decode("utf-32").encode()
    declared = _DECLARED.match(data[:400])
    if declared is None:
        return None, data
    try:
        name = codecs.lookup(declared[1].decode("ascii")).name
    except LookupError:
        return None, data
    if name not in _WIDER:
        return None, data
    fault: UnicodeDecodeError | None = None
    for encoding in (name, "utf-8", *_WIDER[name]):  # some tools declare an encoding and write UTF-8
        try:
            return "utf-8", data.decode(encoding).encode()
        except UnicodeDecodeError as error:
            fault = fault or error
    assert fault is not None
    raise fault
