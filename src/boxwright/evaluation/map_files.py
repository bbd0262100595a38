"""The maps of an evaluated split as files: COCO's panoptic results, or PNG files of labels.

`panoptic.json` with `panoptic/NAME.png`, in which the colour of a pixel is the id of its segment, as panopticapi and
COCO's server take them; `semantic/NAME.png` with the number of each pixel's label, whose names are in `semantic.json`.
Images and categories carry the ids of the ground truth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from boxwright.data.dataset import DetectionDataset
from boxwright.evaluation.result_files import unique_stems
from boxwright.structures import Detections
from boxwright.structures.written import segments_info
from boxwright.visualize.label_images import panoptic_image, semantic_image
from boxwright.writing import writing


class MapFiles:
    """Writes the maps of the images of a split as they are made; `close` writes what names them."""

    def __init__(self, folder: Path, images: DetectionDataset) -> None:
        self.folder, self.images = folder, images
        self.stems = unique_stems([record.path for record in images.records])
        self.rows: list[dict[str, Any]] = []
        self.any = False

    def add(self, index: int, found: Detections) -> None:
        """Write the maps of the image of record `index`, those that it has."""
        name = f"{self.stems[index]}.png"
        if found.semantic is not None:
            self.any = True
            self._save(semantic_image(found.semantic), "semantic", name)
        if found.panoptic is not None:
            self._save(panoptic_image(found.panoptic.map), "panoptic", name)
            segments = segments_info(found.panoptic, self.images.classes)
            key = self.images.records[index].image_id
            self.rows.append({"image_id": key, "file_name": name, "segments_info": segments})

    def _save(self, image: Any, kind: str, name: str) -> None:
        (self.folder / kind).mkdir(parents=True, exist_ok=True)
        with writing(self.folder / kind / name) as path:
            image.save(path)

    def close(self) -> None:
        """Write the segments of all images, and the names of labels."""
        if self.rows:
            self._write("panoptic.json", {"annotations": self.rows})
        if self.any:
            self._write("semantic.json", dict(enumerate(self.images.classes.semantic_names)))

    def _write(self, name: str, content: Any) -> None:
        with writing(self.folder / name) as path:
            text = json.dumps(content, ensure_ascii=False) + "\n"
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
