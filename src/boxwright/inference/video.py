"""Frames of a video file, a camera or a network stream, decoded by PyAV in a thread of their own; annotated videos out.

What is damaged is passed over and counted: a truncated file gives the frames that it has. Times are those that the file
stores, from its first frame on, so that a variable frame rate needs no rule of its own.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from boxwright.data.image_io.file_types import is_video_name
from boxwright.runtime.missing import required
from boxwright.wording import counted
from boxwright.writing import printable

AHEAD = 16
"""Frames that are decoded while others are detected."""
CODECS = ("libx264", "libopenh264", "mpeg4")
"""Codecs of a written video, the first that this FFmpeg has."""
CLOCK = 90000
"""Ticks a second of a written video."""


class Frame(NamedTuple):
    """A frame: its number from 0 in the video, its time in seconds after the first, and pixels (H, W, 3) RGB uint8."""

    number: int
    seconds: float
    pixels: np.ndarray


def is_video_source(source: str) -> bool:
    """Whether this is a video file by its name, the number of a camera, or a URL.

    >>> [is_video_source(name) for name in ("a.MP4", "0", "rtsp://door/1", "a.jpg")]
    [True, True, True, False]
    """
    if Path(source).exists():
        return Path(source).is_file() and is_video_name(source)
    return is_video_name(source) or source.isdecimal() or "://" in source


class Video:
    """An opened video. Its rotation is applied: `Frame.pixels` are upright."""

    def __init__(self, source: str | Path, *, network: bool = False) -> None:
        """Open a file, a camera ("0" is /dev/video0) or, with `network`, a URL such as rtsp:// or http://.

        Raises FileNotFoundError where there is no such file or camera, ValueError where it is no video or a URL
        without `network`, and ImportError without PyAV.
        """
        self.source = str(source)
        shown = printable(self.source)
        camera = self.source.isdecimal() and not Path(source).exists()
        self.live = camera or "://" in self.source
        """Whether frames come as time passes, without a known end."""
        if "://" in self.source and not network:
            raise ValueError(
                f"{shown}: this is a URL; an image is read from a file, so download it first; "
                "a video is read over the network with --network"
            )
        place = f"/dev/video{self.source}" if camera else self.source
        if not ("://" in self.source or Path(place).exists()):
            what = f"no camera {shown} ({place} is not there)" if camera else f"{shown}: no such video"
            raise FileNotFoundError(what)
        self._av = required("av", "video")
        try:
            self._container = self._av.open(place, format="v4l2" if camera else None, timeout=20)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            cut = " (an .mp4 that was cut off lacks its index)" if place.lower().endswith((".mp4", ".mov")) else ""
            raise ValueError(f"{shown}: expected a video, got something that FFmpeg cannot open{cut}") from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{shown}: expected a video, got a file without a video stream")
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise ValueError(f"{shown}: its codec is not known to this FFmpeg; convert it to H.264 first")
        self._stream.thread_type = "AUTO"
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        """Frames a second, on average."""
        self.damaged = 0
        """Packets that could not be decoded so far."""

    def count(self, step: int = 1, start: float = 0.0, end: float | None = None) -> int | None:
        """About how many frames `frames` will give, if the file tells."""
        length = None if self._stream.duration is None else float(self._stream.duration * self._stream.time_base)
        if length is None and self._container.duration is not None:
            length = self._container.duration / 1e6
        if self.live or length is None:
            return None if end is None else math.ceil(max(0.0, end - start) * self.rate / step)
        return math.ceil(max(0.0, min(length, math.inf if end is None else end) - start) * self.rate / step)

    def frames(self, step: int = 1, start: float = 0.0, end: float | None = None) -> Generator[Frame, None, None]:
        """Every `step`-th frame from `start` until before `end` (seconds), decoded ahead in a thread; once only.

        Raises ValueError where the whole file has not one frame that can be decoded.
        """
        if step < 1:
            raise ValueError(f"step: expected at least 1, got {step}")
        if not start >= 0 or (end is not None and not end > start):
            raise ValueError(f"start and end: expected 0 <= start < end seconds, got {start:g} and {end}")
        return _ahead(self._decoded(step, start, end), 1 if self.live else AHEAD)

    def _decoded(self, step: int, start: float, end: float | None) -> Generator[Frame, None, None]:
        first: float | None = None
        number = taken = 0
        with self._container:
            for image in self._images():
                stored = float(number / self.rate) if image.time is None else float(image.time)
                first = stored if first is None else first
                seconds = stored - first
                if end is not None and seconds >= end:
                    return
                if seconds >= start:
                    if taken % step == 0:
                        turns = round(image.rotation / 90) % 4
                        pixels = np.ascontiguousarray(np.rot90(image.to_ndarray(format="rgb24"), turns))
                        yield Frame(number, seconds, pixels)
                    taken += 1
                number += 1
        if number == 0:
            damage = f" ({counted(self.damaged, 'packet')} damaged)" if self.damaged else ""
            raise ValueError(f"{printable(self.source)}: not one frame of it can be decoded{damage}")

    def _images(self) -> Iterator[Any]:
        """The frames of PyAV; what cannot be decoded is counted."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (self._av.FFmpegError, OSError):  # the file ends in the middle
                self.damaged += 1
                return
            try:
                images = packet.decode()
            except (self._av.FFmpegError, OSError):
                self.damaged += 1
                continue
            yield from images


def _ahead(frames: Generator[Frame, None, None], room: int) -> Generator[Frame, None, None]:
    """The same frames, made in a thread that is at most `room` frames ahead."""
    made: queue.Queue[Frame | BaseException | None] = queue.Queue(room)
    stopped = threading.Event()

    def put(one: Frame | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return made.put(one, timeout=0.1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for frame in frames:
                put(frame)
                if stopped.is_set():
                    break
            frames.close()
            put(None)
        except BaseException as error:  # raised where the frames are used
            put(error)

    thread = threading.Thread(target=make, name="video", daemon=True)
    thread.start()
    try:
        while (one := made.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            yield one
    finally:
        stopped.set()
        thread.join()


class VideoWriter:
    """A video file written frame by frame, each shown at its own time. Closed in any case, it can be played."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        """Args:

        path: the file, such as `a.mp4`.
        rate: frames a second, about.
        """
        self._av = required("av", "video")
        self._container = self._av.open(str(path), "w")
        self._rate, self._last = rate, -1
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def add(self, image: Image.Image, seconds: float) -> None:
        """Append a frame. The first sets the size, with even sides; frames of another size are fitted to it."""
        if self._stream is None:
            name = next((name for name in CODECS if name in self._av.codecs_available), None)
            if name is None:
                raise ValueError(f"this FFmpeg has none of the codecs {', '.join(CODECS)}; use --no-draw")
            self._stream = self._container.add_stream(name, rate=self._rate)
            self._stream.width, self._stream.height = (side + side % 2 for side in image.size)
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, CLOCK)
        size = (self._stream.width, self._stream.height)
        frame = self._av.VideoFrame.from_ndarray(np.asarray(image.resize(size) if image.size != size else image))
        self._last = frame.pts = max(self._last + 1, round(seconds * CLOCK))
        frame.time_base = Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(frame))
