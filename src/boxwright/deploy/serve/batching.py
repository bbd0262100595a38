"""Dynamic batching: a queue of images, and one thread that owns the detector and takes them in batches.

Only images of the same network size and the same settings share a forward pass, so that the detections in an image do
not depend on the images of other clients.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple

from boxwright.data.inputs import PreparedImage, TiledImage
from boxwright.inference.predictor import Detector
from boxwright.structures import Detections, DetectSettings


class Waiting(NamedTuple):
    """An image that waits for its detections, and when it arrived."""

    image: PreparedImage | TiledImage
    settings: DetectSettings
    found: Future[Detections]
    since: float


class Batcher:
    """Runs a detector on the images of any number of callers, in batches, in the order of arrival."""

    def __init__(self, detector: Detector, *, batch: int, wait_seconds: float) -> None:
        """Args:

        batch: maximum number of images per forward pass.
        wait_seconds: how long an image waits for others; not at all if it already waited for the detector.
        """
        self.detector = detector
        self.batch = batch
        self.wait_seconds = wait_seconds
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="boxwright detector", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after all submitted images are done."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, image: PreparedImage | TiledImage, settings: DetectSettings) -> Future[Detections]:
        """A future of the detections in an image; it raises what the detector raises for this image."""
        found: Future[Detections] = Future()
        self._queue.put(Waiting(image, settings, found, time.monotonic()))
        return found

    def _run(self) -> None:
        while together := self._collect():
            for group in alike(one for one in together if one.found.set_running_or_notify_cancel()):
                self._detect(group)

    def _collect(self) -> list[Waiting]:
        """The next images, at most a batch; none at the end."""
        together: list[Waiting] = []
        one = self._queue.get()
        while one is not None:
            together.append(one)
            if len(together) == self.batch:
                return together
            left = together[0].since + self.wait_seconds - time.monotonic()
            try:
                one = self._queue.get(timeout=max(left, 0))
            except Empty:
                return together
        if together:
            self._queue.put(None)
        return together

    def _detect(self, group: list[Waiting]) -> None:
        """Detect in a group of images; if that fails, one by one, so that only the future of the culprit fails."""
        try:
            found = self.detector.detect_prepared([one.image for one in group], group[0].settings, self.batch)
        except Exception as error:
            if len(group) == 1:
                group[0].found.set_exception(error)
                return
            for one in group:
                self._detect([one])
            return
        for one, detections in zip(group, found, strict=True):
            one.found.set_result(detections)


def alike(images: Iterable[Waiting]) -> list[list[Waiting]]:
    """Groups of images of the same network size, pixel dtype and settings; tiles count as the images that they are."""
    groups: dict[tuple[object, ...], list[Waiting]] = {}
    for one in images:
        pixels = one.image.tiles[0].pixels if isinstance(one.image, TiledImage) else one.image.pixels
        groups.setdefault((tuple(pixels.shape), pixels.dtype, one.settings), []).append(one)
    return list(groups.values())
