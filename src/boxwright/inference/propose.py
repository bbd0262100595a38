"""Proposals of a trained detector for every image of a data folder, written to a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from boxwright.data.checks.images import look_at_images
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.image_io.decode import Unreadable
from boxwright.data.inputs import PreparedImage, TiledImage
from boxwright.data.proposals import write_proposals
from boxwright.inference.predictor import Detector
from boxwright.models import require_objects
from boxwright.structures import Detections
from boxwright.wording import counted

_LOG = logging.getLogger("boxwright.proposals")


def write_proposals_of(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    split: str | None = None,
    max_proposals: int | None = None,
    batch: int = 8,
    device: str = "auto",
    log: Callable[[str], object] = _LOG.warning,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[int, int, int]:
    """Write the boxes that a detector finds, whatever their score, as proposals.

    Gives the number of images and of boxes written, and of images that could not be read.

    Images are named by their path below the data folder; one that cannot be read is logged and left out. `progress` is
    called with the images done and those to do. Raises ValueError where `out` is no .npz or lies inside the data
    folder, and where the detector needs proposals itself.
    """
    if not data.exists():
        raise FileNotFoundError(f"{data}: no such data folder")
    root = (data if data.is_dir() else data.parent).resolve()
    if out.suffix != ".npz":
        raise ValueError(f"{out}: the name of a proposal file ends in .npz")
    if out.resolve().is_relative_to(root):
        raise ValueError(f"{out}: is inside the data folder {data}, which is never written to; choose another --out")
    detector = Detector.load(checkpoint, device)
    require_objects(detector.recipe.model.name, "take a proposal network, such as one trained as rpn")
    if detector.needs_proposals:
        raise ValueError(f"{checkpoint} needs proposals itself: take a proposal network, such as one trained as rpn")
    dataset = open_folder(data)
    parts = [find_split(dataset, split)] if split else list(dataset.splits.values())
    states = look_at_images(record.path for part in parts for record in part.records)
    for path, state in states.items():
        if state.fault is not None:
            log(f"{path}: {state.fault}")
    paths = [path for path, state in states.items() if state.fault is None]
    if not paths:
        raise ValueError(f"{data}: no image that can be read")
    stream = detector.try_stream(paths, score=0.0, max_detections=max_proposals, batch=batch, listed=True)
    images, boxes = write_proposals(out, _readable(paths, stream, data, log, progress))
    return images, boxes, len(states) - images


def _readable(
    paths: list[Path],
    stream: Iterable[tuple[PreparedImage | TiledImage, Detections] | Unreadable],
    data: Path,
    log: Callable[[str], object],
    progress: Callable[[int, int], object] | None,
) -> Iterator[tuple[str, Detections]]:
    """Names and detections of the images that can be read; logs which cannot."""
    root, good = (data if data.is_dir() else data.parent).resolve(), 0
    for number, (path, one) in enumerate(zip(paths, stream, strict=True), start=1):
        if progress is not None:
            progress(number, len(paths))
        if isinstance(one, Exception):
            log(str(one))
            continue
        image, found = one
        assert image.path == str(path)
        good += 1
        if image.note:
            log(f"{path}: {image.note}")
        yield _name(path, root), found
    if not good:
        raise ValueError(f"{data}: no image that can be read")
    if good < len(paths):
        log(f"{len(paths) - good} of {counted(len(paths), 'image')} could not be decoded: left out")


def _name(path: Path, root: Path) -> str:
    whole = path.resolve()
    return (whole.relative_to(root) if whole.is_relative_to(root) else Path(whole.name)).as_posix()
