"""`Detector.track`: the objects of a video with an identity that each keeps from frame to frame.

The algorithms are those of the package trackers, which match boxes by IoU with where a Kalman filter expects them; they
see no class and no pixels (BoT-SORT sees how the camera moves). An object has an identity from its second or third
detection on.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Unpack

import numpy as np
import torch

from boxwright.data.image_io.any_image import ImageLike
from boxwright.data.image_io.decode import Unreadable
from boxwright.data.inputs import PreparedImage, TiledImage
from boxwright.inference.options import PredictOptions
from boxwright.inference.video import Frame, Video
from boxwright.inference.video_stream import detect_video
from boxwright.models import require_objects
from boxwright.runtime.missing import required
from boxwright.structures import Detections


class Algorithm(NamedTuple):
    """A class of the package trackers, whether it also uses weak detections, and whether it sees pixels."""

    called: str
    weak: bool = False
    activation: bool = True
    pixels: bool = False


TRACKERS = {
    "bytetrack": Algorithm("ByteTrackTracker", weak=True),
    "sort": Algorithm("SORTTracker"),
    "ocsort": Algorithm("OCSORTTracker", weak=True, activation=False),
    "cbiou": Algorithm("CBIoUTracker", weak=True),
    "botsort": Algorithm("BoTSORTTracker", weak=True, pixels=True),
}
"""ByteTrack (Zhang et al. 2022), SORT (Bewley et al. 2016), OC-SORT (Cao et al. 2023), C-BIoU (Yang et al. 2023) and
BoT-SORT (Aharon et al. 2022), which follows the movement of the camera."""
WEAK = 0.5
"""Detections from this share of the score threshold on continue a track where they fit, but start none."""


class Tracked(NamedTuple):
    """A frame, the objects in it that have an identity, and their identities from 1 on, one an object."""

    frame: Frame
    found: Detections
    ids: list[int]


class Tracker:
    """An algorithm with its state, fed frame by frame.

    >>> tracker = Tracker("sort", score=0.5, rate=25.0)  # doctest: +SKIP
    >>> found, ids = tracker.update(found, seconds=0.04)  # doctest: +SKIP
    """

    def __init__(self, name: str = "bytetrack", *, score: float, rate: float, lost: float = 1.0) -> None:
        """Args:

        name: a key of `TRACKERS`.
        score: detections from this score on start a track.
        rate: frames a second that are given, about.
        lost: seconds after which an object that is not detected loses its identity; two frames at least.

        Raises ValueError for an unknown name or a number out of range, ImportError without the package trackers.
        """
        self.algorithm = algorithm_called(name)
        if not (math.isfinite(lost) and lost >= 0):
            raise ValueError(f"lost: expected seconds from 0 on, got {lost:g}")
        package = required("trackers", "track")
        settings: dict[str, Any] = {"lost_track_buffer": math.ceil(30 * max(lost, 2 / rate)), "frame_rate": rate}
        if self.algorithm.weak:
            settings["high_conf_det_threshold"] = score
        if self.algorithm.activation:
            settings["track_activation_threshold"] = score
        self._tracker = getattr(package, self.algorithm.called)(**settings)
        self._last = -math.inf

    def update(
        self, found: Detections, seconds: float, pixels: np.ndarray | None = None
    ) -> tuple[Detections, list[int]]:
        """The detections of the next frame that belong to an identity, best first as given, and their identities.

        Args:
            found: the detections, weak ones among them.
            seconds: the time of the frame.
            pixels: the frame (H, W, 3) RGB uint8, which botsort uses.
        """
        self._last = seconds = max(seconds, self._last + 1e-6)  # damaged files repeat times
        boxes = replace(found, masks=None).to_supervision()
        boxes.data["row"] = np.arange(len(found))
        seen = np.ascontiguousarray(pixels[..., ::-1]) if self.algorithm.pixels and pixels is not None else None
        given = self._tracker.update(boxes, frame=seen, timestamp=seconds)
        if not len(given):
            return found[:0], []
        pairs = zip(given.data["row"].tolist(), given.tracker_id.tolist(), strict=True)
        kept = sorted((row, number + 1) for row, number in pairs if number >= 0)
        return found.select(torch.tensor([row for row, _ in kept], dtype=torch.int64)), [number for _, number in kept]


def algorithm_called(name: str) -> Algorithm:
    """The algorithm of a name. Raises ValueError where there is none."""
    if name not in TRACKERS:
        raise ValueError(f"tracker: expected {', '.join(TRACKERS)}, got {name}")
    return TRACKERS[name]


class Scoring(Protocol):
    """What is needed of a detector."""

    score_threshold: float

    def try_stream(
        self, images: Iterable[ImageLike], *, listed: bool, **options: Unpack[PredictOptions]
    ) -> Generator[tuple[PreparedImage | TiledImage, Detections] | Unreadable, None, None]:
        """See `Detector.try_stream`."""


def track_video(
    detector: Scoring, source: str | Path | Video, *, tracker: str = "bytetrack", lost: float = 1.0, step: int = 1,
    start: float = 0.0, end: float | None = None, **options: Unpack[PredictOptions],
) -> Generator[Tracked, None, None]:  # fmt: skip
    """The frames of a video with the objects that have an identity, and their identities.

    >>> for frame, found, ids in detector.track("a.mp4"): print(frame.seconds, ids, found.names)  # doctest: +SKIP

    Args:
        detector: the method `track` of which this is.
        source, step, start, end: as those of `Detector.video`.
        tracker: a key of `TRACKERS`.
        lost: seconds after which an object that is not detected loses its identity.
        options: see `PredictOptions`. Objects from `score` on start a track; weaker ones may continue it.

    Raises FileNotFoundError or ValueError where there is no video, ImportError without the package, at the call.
    """
    algorithm = algorithm_called(tracker)  # before a camera starts
    if (recipe := getattr(detector, "recipe", None)) is not None:
        require_objects(recipe.model.name, "there is nothing to track; boxwright predict draws the labels of a video")
    opened = source if isinstance(source, Video) else Video(source)
    chosen = options.get("score")
    score = detector.score_threshold if chosen is None else chosen
    state = Tracker(tracker, score=score, rate=float(opened.rate) / max(step, 1), lost=lost)
    options["score"] = score * WEAK if algorithm.weak else score
    frames = detect_video(detector, opened, step=step, start=start, end=end, **options)

    def tracked() -> Generator[Tracked, None, None]:
        with closing(frames):
            for frame, found in frames:
                yield Tracked(frame, *state.update(found, frame.seconds, frame.pixels))

    return tracked()
