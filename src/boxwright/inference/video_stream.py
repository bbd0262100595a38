"""`Detector.video`: the frames of a video on their way through a detector, each with its detections."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol, Unpack

from boxwright.data.image_io.any_image import ImageLike
from boxwright.data.image_io.decode import Unreadable
from boxwright.data.inputs import PreparedImage, TiledImage
from boxwright.inference.options import PredictOptions
from boxwright.inference.video import AHEAD, Frame, Video
from boxwright.structures import Detections


class Streaming(Protocol):
    """What is needed of a detector."""

    def try_stream(
        self, images: Iterable[ImageLike], *, listed: bool, **options: Unpack[PredictOptions]
    ) -> Generator[tuple[PreparedImage | TiledImage, Detections] | Unreadable, None, None]:
        """See `Detector.try_stream`."""


def detect_video(
    detector: Streaming, source: str | Path | Video, *, step: int = 1, start: float = 0.0, end: float | None = None,
    **options: Unpack[PredictOptions],
) -> Generator[tuple[Frame, Detections], None, None]:  # fmt: skip
    """The frames of a video with the detections in each; decoding goes on meanwhile, in a thread.

    >>> for frame, found in detector.video("a.mp4", step=5): print(frame.seconds, found.names)  # doctest: +SKIP

    Args:
        detector: the method `video` of which this is.
        source: a file, the number of a camera, or a `Video` (which may be a network stream).
        step, start, end: every `step`-th frame from `start` until before `end`, in seconds.
        options: see `PredictOptions`. Masks stay cropped to their objects, as those of `stream`.

    Raises FileNotFoundError or ValueError where there is no video, at the call.
    """
    opened = source if isinstance(source, Video) else Video(source)
    options.setdefault("window", 1 if opened.live else AHEAD)
    frames, held = opened.frames(step, start, end), deque[Frame]()

    def pixels() -> Iterator[ImageLike]:
        for frame in frames:
            held.append(frame)
            yield frame.pixels

    stream = detector.try_stream(pixels(), listed=True, **options)

    def detected() -> Generator[tuple[Frame, Detections], None, None]:
        with closing(frames), closing(stream):
            for one in stream:
                if isinstance(one, Exception):
                    raise one
                yield held.popleft(), one[1]

    return detected()
