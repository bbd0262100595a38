"""What `track` writes: MOT text, a line of JSON a frame, the annotated video, and what crossed lines and zones."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from boxwright.cli.predict_video import json_line, with_progress
from boxwright.cli.progress import log
from boxwright.wording import counted
from boxwright.writing import free_folder, printable, writing

if TYPE_CHECKING:
    from PIL import Image

    from boxwright.inference.crossings import Border
    from boxwright.inference.tracking import Tracked
    from boxwright.inference.video import Video


def write_tracks(
    video: Video, tracked: Generator[Tracked, None, None], total: int | None, out: Path | None,
    borders: Sequence[Border], *, draw: bool,
) -> None:  # fmt: skip
    """Write a folder: tracks.txt, tracks.jsonl, counts.json and annotated.mp4, complete for what was processed."""
    from boxwright.inference.video import VideoWriter

    if out is not None and (out / "annotated.mp4").resolve() == Path(video.source).resolve():
        raise ValueError(f"{printable(str(out))}: the video itself would be overwritten; choose another --out")
    names: dict[int, str] = {}
    count, started = 0, time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(closing(tracked))
        first = next(tracked, None)  # before anything is written: it tells the size of the frames
        if first is not None:
            for border in borders:
                border.check(first.found.size_hw)
        folder = out or free_folder(Path("tracks"))
        folder.mkdir(parents=True, exist_ok=True)
        text, lines = (
            stack.enter_context((folder / name).open("w", encoding="utf-8")) for name in ("tracks.txt", "tracks.jsonl")
        )
        writer = stack.enter_context(VideoWriter(folder / "annotated.mp4", video.rate)) if draw else None
        try:
            for one in with_progress(chain([] if first is None else [first], tracked), total):
                for border in borders:
                    border.update(one.found, one.ids)
                for identity, name in zip(one.ids, one.found.names, strict=True):
                    names.setdefault(identity, name)
                text.write(mot_lines(one))
                lines.write(json_line(one.frame, one.found, one.ids) + "\n")
                if writer is not None:
                    writer.add(drawn(one, borders), one.frame.seconds)
                count += 1
        except BaseException:
            typer.echo(f"stopped; {counted(count, 'frame')} are in {printable(str(folder))}", err=True)
            raise
        finally:
            with writing(folder / "counts.json") as file:
                file.write_text(json.dumps(counts(names, borders), indent=2, ensure_ascii=False) + "\n", "utf-8")
    if video.damaged:
        log(f"{video.source}: damaged: {counted(video.damaged, 'packet')} could not be decoded and are left out")
    for border in borders:
        log(f"{border.kind} {border.text}: in {_listed(border.entered)}; out {_listed(border.left)}")
    seconds = max(time.monotonic() - started, 1e-9)
    identities = "1 identity" if len(names) == 1 else f"{len(names)} identities"
    typer.echo(f"{identities} in {counted(count, 'frame')}; {seconds:.1f} s, {count / seconds:.1f} frames/s", err=True)
    typer.echo(str(folder))


def mot_lines(one: Tracked) -> str:
    """A frame as lines of MOT Challenge text: frame from 1, id, left, top, width, height, score, -1, -1, -1."""
    rows = zip(one.ids, one.found.boxes.tolist(), one.found.scores.tolist(), strict=True)
    return "".join(
        f"{one.frame.number + 1},{identity},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},{score:.4f},-1,-1,-1\n"
        for identity, (x1, y1, x2, y2), score in rows
    )


def counts(names: dict[int, str], borders: Sequence[Border]) -> dict[str, object]:
    """Identities by class, that of their first frame, and what went in and out of each line and zone, by class."""
    crossed: dict[str, list[dict[str, object]]] = {"lines": [], "zones": []}
    for border in borders:
        coordinates = [value for point in border.points for value in point]
        ways = {"in": dict(border.entered), "out": dict(border.left)}
        crossed[f"{border.kind}s"].append({border.kind: coordinates, **ways})
    return {"identities": dict(Counter(names.values())), **crossed}


def drawn(one: Tracked, borders: Sequence[Border]) -> Image.Image:
    """A frame with its objects in the colours of their identities, and lines and zones with what has crossed them."""
    from boxwright.visualize import draw
    from boxwright.visualize.borders import draw_borders

    image = draw(one.frame.pixels, one.found, ids=one.ids)
    texts = [f"in {border.entered.total()}  out {border.left.total()}" for border in borders]
    paths = [[border.edges[0][0], *(end for _, end in border.edges)] for border in borders]
    return draw_borders(image, zip(paths, texts, strict=True))


def _listed(by_class: Counter[str]) -> str:
    """A total, and what it consists of."""
    parts = ", ".join(f"{name} {number}" for name, number in sorted(by_class.items()))
    return f"{by_class.total()} ({parts})" if parts else "0"
