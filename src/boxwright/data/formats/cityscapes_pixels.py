"""One image of Cityscapes as pixels that hold the number of their object, and the objects that these make.

The number is the id of the class (Cordts et al., "The Cityscapes Dataset", CVPR 2016, and cityscapesScripts), times
1000 plus a count where it is a single object: 26002 is the third car, 26 a group of cars not told apart. Such an image
is `*_gtFine_instanceIds.png`, or is painted from the polygons of `*_gtFine_polygons.json` in their order, so that
later ones, such as "out of roi", cover earlier ones: the rule by which the PNG files were made.

Shape legend: H W = size of the image.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from boxwright.data.formats.numbered_pixels import numbered_pixels
from boxwright.data.image_io.decode import MAX_PIXELS
from boxwright.data.records import Annotation, Problem
from boxwright.ops.masks import encode_cropped, encode_rle
from boxwright.reading.values import flag, numbers, whole_number

IDS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33}
"""The classes that Cityscapes evaluates as objects, with the ids of its files."""
_OTHERS = {
    "unlabeled": 0, "ego vehicle": 1, "rectification border": 2, "out of roi": 3, "static": 4, "dynamic": 5,
    "ground": 6, "road": 7, "sidewalk": 8, "parking": 9, "rail track": 10, "building": 11, "wall": 12, "fence": 13,
    "guard rail": 14, "bridge": 15, "tunnel": 16, "pole": 17, "polegroup": 18, "traffic light": 19, "traffic sign": 20,
    "vegetation": 21, "terrain": 22, "sky": 23, "caravan": 29, "trailer": 30, "license plate": -1,
}  # fmt: skip
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
"""Numbers of pixels that are left out of the evaluation; single caravans and trailers (29000, ...) are not."""
_ALL = IDS | _OTHERS
_COUNTED = {*IDS, "caravan", "trailer"}
"""Classes whose objects are counted; all pixels of the others have the class's number."""
_SINGLE = 1000
_FARTHEST = 1e6

Plane = npt.NDArray[np.int32]


class Annotated(NamedTuple):
    """The objects of one image, its size if it is known, and what is wrong with its file."""

    annotations: tuple[Annotation, ...]
    size_hw: tuple[int, int] | None
    problems: tuple[Problem, ...]
    rejected: int = 0
    void: Any = None
    """The run-length code of the pixels that cityscapesScripts leaves out of the evaluation."""


def read_objects(file: Path) -> Annotated:
    """The objects of one annotation file, PNG or JSON; one that cannot be read is a problem and has none."""
    problems: list[Problem] = []
    try:
        plane = _painted(file, problems) if file.suffix.lower() == ".json" else _stored(file)
    except (ValueError, OSError, RecursionError) as error:
        message = (
            f"the annotation cannot be read ({str(error).removeprefix(f'{file}: ')!s:.200}); the image is left out"
        )
        return Annotated((), None, (Problem("bad-annotation", str(file), message, quarantined=True, severity="error"),))
    annotations = tuple(_objects(plane, file))
    void = encode_rle(torch.from_numpy(np.isin(plane, VOID)))
    return Annotated(annotations, (plane.shape[0], plane.shape[1]), tuple(problems), len(problems), void)


def _stored(file: Path) -> Plane:
    return numbered_pixels(file).astype(np.int32)


def _painted(file: Path, problems: list[Problem]) -> Plane:
    """The pixels (H, W) of polygons, painted as `json2instanceImg` of cityscapesScripts does."""
    content = json.loads(file.read_bytes())
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise ValueError('expected a JSON object with "imgHeight", "imgWidth" and a list of "objects"')
    height, width = (whole_number(content.get(side)) or 0 for side in ("imgHeight", "imgWidth"))
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        given = f"{content.get('imgHeight')!r:.20} and {content.get('imgWidth')!r:.20}"
        raise ValueError(f'"imgHeight" and "imgWidth" are {given}, expected sides of at most {MAX_PIXELS} pixels')
    image = Image.new("I", (width, height), 0)
    drawing = ImageDraw.Draw(image)
    counts: Counter[str] = Counter()
    for index, row in enumerate(content["objects"]):
        fault, name, points = _polygon(row)
        if fault:
            where = f"{file}: entry {index} of objects"
            problems.append(Problem("bad-annotation", where, fault, quarantined=True, severity="error"))
            continue
        group = name not in _ALL
        name = name.removesuffix("group") if group else name
        value = _ALL[name]
        if name in _COUNTED and not group:
            value = value * _SINGLE + counts[name]
            counts[name] += 1
        if value >= 0 and points:
            drawing.polygon(points, fill=value)
    return np.array(image, dtype=np.int32)


def _polygon(row: Any) -> tuple[str, str, list[tuple[float, float]]]:
    """What is wrong with an entry (empty if nothing is), its label, and its points, none where it is deleted."""
    if not isinstance(row, dict) or not isinstance(row.get("label"), str):
        return f'it has no "label": {row!r:.80}', "", []
    name = row["label"]
    if name not in _ALL and name.removesuffix("group") not in _ALL:
        return f"the label {name!r:.80} is none of Cityscapes's ({', '.join(_ALL)}), nor one followed by group", "", []
    if flag(row.get("deleted")) is not False:
        return "", "unlabeled", []
    points = [numbers(point) for point in row["polygon"]] if isinstance(row.get("polygon"), list) else []
    good = [(point[0], point[1]) for point in points if point is not None and len(point) == 2]
    if len(good) < 3 or len(good) < len(points) or not all(abs(v) < _FARTHEST for point in good for v in point):
        return f'the "polygon" of the {name} is not three or more points [x, y]: {row.get("polygon")!r:.60}', "", []
    return "", name, good


def _objects(plane: Plane, file: Path) -> list[Annotation]:
    """The objects of the eight classes in the order of their numbers; a group is an ignore region of its class."""
    labels = {identity: label for label, identity in enumerate(IDS.values())}
    width = plane.shape[1]
    places = np.flatnonzero(plane >= min(IDS.values()))
    values = plane.ravel()[places]
    order = np.argsort(values, kind="stable")
    numbers_, starts = np.unique(values[order], return_index=True)
    found = []
    for number, at in zip(numbers_.tolist(), np.split(places[order], starts[1:]), strict=False):
        single = number >= _SINGLE
        label = labels.get(number // _SINGLE if single else number)
        if label is None:  # such as a caravan
            continue
        rows, columns = at // width, at % width
        x1, y1, x2, y2 = (int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        bitmap = torch.zeros(y2 - y1, x2 - x1, dtype=torch.bool)
        bitmap[torch.from_numpy(rows - y1), torch.from_numpy(columns - x1)] = True
        code = encode_cropped(bitmap, x1, y1, (plane.shape[0], width))
        box = (float(x1), float(y1), float(x2), float(y2))
        found.append(Annotation(box, label, f"{file}: id {number}", not single, code, float(len(at))))
    return found
