"""What `boxwright predict` writes: detections of one image after the other, in the formats that were asked for."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from boxwright.evaluation.result_files import write_text_results, write_yolo_results
from boxwright.structures import Detections
from boxwright.visualize import mask_image
from boxwright.writing import GrowingJson, writing

FORMATS = {
    "json": "detections.json: name, score, box (x1, y1, x2, y2), mask or rotated box (centre x and y, width, height, "
    "degrees) of each object, by the path of the image",
    "coco": "detections.coco.json: a COCO result file; masks as run-length codes, rotated boxes as rbbox",
    "polygons": "the same file, with masks as polygons",
    "yolo": "labels/NAME.txt: class index, centre, width and height as shares of the image, score",
    "text": "text/NAME.txt: class name, score, x1, y1, x2, y2",
    "masks": "masks/NAME.png: 0, or n where the n-th object of the image is",
}
"""Names of the formats, and what each writes."""
OF_MASKS = ("polygons", "masks")
"""Formats that only a detector with masks can write."""


def formats_called(text: str) -> tuple[str, ...]:
    """The formats of a list such as "json,coco".

    Raises ValueError for a name that is none, with the nearest one.

    >>> formats_called("json, yolo")
    ('json', 'yolo')
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.5)
            hint = f", did you mean {near[0]}?" if near else ""
            raise ValueError(f"--format: expected some of {', '.join(FORMATS)}, got {name!r}{hint}")
    return names


class PredictionFiles:
    """The result files of a folder. Each is whole after every image, so that a full disk or Ctrl-C loses nothing."""

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        """Args:

        folder: an existing folder, to write into.
        formats: names of `FORMATS`.
        """
        self.folder = folder
        self.formats = frozenset(formats)
        coco = self.formats & {"coco", "polygons"}
        self._by_path = GrowingJson(folder / "detections.json", "{}") if "json" in self.formats else None
        self._rows = GrowingJson(folder / "detections.coco.json", "[]") if coco else None

    def add(self, path: Path, name: str, found: Detections) -> None:
        """Write the detections of an image, which is called `name` where its path cannot be."""
        if self._by_path is not None:
            self._by_path.add(_json_entry(path, found))
        if self._rows is not None:
            rows = found.to_coco(name, polygons="polygons" in self.formats)
            self._rows.add(",\n".join(map(json.dumps, rows)))
        if "yolo" in self.formats:
            write_yolo_results(self.folder / "labels", [found], [name])
        if "text" in self.formats:
            write_text_results(self.folder / "text", [found], [name])
        if "masks" in self.formats:
            file = self.folder / "masks" / f"{name}.png"
            file.parent.mkdir(exist_ok=True)
            image = mask_image(found)
            with writing(file):
                image.save(file)


def _json_entry(path: Path, found: Detections) -> str:
    """Names, scores, boxes (x1, y1, x2, y2), run-length codes of masks and rotated boxes of an image, by its path."""
    rows = [
        {"name": one.name, "score": one.score, "box": list(one.box)}
        | ({} if one.mask is None else {"mask": one.mask.encoded(found.size_hw)})
        | ({} if one.rotated is None else {"rotated": list(one.rotated)})
        for one in found
    ]
    return json.dumps({str(path): rows}, indent=1, ensure_ascii=False)[2:-2]
