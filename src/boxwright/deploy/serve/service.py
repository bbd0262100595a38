"""The service behind the server: decodes the images of requests, detects in them in batches, and makes the answers.

It is independent of the web framework, except for the requests that it is given.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from boxwright.data.inputs import image_threads
from boxwright.deploy.serve.answer import described, listed
from boxwright.deploy.serve.batching import Batcher
from boxwright.deploy.serve.uploads import Limits, Places, Refused, Upload, image_of, uploads_in
from boxwright.inference.predictor import Detector
from boxwright.structures import DetectSettings
from boxwright.structures.written import Masks

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


class Wanted(NamedTuple):
    """What a request asks of each answer: how masks are written, maps as images, and how many detections at most."""

    masks: Masks
    maps: bool
    most: int | None


class Service:
    """Answers the requests of one event loop; decoding and detection run in threads."""

    def __init__(self, detector: Detector, path: Path, options: ServeOptions) -> None:
        """Args:

        detector: what is served.
        path: of its checkpoint or exported file; clients see the last part only.
        options: score threshold, batching and limits.

        Raises ValueError for a detector that needs proposals.
        """
        if detector.needs_proposals:
            raise ValueError(
                f"{path}: {detector.recipe.model.name} needs proposals for every image and cannot be served"
            )
        self.detector = detector
        self.path = path
        self.limits = options.limits
        self.description = described(detector, path, options.score, options.limits)
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
        self, request: Any, *, score: float | None, max_detections: int | None, masks: Masks | None, maps: bool
    ) -> dict[str, Any]:
        """The answer to a request: detections in the image in its body, or in each file of its form.

        `masks` is how masks and segments are written, and with `maps` the maps of pixels are given as images. Files of
        a form that are refused have the reason in their place. Raises Refused where all are.
        """
        recipe = self.detector.recipe
        if masks in ("rle", "polygons") and not (recipe.needs_masks or recipe.needs_semantic):
            raise Refused(422, f"masks: {self.path.name} predicts no masks; leave masks={masks} out")
        if maps and not recipe.needs_semantic:
            raise Refused(422, f"maps: {self.path.name} labels no pixels; leave maps=png out")
        least = self.description["score"] if score is None else score
        tiled = self.detector.tiling is not None  # where settings are those of a tile
        settings = self.detector.settings_with(score=least, max_detections=None if tiled else max_detections)
        wanted = Wanted(masks or "rle", maps, max_detections if tiled else None)
        with self._places.taken(1):
            uploads, of_form = await uploads_in(request, self.limits)
            if not of_form:
                return await self._answer(uploads[0], settings, wanted)
            with self._places.taken(len(uploads) - 1):
                found = await asyncio.gather(*(self._answer_or_reason(one, settings, wanted) for one in uploads))
        reasons = [one for one in found if isinstance(one, Refused)]
        if len(reasons) == len(found):
            raise reasons[0]
        rows = [{"error": str(one)} if isinstance(one, Refused) else one for one in found]
        return {"images": [{"file": upload.name} | row for upload, row in zip(uploads, rows, strict=True)]}

    async def _answer_or_reason(
        self, upload: Upload, settings: DetectSettings, wanted: Wanted
    ) -> dict[str, Any] | Refused:
        try:
            return await self._answer(upload, settings, wanted)
        except Refused as reason:
            return reason

    async def _answer(self, upload: Upload, settings: DetectSettings, wanted: Wanted) -> dict[str, Any]:
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
        answer = await loop.run_in_executor(self._pool, listed, found[: wanted.most], wanted.masks, wanted.maps)
        if image.note is not None:
            answer |= {"note": image.note}
        return answer | {"milliseconds": round((time.perf_counter() - started) * 1000, 1)}
