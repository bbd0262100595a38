"""What `boxwright predict` writes: detections of one image after the other, in the formats that were asked for."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from boxwright.evaluation.result_files import write_dota_results, write_text_results, write_yolo_results
from boxwright.models import MODELS
from boxwright.structures import Classes, Detection, Detections
from boxwright.structures.written import segments_info
from boxwright.visualize import mask_image, panoptic_image, semantic_image
from boxwright.writing import GrowingJson, writing

FORMATS = {
    "json": "detections.json: name, score, box (x1, y1, x2, y2), mask, keypoints, rotated box of each object, by image",
    "coco": "detections.coco.json: a COCO result file; masks as run-length codes, and keypoints",
    "polygons": "the same file, with masks as polygons",
    "yolo": "labels/NAME.txt: class index, centre, width and height as shares of the image, score",
    "dota": "dota/Task1_CLASS.txt: image, score and corners of each rotated box, as DOTA's server takes them",
    "text": "text/NAME.txt: class name, score, x1, y1, x2, y2",
    "masks": "masks/NAME.png: 0, or n where the n-th object of the image is",
    "semantic": "semantic/NAME.png: the number of each pixel's label, and semantic.json: their names",
    "panoptic": "panoptic/NAME.png and panoptic.json: segments as in COCO's panoptic results",
}
"""Names of the formats, and what each writes."""
OF_MASKS = ("polygons", "masks")
"""Formats that only a detector with masks can write."""
OF_MAPS = ("semantic", "panoptic")
"""Formats that only a model with such maps can write."""


def refuse_formats(checkpoint: str, formats: Sequence[str], model: str) -> None:
    """Raise ValueError for formats that a model, by its name in `MODELS`, has nothing to write into."""
    entry = MODELS[model]
    for name in formats:
        if name in OF_MASKS and not entry.needs_masks and entry.detects:
            raise ValueError(f"{checkpoint} predicts boxes and no masks: leave out --format {name}")
        if name not in OF_MAPS and not entry.detects:
            raise ValueError(f"{checkpoint} labels pixels and finds no objects: --format semantic, not {name}")
        if name == "dota" and not entry.needs_rotated:
            raise ValueError(f"{checkpoint} predicts no rotated boxes: leave out --format dota")
        if name == "semantic" and not entry.needs_semantic:
            raise ValueError(f"{checkpoint} predicts no semantic map: leave out --format semantic")
        if name == "panoptic" and not (entry.needs_semantic and entry.needs_masks):
            raise ValueError(f"{checkpoint} predicts no panoptic map: leave out --format panoptic")


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
        self._unnamed = True
        self._rows = GrowingJson(folder / "detections.coco.json", "[]") if coco else None
        segments = "panoptic" in self.formats
        self._segments = GrowingJson(folder / "panoptic.json", "[]", "annotations") if segments else None

    def add(self, path: Path, name: str, found: Detections) -> None:
        """Write the detections of an image, which is called `name` where its path cannot be."""
        if self._by_path is not None:
            self._by_path.add(_json_entry(path, found))
        if self._rows is not None:
            rows = found.to_coco(name, polygons="polygons" in self.formats)
            self._rows.add(",\n".join(map(json.dumps, rows)))
        if "yolo" in self.formats:
            write_yolo_results(self.folder / "labels", [found], [name])
        if "dota" in self.formats:
            write_dota_results(self.folder / "dota", found, name)
        if "text" in self.formats:
            write_text_results(self.folder / "text", [found], [name])
        if "masks" in self.formats:
            self._save(mask_image(found), "masks", name)
        if "semantic" in self.formats and found.semantic is not None:
            self._save(semantic_image(found.semantic), "semantic", name)
            self._write_names(found.classes)
        if self._segments is not None and found.panoptic is not None:
            self._save(panoptic_image(found.panoptic.map), "panoptic", name)
            segments = segments_info(found.panoptic, found.classes)
            self._segments.add(json.dumps({"image_id": name, "file_name": f"{name}.png", "segments_info": segments}))

    def _save(self, image: Image.Image, kind: str, name: str) -> None:
        file = self.folder / kind / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        with writing(file):
            image.save(file)

    def _write_names(self, classes: Classes | None) -> None:
        """The name of each label of a semantic map, once."""
        file = self.folder / "semantic.json"
        if classes is not None and self._unnamed:
            self._unnamed = False
            with writing(file):
                text = json.dumps(dict(enumerate(classes.semantic_names)), ensure_ascii=False, indent=1)
                file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def beyond_box(one: Detection, found: Detections) -> dict[str, Any]:
    """What one of `found` has beside its box, as JSON; what it has not is left out.

    Its mask is a run-length code, its keypoints are x, y, score, its rotated box cx, cy, w, h, degrees.
    """
    parts: dict[str, Any] = {} if one.mask is None else {"mask": one.mask.encoded(found.size_hw)}
    if one.keypoints is not None:
        parts["keypoints"] = [list(point) for point in one.keypoints]
    return parts if one.rotated is None else parts | {"rotated": list(one.rotated)}


def _json_entry(path: Path, found: Detections) -> str:
    """Names, scores, boxes (x1, y1, x2, y2), and what else objects have, of an image, by its path."""
    rows = [{"name": one.name, "score": one.score, "box": list(one.box)} | beyond_box(one, found) for one in found]
    return json.dumps({str(path): rows}, indent=1, ensure_ascii=False)[2:-2]
