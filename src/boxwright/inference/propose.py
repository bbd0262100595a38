"""Proposals of a trained network for every image of a data folder, written as a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from boxwright.data.checks.images import look_at_images
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.image_io.decode import Unreadable
from boxwright.data.inputs import PreparedImage
from boxwright.data.proposals import write_proposals
from boxwright.inference.predictor import Detector
from boxwright.structures import Detections


def write_proposals_of(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    split: str | None = None,
    max_proposals: int | None = None,
    batch: int = 8,
    device: str = "auto",
) -> tuple[int, int, int]:
    """Write what a detector finds, whatever its score, as proposals.

    Gives the number of images and of boxes written, and of images that could not be read.

    Images are named by their path below the data folder; one that cannot be read is said and left out. Raises
    ValueError where `out` is no .npz or lies inside the data folder, and where the detector needs proposals itself.
    """
    if not data.exists():
        raise FileNotFoundError(f"{data}: no such data folder")
    root = (data if data.is_dir() else data.parent).resolve()
    if out.suffix != ".npz":
        raise ValueError(f"{out}: a proposal file is called something.npz")
    if out.resolve().is_relative_to(root):
        raise ValueError(f"{out}: lies inside the data folder {data}, which is only read; choose another with --out")
    detector = Detector.load(checkpoint, device)
    if detector.needs_proposals:
        raise ValueError(f"{checkpoint} needs proposals itself: take a proposal network, such as one trained as rpn")
    dataset = open_folder(data)
    parts = [find_split(dataset, split)] if split else list(dataset.splits.values())
    states = look_at_images(record.path for part in parts for record in part.records)
    console = Console(stderr=True)
    for path, state in states.items():
        if state.fault is not None:
            console.print(f"boxwright: {path}: {state.fault}", markup=False, highlight=False, soft_wrap=True)
    paths = [path for path, state in states.items() if state.fault is None]
    if not paths:
        raise ValueError(f"{data}: no image that can be read")
    stream = detector.try_stream(paths, score=0.0, max_detections=max_proposals, batch=batch, listed=True)
    shown = track(stream, "proposing", len(paths), console=console, disable=not console.is_terminal)
    images, boxes = write_proposals(out, _readable(paths, shown, data, console))
    return images, boxes, len(states) - images


def _readable(
    paths: list[Path], stream: Iterable[tuple[PreparedImage, Detections] | Unreadable], data: Path, console: Console
) -> Iterator[tuple[str, Detections]]:
    """Names and detections of the images that can be read; says which are not, and that none is."""
    root, done = (data if data.is_dir() else data.parent).resolve(), 0
    for path, one in zip(paths, stream, strict=True):
        if isinstance(one, Exception):
            console.print(f"boxwright: {one}", markup=False, highlight=False, soft_wrap=True)
        else:
            assert one[0].path == str(path)
            done += 1
            if one[0].note:
                console.print(f"boxwright: {path}: {one[0].note}", markup=False, highlight=False, soft_wrap=True)
            yield _name(path, root), one[1]
    if not done:
        raise ValueError(f"{data}: no image that can be read")
    if done < len(paths):
        left = f"boxwright: {len(paths) - done} of {len(paths)} images are damaged inside and left out"
        console.print(left, markup=False, highlight=False, soft_wrap=True)


def _name(path: Path, root: Path) -> str:
    whole = path.resolve()
    return (whole.relative_to(root) if whole.is_relative_to(root) else Path(whole.name)).as_posix()
