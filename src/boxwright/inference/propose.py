"""Proposals of a trained network for every picture of a data folder, written as a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from boxwright.data.folder import open_folder
from boxwright.data.folder import split as split_called
from boxwright.data.picture_check import look_at_pictures
from boxwright.data.proposals import write_proposals
from boxwright.inference.predictor import Detector


def write_proposals_of(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    split: str | None = None,
    max_proposals: int | None = None,
    batch: int = 8,
    device: str = "auto",
) -> tuple[int, int]:
    """Write what a detector finds, whatever its score, as proposals; gives the number of pictures and of boxes.

    Pictures are named by their path below the data folder. Raises ValueError where `out` is no .npz or lies inside the
    data folder, and where the detector needs proposals itself.
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
    parts = [split_called(dataset, split)] if split else list(dataset.splits.values())
    states = look_at_pictures(record.path for part in parts for record in part.records)
    console = Console(stderr=True)
    for path, state in states.items():
        if state.fault is not None:
            console.print(f"boxwright: {path}: {state.fault}", markup=False, highlight=False, soft_wrap=True)
    paths = [path for path, state in states.items() if state.fault is None]
    if not paths:
        raise ValueError(f"{data}: no picture that can be read")
    stream = detector.stream(paths, score=0.0, max_detections=max_proposals, batch=batch)
    shown = track(stream, "proposing", len(paths), console=console, disable=not console.is_terminal)
    return len(paths), write_proposals(out, list(_names(paths, root)), shown)


def _names(paths: list[Path], root: Path) -> Iterator[str]:
    for path in paths:
        whole = path.resolve()
        yield (whole.relative_to(root) if whole.is_relative_to(root) else Path(whole.name)).as_posix()
