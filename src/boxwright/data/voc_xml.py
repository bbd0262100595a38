"""One Pascal VOC annotation file: its objects with their lines, read without ever expanding an entity."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from boxwright.data.records import Problem

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class VocObject:
    """One `<object>`: the line it begins on, its class name and flags, and its box or None where that is no box."""

    line: int
    name: str
    difficult: bool
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True, slots=True)
class VocFile:
    """What one annotation file says: the picture's file name, its size, and its objects."""

    path: Path
    filename: str
    stated_hw: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_voc_file(path: Path) -> VocFile | Problem:
    """The content of an annotation file, or the problem that keeps it from being read.

    Raises ValueError for a file with a document type declaration: that is where entities are declared, whose expansion
    can fill the memory or read other files.
    """
    collector = _Collector(path)
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, attributes: collector.start(tag, parser.CurrentLineNumber)
    parser.EndElementHandler = collector.end
    parser.CharacterDataHandler = collector.text
    parser.StartDoctypeDeclHandler = lambda *declaration: collector.refuse(parser.CurrentLineNumber)
    parser.EntityDeclHandler = lambda *declaration: collector.refuse(parser.CurrentLineNumber)
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, LookupError, UnicodeError) as error:
        where = f"{path}:{getattr(error, 'lineno', 1)}"
        reason = expat.ErrorString(error.code) if isinstance(error, expat.ExpatError) else str(error)
        message = f"not well-formed XML ({reason}); the picture is left out"
        return Problem("unreadable-annotation", where, message, quarantined=True, severity="error")
    top = collector.top
    return VocFile(path, top.get("filename", ""), _size(top), tuple(map(_object, collector.objects)))


def _size(fields: dict[str, str]) -> tuple[int, int] | None:
    height, width = (_number(fields.get(f"size/{name}", "")) for name in ("height", "width"))
    if not height or not width or not (0 < height < 1e9 and 0 < width < 1e9):
        return None  # a missing size, or the zeros that some tools write for one
    return int(height), int(width)


def _object(raw: tuple[int, dict[str, str]]) -> VocObject:
    line, fields = raw
    corners = [_number(fields.get(f"bndbox/{name}", "")) for name in _CORNERS]
    x1, y1, x2, y2 = corners
    complete = x1 is not None and y1 is not None and x2 is not None and y2 is not None
    return VocObject(
        line=line,
        name=fields.get("name", ""),
        difficult=fields.get("difficult", "").lower() in ("1", "true", "yes"),
        box=(x1, y1, x2, y2) if complete else None,  # type: ignore[arg-type]
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass
class _Collector:
    """Texts by their path below the root or below the current object; what lies deeper (`part`, `attributes`) keeps
    its own longer path, so that an attribute's `<name>` is not taken for the class.
    """

    path: Path
    top: dict[str, str] = field(default_factory=dict)
    objects: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)

    def start(self, tag: str, line: int) -> None:
        self.stack.append(tag)
        self.letters.clear()
        if len(self.stack) == 2 and tag == "object":
            self.objects.append((line, {}))

    def text(self, text: str) -> None:
        self.letters.append(text)

    def end(self, tag: str) -> None:
        text = "".join(self.letters).strip()
        self.letters.clear()
        below = self.stack[1:]
        self.stack.pop()
        if below[:1] == ["object"] and len(below) > 1:
            self.objects[-1][1].setdefault("/".join(below[1:]), text)
        elif below:
            self.top.setdefault("/".join(below), text)

    def refuse(self, line: int) -> None:
        raise ValueError(
            f"{self.path}:{line}: the XML declares a document type or entities (<!DOCTYPE ...>), which boxwright "
            "refuses for safety; remove the declaration"
        )
