"""What `predict` writes for a video: the annotated video and a line of JSON a frame."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from boxwright.cli.progress import log
from boxwright.wording import counted
from boxwright.writing import free_folder, printable, writing

if TYPE_CHECKING:
    from boxwright.inference.video import Frame, Video
    from boxwright.structures import Detections

T = TypeVar("T")
EVERY = 10.0
"""Seconds between lines that tell how far it is."""


def write_video(
    video: Video, found: Generator[tuple[Frame, Detections], None, None], total: int | None, out: Path | None, *,
    draw: bool, detects: bool = True,
) -> None:  # fmt: skip
    """Write `annotated.mp4` and `frames.jsonl` into a folder; both are complete for what was processed at any end.

    `detects`: whether the model finds objects, or labels pixels only.
    """
    from boxwright.inference.video import VideoWriter
    from boxwright.visualize import draw as drawn

    folder = out or free_folder(Path("predictions"))
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(video.source)
    if (folder / "annotated.mp4").resolve() == source.resolve():
        raise ValueError(f"{printable(str(folder))}: the video itself would be overwritten; choose another --out")
    lines, count, objects = folder / "frames.jsonl", 0, 0
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(closing(found))
        stack.enter_context(writing(lines, whole=False))
        file = stack.enter_context(lines.open("w", encoding="utf-8"))
        writer = stack.enter_context(VideoWriter(folder / "annotated.mp4", video.rate)) if draw else None
        try:
            for frame, one in with_progress(found, total):
                file.write(json_line(frame, one) + "\n")
                if writer is not None:
                    writer.add(drawn(frame.pixels, one), frame.seconds)
                count, objects = count + 1, objects + len(one)
        except BaseException:
            typer.echo(f"stopped; {counted(count, 'frame')} are in {printable(str(folder))}", err=True)
            raise
    if video.damaged:
        log(f"{video.source}: damaged: {counted(video.damaged, 'packet')} could not be decoded and are left out")
    seconds = max(time.monotonic() - started, 1e-9)
    said = f"{counted(objects, 'object')} in" if detects else "a label for each pixel of"
    typer.echo(
        f"{said} {counted(count, 'frame')}; {seconds:.1f} s, {count / seconds:.1f} frames/s",
        err=True,
    )
    typer.echo(str(folder))


def with_progress(frames: Iterable[T], total: int | None) -> Iterator[T]:
    """The same, telling every 10 seconds how far it is and how fast."""
    started = last = time.monotonic()
    for count, one in enumerate(frames, start=1):
        yield one
        if time.monotonic() > last + EVERY:
            last = time.monotonic()
            of = "" if total is None else f" of about {total}"
            log(f"{count}{of} frames, {count / (last - started):.1f} frames/s")


def json_line(frame: Frame, found: Detections, ids: Sequence[int] | None = None) -> str:
    """A frame as a line of JSON: number, time, and each object's name, score, box (x1, y1, x2, y2), mask and keypoints.

    Identities, where there are any, come first in each object. Of a model that labels pixels there are segments too.
    """
    from boxwright.inference.prediction_files import beyond_box
    from boxwright.structures.written import segment_rows

    rows = [
        ({} if ids is None else {"id": ids[index]})
        | {"name": one.name, "score": one.score, "box": list(one.box)}
        | beyond_box(one, found)
        for index, one in enumerate(found)
    ]
    line = {"frame": frame.number, "seconds": round(frame.seconds, 6), "objects": rows}
    if found.semantic is not None and found.classes is not None:
        line["segments"] = segment_rows(found.semantic, found.panoptic, found.classes)
    return json.dumps(line, ensure_ascii=False)
