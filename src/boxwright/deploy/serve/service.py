"""The service behind the server: decodes the images of requests, detects in them in batches, and makes the answers.

It is independent of the web framework, except for the requests that it is given.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from boxwright.data.inputs import image_threads
from boxwright.deploy.serve.batching import Batcher
from boxwright.deploy.serve.uploads import Limits, Places, Refused, Upload, image_of, uploads_in
from boxwright.inference.predictor import Detector
from boxwright.models import require_objects
from boxwright.runtime.exported import ExportedEngine
from boxwright.structures import Detections, DetectSettings, Skeleton
from boxwright.visualize.drawing import class_colour

Masks: TypeAlias = Literal["rle", "polygons", "none"]
_LOG = logging.getLogger("boxwright.serve")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How requests are answered."""

    score: float | None = None
    """Score threshold of requests that give none; the checkpoint's own if None."""
    batch: int = 8
    """Maximum number of images per forward pass."""
    wait_seconds: float = 0.005
    """How long an image waits for others to form a batch."""
    limits: Limits = field(default_factory=Limits)


class Service:
    """Answers the requests of one event loop; decoding and detection run in threads."""

    def __init__(self, detector: Detector, path: Path, options: ServeOptions) -> None:
        """Args:

        detector: what is served.
        path: of its checkpoint or exported file; clients see the last part only.
        options: score threshold, batching and limits.

        Raises ValueError for a detector that needs proposals, and for a model that finds no objects.
        """
        require_objects(detector.recipe.model.name, "the server answers with objects; use boxwright predict")
        if detector.needs_proposals:
            raise ValueError(
                f"{path}: {detector.recipe.model.name} needs proposals for every image and cannot be served"
            )
        self.detector = detector
        self.path = path
        self.limits = options.limits
        self.description = described(detector, path, options)
        self._places = Places(options.limits.num_images)
        self._pool = image_threads("boxwright image")
        self._batcher = Batcher(detector, batch=options.batch, wait_seconds=options.wait_seconds)

    def start(self) -> None:
        """Start the detector's thread."""
        self._batcher.start()

    def close(self) -> None:
        """Stop after the requests in progress."""
        self._batcher.close()
        self._pool.shutdown()

    async def answers(
        self, request: Any, *, score: float | None, max_detections: int | None, masks: Masks | None
    ) -> dict[str, Any]:
        """The answer to a request: detections in the image in its body, or in each file of its form.

        Files of a form that are refused have the reason in their place. Raises Refused where all are.
        """
        if masks in ("rle", "polygons") and not self.detector.recipe.needs_masks:
            raise Refused(422, f"masks: {self.path.name} predicts no masks; leave masks={masks} out")
        kind: Masks = masks or "rle"
        least = self.description["score"] if score is None else score
        tiled = self.detector.tiling is not None  # where settings are those of a tile
        settings = self.detector.settings_with(score=least, max_detections=None if tiled else max_detections)
        most = max_detections if tiled else None
        with self._places.taken(1):
            uploads, of_form = await uploads_in(request, self.limits)
            if not of_form:
                return await self._answer(uploads[0], settings, kind, most)
            with self._places.taken(len(uploads) - 1):
                found = await asyncio.gather(*(self._answer_or_reason(one, settings, kind, most) for one in uploads))
        reasons = [one for one in found if isinstance(one, Refused)]
        if len(reasons) == len(found):
            raise reasons[0]
        rows = [{"error": str(one)} if isinstance(one, Refused) else one for one in found]
        return {"images": [{"file": upload.name} | row for upload, row in zip(uploads, rows, strict=True)]}

    async def _answer_or_reason(
        self, upload: Upload, settings: DetectSettings, masks: Masks, most: int | None
    ) -> dict[str, Any] | Refused:
        try:
            return await self._answer(upload, settings, masks, most)
        except Refused as reason:
            return reason

    async def _answer(self, upload: Upload, settings: DetectSettings, masks: Masks, most: int | None) -> dict[str, Any]:
        detector, started = self.detector, time.perf_counter()
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(
            self._pool, image_of, upload, self.limits, detector.resize, detector.value_range, detector.tiling
        )
        try:
            found = await asyncio.wrap_future(self._batcher.submit(image, settings))
        except ValueError as error:  # settings that are fixed in an exported file
            raise Refused(422, str(error).replace(str(self.path), self.path.name)) from error
        except Exception as error:
            _LOG.exception("the detector failed on an image of %s x %s pixels", *image.original_hw)
            raise Refused(500, f"{upload.name}: the detector failed; the server's log says why") from error
        answer = await loop.run_in_executor(self._pool, listed, found[:most], masks)
        if image.note is not None:
            answer |= {"note": image.note}
        return answer | {"milliseconds": round((time.perf_counter() - started) * 1000, 1)}


def described(detector: Detector, path: Path, options: ServeOptions) -> dict[str, Any]:
    """The description of what is served: classes with ids and colours, scores, runtime and limits."""
    engine: Any = detector.engine
    exported = isinstance(engine, ExportedEngine)
    skeleton = skeleton_of(detector)
    limits = options.limits
    return {
        "name": path.name,
        "recipe": detector.recipe.name,
        "detector": detector.recipe.model.name,
        "masks": detector.recipe.needs_masks,
        "keypoints": None if skeleton is None else {"names": skeleton.names, "lines": skeleton.lines},
        "classes": [
            {"label": name, "category_id": number, "colour": "#{:02x}{:02x}{:02x}".format(*class_colour(index))}
            for index, (name, number) in enumerate(zip(detector.classes.names, detector.classes.ids, strict=True))
        ],
        "score": detector.score_threshold if options.score is None else options.score,
        "least_score": detector.settings.score_threshold if exported else 0.0,
        "runtime": engine.runtime if exported else "torch",
        "precision": (engine.description if exported else engine).precision,
        "device": str(detector.device),
        "limits": {"bytes": limits.num_bytes, "pixels": limits.num_pixels, "images": limits.num_images},
    }


def skeleton_of(detector: Detector) -> Skeleton | None:
    """Names and lines of the keypoints that a detector predicts; names are numbers where it knows none."""
    if not detector.recipe.num_keypoints:
        return None
    return detector.classes.skeleton or Skeleton(tuple(str(number) for number in range(detector.recipe.num_keypoints)))


def listed(found: Detections, masks: Masks) -> dict[str, Any]:
    """The size of an image and its detections, best first, as JSON data; boxes are x1, y1, x2, y2.

    Keypoints are x, y, score of each, in pixels as boxes are; rotated boxes cx, cy, w, h and degrees.
    """
    height, width = found.size_hw
    rows = found.to_coco("", polygons=masks == "polygons")
    keypoints = [None] * len(found) if found.keypoints is None else found.keypoints.tolist()
    return {
        "width": width,
        "height": height,
        "detections": [
            {"label": name, "category_id": row["category_id"], "score": row["score"], "box": box}
            | ({"rotated": row["rotated"]} if "rotated" in row else {})
            | ({"segmentation": row["segmentation"]} if masks != "none" and "segmentation" in row else {})
            | ({} if points is None else {"keypoints": points})
            for name, box, row, points in zip(found.names, found.boxes.tolist(), rows, keypoints, strict=True)
        ],
    }
