"""One Pascal VOC annotation file: its objects with their lines, read without ever expanding an entity."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from boxwright.data.records import Problem
from boxwright.reading.values import flag, number
from boxwright.reading.xml_text import Unreadable, parse_xml

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class VocObject:
    """One `<object>`: its first line, its class name and flags, and its box, None if that is invalid.

    `fault` names the invalid field, "" if there is none.
    """

    line: int
    name: str
    difficult: bool
    box: tuple[float, float, float, float] | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class VocFile:
    """The content of one annotation file: the image's file name, its size, and its objects.

    `odd_size` is the content of `<size>` if that is not a size.
    """

    path: Path
    filename: str
    stated_hw: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    odd_size: str = ""


def read_voc_file(path: Path) -> VocFile | Problem:
    """The content of an annotation file, or the problem that prevents reading it.

    A file with a document type declaration is such a problem, see `xml_text`.
    """
    collector = _Collector()
    fault = parse_xml(path, collector.start, collector.end, collector.text)
    if fault is not None:
        return unreadable(path, fault)
    top = collector.top
    stated, odd = _size(top)
    return VocFile(path, top.get("filename", ""), stated, tuple(map(_object, collector.objects)), odd)


def unreadable(path: Path, fault: Unreadable) -> Problem:
    """The problem of an annotation file that cannot be read: its images are left out."""
    message = f"{fault.reason}; its images are left out"
    return Problem("unreadable-annotation", f"{path}:{fault.line}", message, quarantined=True, severity="error")


def _size(fields: dict[str, str]) -> tuple[tuple[int, int] | None, str]:
    """Height and width (None for a missing or zero size), and the fields that are not numbers."""
    texts = {name: fields.get(f"size/{name}", "") for name in ("height", "width")}
    odd = [f"<{name}> is {text!r:.40}" for name, text in texts.items() if text and number(text) is None]
    height, width = (number(text) for text in texts.values())
    if not height or not width or not (0 < height < 1e9 and 0 < width < 1e9):
        return None, " and ".join(odd)
    return (int(height), int(width)), ""


def _object(raw: tuple[int, dict[str, str]]) -> VocObject:
    line, fields = raw
    corners = [number(fields.get(f"bndbox/{name}", "")) for name in _CORNERS]
    x1, y1, x2, y2 = corners
    box = None if x1 is None or y1 is None or x2 is None or y2 is None else (x1, y1, x2, y2)
    wrong = [name for name, value in zip(_CORNERS, corners, strict=True) if value is None]
    fault = ""
    if 0 < len(wrong) < 4 or any(f"bndbox/{name}" in fields for name in wrong):
        text = fields.get(f"bndbox/{wrong[0]}")
        fault = f"<{wrong[0]}> is {'missing' if text is None else f'{text!r:.40}, which is not a number'}"
    difficult = flag(fields.get("difficult"))
    if difficult is None and not fault:
        fault = f"<difficult> is {fields['difficult']!r:.40}, expected 0 or 1"
    return VocObject(line, fields.get("name", ""), bool(difficult), box, fault)


@dataclass
class _Collector:
    """Texts by their path below the root or below the current object; nested elements (`part`, `attributes`) keep
    their own longer path, so that an attribute's `<name>` is not taken for the class.
    """

    top: dict[str, str] = field(default_factory=dict)
    objects: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)

    def start(self, tag: str, attributes: dict[str, str], line: int) -> None:
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
