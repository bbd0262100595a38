"""Requests that arrive together are detected together: one thread that owns a detector, and a queue before it.

Only images of the same network size and the same settings share a forward pass, so that what is found in an image
does not depend on the images that others send.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple

from boxwright.data.inputs import PreparedImage
from boxwright.inference.predictor import Detector
from boxwright.structures import Detections, DetectSettings


class Waiting(NamedTuple):
    """An image that waits for its detections, and when it came."""

    image: PreparedImage
    settings: DetectSettings
    found: Future[Detections]
    since: float


class Batcher:
    """Detects images of any number of callers in batches, in the order in which they came."""

    def __init__(self, detector: Detector, *, batch: int, wait_seconds: float) -> None:
        """Args:

        batch: images a forward pass at most.
        wait_seconds: how long an image waits for others; not at all where it has already waited for the detector.
        """
        self.detector = detector
        self.batch = batch
        self.wait_seconds = wait_seconds
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="boxwright detector", daemon=True)

    def start(self) -> None:
        """Begin to detect."""
        self._thread.start()

    def close(self) -> None:
        """End after what was submitted before."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, image: PreparedImage, settings: DetectSettings) -> Future[Detections]:
        """What will be found in an image; the future raises what the detector raised for this image."""
        found: Future[Detections] = Future()
        self._queue.put(Waiting(image, settings, found, time.monotonic()))
        return found

    def _run(self) -> None:
        while together := self._collect():
            for group in alike(one for one in together if one.found.set_running_or_notify_cancel()):
                self._detect(group)

    def _collect(self) -> list[Waiting]:
        """The next images, at most a batch; none when it is time to end."""
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
        """Settle the futures of a group; where it fails together, one by one, so that only the culprit's fails."""
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
    """Groups of the same network size, pixel type and settings."""
    groups: dict[tuple[object, ...], list[Waiting]] = {}
    for one in images:
        pixels = one.image.pixels
        groups.setdefault((tuple(pixels.shape), pixels.dtype, one.settings), []).append(one)
    return list(groups.values())
