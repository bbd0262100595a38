"""One CVAT file: its labels, and its images with their shapes as boxes, polygons and run-length codes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxwright.data.formats.voc_xml import unreadable
from boxwright.data.records import Problem
from boxwright.ops.masks import encode_cropped
from boxwright.reading.values import number, whole_number
from boxwright.reading.xml_text import parse_xml
from boxwright.wording import counted

Box = tuple[float, float, float, float]
Rotated = tuple[float, float, float, float, float]
_SHAPES = ("box", "polygon", "mask", "ellipse", "polyline", "points", "cuboid", "skeleton")
_MOST_PIXELS = 200_000_000


@dataclass(frozen=True, slots=True)
class CvatShape:
    """One shape: its line, kind and label, its box or else the reason why it has none, its mask in COCO's form, and its
    rotated box (`Annotation.rotated`) if it is turned: that of an ellipse is around the ellipse.
    """

    line: int
    kind: str
    label: str
    box: Box | None
    segmentation: Any = None
    fault: str = ""
    rotated: Rotated | None = None


@dataclass(slots=True)
class CvatImage:
    """One `<image>`: its line, id, file name, subset and size, and its shapes; `fault` names an invalid field."""

    line: int
    identity: int | None
    name: str
    subset: str
    stated_hw: tuple[int, int] | None
    fault: str = ""
    shapes: list[CvatShape] = field(default_factory=list)


@dataclass(slots=True)
class CvatFile:
    """The content of one file: the labels of its task in order, its images, and its number of video tracks."""

    path: Path
    labels: dict[str, None] = field(default_factory=dict)
    images: list[CvatImage] = field(default_factory=list)
    num_tracks: int = 0


def read_cvat_file(path: Path) -> CvatFile | Problem:
    """The content of a CVAT file, or the problem that prevents reading it."""
    collector = _Collector(CvatFile(path))
    fault = parse_xml(path, collector.start, collector.end, collector.text)
    return collector.file if fault is None else unreadable(path, fault)


@dataclass
class _Collector:
    file: CvatFile
    stack: list[str] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    label: dict[str, str] = field(default_factory=dict)

    def start(self, tag: str, attributes: dict[str, str], line: int) -> None:
        self.stack.append(tag)
        self.letters.clear()
        if len(self.stack) == 2:
            self.file.num_tracks += tag == "track"
            if tag == "image":
                self.file.images.append(_image(attributes, line))
        elif len(self.stack) == 3 and self.stack[1] == "image" and tag in _SHAPES:
            image = self.file.images[-1]
            image.shapes.append(_shape(tag, attributes, line, image.stated_hw))

    def text(self, text: str) -> None:
        self.letters.append(text)

    def end(self, tag: str) -> None:
        if self.stack[1:2] == ["meta"]:
            if self.stack[-3:-1] == ["labels", "label"]:
                self.label[tag] = "".join(self.letters).strip()
            elif self.stack[-2:] == ["labels", "label"]:
                if self.label.get("name") and not self.label.get("parent"):  # the parts of a skeleton have a parent
                    self.file.labels[self.label["name"]] = None
                self.label.clear()
        self.letters.clear()
        self.stack.pop()


def _image(attributes: dict[str, str], line: int) -> CvatImage:
    height, width = (number(attributes.get(name)) for name in ("height", "width"))
    odd = [f"{name} is {attributes[name]!r:.40}" for name in ("id", "width", "height")
           if name in attributes and whole_number(attributes[name]) is None]  # fmt: skip
    usable = height and width and 0 < height < 1e9 and 0 < width < 1e9
    return CvatImage(
        line=line,
        identity=whole_number(attributes.get("id")),
        name=attributes.get("name", ""),
        subset=attributes.get("subset", ""),
        stated_hw=(int(height), int(width)) if usable and height and width else None,
        fault=f"{', '.join(odd)}, which is not a whole number" if odd else "",
    )


def _shape(kind: str, attributes: dict[str, str], line: int, hw: tuple[int, int] | None) -> CvatShape:
    label = attributes.get("label", "").strip()
    mask: Any = None
    rotated: Rotated | None = None
    try:
        if kind == "box":
            x1, y1, x2, y2 = _fields(attributes, "xtl", "ytl", "xbr", "ybr")
            box, rotated = _turned((x1, y1, x2, y2), attributes)
        elif kind == "ellipse":
            x, y, across, down = _fields(attributes, "cx", "cy", "rx", "ry")
            box, rotated = _turned((x - across, y - down, x + across, y + down), attributes, ellipse=True)
        elif kind == "polygon":
            points = _points(attributes)
            box = (min(points[0::2]), min(points[1::2]), max(points[0::2]), max(points[1::2]))
            mask = [points]
        elif kind == "mask":
            box, mask = _mask(attributes, hw)
        else:
            raise ValueError("only boxes, polygons, masks and ellipses are objects here")
    except ValueError as error:
        return CvatShape(line, kind, label, None, fault=str(error))
    return CvatShape(line, kind, label, box, mask, rotated=rotated)


def _fields(attributes: dict[str, str], *names: str) -> list[float]:
    values = []
    for name in names:
        value = number(attributes.get(name))
        if value is None:
            raise ValueError(
                f"{name} is {attributes[name]!r:.40}, which is not a number"
                if name in attributes
                else f"it has no {name}"
            )
        values.append(value)
    return values


def _turned(box: Box, attributes: dict[str, str], *, ellipse: bool = False) -> tuple[Box, Rotated | None]:
    """The upright box around a box (or the ellipse in it) that is rotated about its centre, and its rotated box, if it
    is turned; CVAT's degrees are clockwise as seen.
    """
    degrees = _fields(attributes, "rotation")[0] if "rotation" in attributes else 0.0
    if not degrees or not all(map(math.isfinite, (*box, degrees))):
        return box, None
    x, y, across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    if ellipse:
        reach_x, reach_y = math.hypot(across * cosine, down * sine), math.hypot(across * sine, down * cosine)
    else:
        reach_x, reach_y = across * cosine + down * sine, across * sine + down * cosine
    rotated = (x, y, 2 * across, 2 * down, (180 - degrees) % 360 - 180)
    return (x - reach_x, y - reach_y, x + reach_x, y + reach_y), rotated


def _points(attributes: dict[str, str]) -> list[float]:
    points = []
    for pair in attributes.get("points", "").split(";"):
        values = [number(word) for word in pair.split(",")]
        if len(values) != 2 or values[0] is None or values[1] is None:
            raise ValueError(f'points holds {pair!r:.40}, expected "x,y;x,y;x,y"')
        points += [values[0], values[1]]
    if len(points) < 6:
        raise ValueError(f"it has {counted(len(points) // 2, 'point')}, and a polygon needs three")
    return points


def _mask(attributes: dict[str, str], hw: tuple[int, int] | None) -> tuple[Box, Any]:
    """A mask as COCO's run-length code of the whole image, from runs over the rows of its own frame, zeros first."""
    if hw is None or hw[0] * hw[1] > _MOST_PIXELS:
        raise ValueError("a mask needs the size of its image (width, height), which is missing or too large")
    left, top, width, height = (round(value) if math.isfinite(value) else -1
                                for value in _fields(attributes, "left", "top", "width", "height"))  # fmt: skip
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > hw[1] or top + height > hw[0]:
        raise ValueError(f"its frame of {width} x {height} at {left}, {top} leaves the image of {hw[1]} x {hw[0]}")
    words = attributes.get("rle", "").split(",", 2 * width * height + 2)
    runs = [whole_number(word) for word in words]
    known = [run for run in runs if run is not None and run >= 0]
    if len(known) < len(runs) or sum(known) != width * height:
        raise ValueError(f"rle does not fill its frame of {width} x {height}")
    flat = np.repeat(np.arange(len(known)) % 2 == 1, known)
    code = encode_cropped(torch.from_numpy(flat.reshape(height, width)), left, top, hw)
    return (left, top, left + width, top + height), code
