"""Images as users pass them (paths, PIL images, arrays, tensors): listed, read as RGB tensors, resized ahead of use."""

from __future__ import annotations

import glob
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.data.formats.listing import files_of
from boxwright.data.image_io.any_image import ImageLike, read_any_image
from boxwright.data.image_io.decode import Unreadable
from boxwright.data.image_io.file_types import SUFFIXES, VIDEO_SUFFIXES, is_image_name, is_video_name, video_sentence
from boxwright.data.image_io.memory_need import MEMORY, TOGETHER, Need, need_of_image, too_large
from boxwright.data.image_io.value_range import ValueRange
from boxwright.data.proposals import StoredProposals
from boxwright.data.transforms import resize_proposals
from boxwright.ops.image import ResizePlan, ResizeRule, fit_image, resize_plan

WINDOW = 64
"""Images that are sorted by shape and batched together."""
DECODERS = TOGETHER
"""Threads that decode and resize images while the network runs."""
_STARTING = threading.Lock()
_T = TypeVar("_T")
_R = TypeVar("_R")


def images_of(images: Any) -> Iterator[ImageLike | Unreadable]:
    """The single images of anything that `predict` takes; folders and globs are listed in order of name.

    In a list, an entry that cannot be listed is replaced by its error.
    """
    if isinstance(images, (str, Path)):
        yield from image_paths(images)
    elif isinstance(images, Image.Image):
        yield images
    elif isinstance(images, (np.ndarray, Tensor)):
        if images.ndim == 4:
            yield from images
        else:
            yield images
    elif isinstance(images, Iterable):
        for part in images:
            yield from _images_of_part(part)
    else:
        raise ValueError(f"image: expected a path, PIL image, array or tensor, got {type(images).__name__}")


def _images_of_part(part: Any) -> Iterator[ImageLike | Unreadable]:
    if not isinstance(part, (str, Path)):
        if isinstance(part, (Image.Image, np.ndarray, Tensor, Iterable)):
            yield from images_of(part)
        else:
            yield ValueError(f"image: expected a path, PIL image, array or tensor, got {type(part).__name__}")
        return
    try:
        yield from image_paths(part)
    except (ValueError, OSError) as error:
        yield error


def image_paths(source: str | Path) -> list[Path]:
    """The image files of a path, a glob or a folder (without its subfolders).

    A broken link is listed too, and reported when it is read. Raises FileNotFoundError if there is no image, ValueError
    for a video.
    """
    path = Path(source)
    if path.is_dir():
        names = files_of(path)
        found = [path / name for name in names if is_image_name(name)]
        if not found:
            if video := next(filter(is_video_name, names), None):
                raise FileNotFoundError(f"{path}: no images in this folder; {video_sentence(str(path / video))}")
            raise FileNotFoundError(f"{path}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
        return found
    if path.exists() or path.is_symlink():
        if path.name.lower().endswith(VIDEO_SUFFIXES):
            raise ValueError(video_sentence(str(source)))
        return [path]
    found = sorted(file for name in glob.glob(str(source), recursive=True) if not (file := Path(name)).is_dir())
    if not found:
        if "://" in str(source):
            raise FileNotFoundError(f"{source}: this is a URL; images are read from files, so download it first")
        raise FileNotFoundError(f"{source}: no such image, folder or pattern")
    return found


def refuse_among_images(out: Path, sources: list[Path], images: list[Path]) -> None:
    """Refuse an output path next to the images, or below one of the given folders of images."""
    place = out.resolve()
    among = [path.parent for path in images if path.parent.resolve() == place]
    among += [source for source in sources if source.is_dir() and place.is_relative_to(source.resolve())]
    if among:
        raise ValueError(f"{out}: lies in the image folder {among[0]}, which is only read; choose another with --out")


class PreparedImage(NamedTuple):
    """An image at network size (3, h, w), its original (height, width), how it was resized, its path and proposals."""

    pixels: Tensor
    original_hw: tuple[int, int]
    plan: ResizePlan
    path: str | None
    proposals: Tensor | None = None
    original: Tensor | None = None
    """The original pixels, if they are to be kept."""
    note: str | None = None
    """A defect of the file, if the image could be read despite it."""


def prepared_ahead(
    source: Iterator[ImageLike | Unreadable],
    window: int,
    rule: ResizeRule,
    stored: StoredProposals | None,
    keep: bool,
    value_range: ValueRange = "auto",
    memory: float = MEMORY,
) -> Iterator[list[PreparedImage | Unreadable]]:
    """Windows of prepared images, or their errors, each window prepared while the one before is used.

    Decoded images take at most `memory` GiB; a large image is prepared while nothing else is in memory.
    """

    def attempt(image: ImageLike | Unreadable) -> PreparedImage | Unreadable:
        if isinstance(image, Exception):
            return image
        try:
            return prepare(image, rule, stored, value_range, keep=keep)
        except (ValueError, OSError) as error:
            return error

    def need_of(image: ImageLike | Unreadable) -> Need:
        return need_of_image(image, rule, keep=keep)

    for part, results in ahead_of_use(source, window, memory, need_of, attempt):
        if part.problem is not None:
            (image,) = part.images
            named = f"{image}: " if isinstance(image, (str, Path)) else "an image "
            results = [ValueError(f"{named}{part.problem}")]
        yield results
        del part, results  # before the next is prepared, which may be one large image


class Window(NamedTuple, Generic[_T]):
    """Images that are in memory together. `alone`: a single image so large that no other may be in memory with it;
    `problem`: why it does not fit either.
    """

    images: list[_T]
    alone: bool = False
    problem: str | None = None


def windows_within(
    source: Iterator[_T], window: int, memory: float, needs_of: Callable[[list[_T]], Iterable[Need]]
) -> Iterator[Window[_T]]:
    """Windows of at most `size` images, so that two at a time stay within `memory` (GiB)."""
    limit = int(memory * 2**30)
    while given := _taken(source, window, limit // 2):
        images: list[_T] = []
        held = passing = 0
        for image, need in zip(given, needs_of(given), strict=True):
            alone = need.held + need.passing * TOGETHER > limit // 2
            full = held + need.held + TOGETHER * max(passing, need.passing) > limit // 2
            if images and (alone or full):
                yield Window(images)
                images, held, passing = [], 0, 0
            if alone:
                above = sum(need) > limit
                yield Window([image], alone=True, problem=too_large(sum(need), memory) if above else None)
                continue
            images.append(image)
            held, passing = held + need.held, max(passing, need.passing)
        if images:
            yield Window(images)


def _taken(source: Iterator[_T], window: int, most_bytes: int) -> list[_T]:
    """The next images; fewer if they are arrays, which are in memory as soon as they are taken."""
    taken: list[_T] = []
    num_bytes = 0
    while len(taken) < window and num_bytes <= most_bytes:
        for image in source:
            taken.append(image)
            num_bytes += int(getattr(image, "nbytes", 0))
            break
        else:
            break
    return taken


def ahead_of_use(
    source: Iterator[_T], window: int, memory: float, need_of: Callable[[_T], Need], prepare: Callable[[_T], _R]
) -> Iterator[tuple[Window[_T], list[_R]]]:
    """Windows with the result of `work` for each image, computed while the window before is used, unless it is alone.

    A window with a problem comes without results.
    """
    with image_threads() as pool:
        windows = windows_within(source, window, memory, lambda images: list(pool.map(need_of, images)))
        ahead: deque[tuple[Window[_T], list[Future[_R]]]] = deque()
        following: Window[_T] | None = None
        try:
            while True:
                while len(ahead) < 2 and (following := following or next(windows, None)):
                    if ahead and (ahead[-1][0].alone or following.alone):
                        break
                    todo = following.images if following.problem is None else []
                    ahead.append((following, [pool.submit(prepare, image) for image in todo]))
                    following = None
                if not ahead:
                    return
                part, futures = ahead.popleft()
                results = [future.result() for future in futures]
                del futures
                yield part, results
                del part, results
        finally:
            pool.shutdown(cancel_futures=True)


def image_threads(name: str = "") -> ThreadPoolExecutor:
    """Threads that decode and resize, each on one core.

    By default torch would start a team of threads in each. While such teams exist, OpenMP lets the network's own
    threads sleep instead of spinning when they wait for each other (benchmarks/RESULTS.md, the course's network).
    """
    pool = ThreadPoolExecutor(DECODERS, name)
    # with a timeout: a thread that cannot start must not make the other wait for ever
    together = threading.Barrier(DECODERS, timeout=30)

    def alone() -> None:
        torch.get_num_threads()  # else torch would set the number when this thread first computes
        torch.set_num_threads(1)
        together.wait()

    with _STARTING:
        usual = torch.get_num_threads()
        try:
            for job in [pool.submit(alone) for _ in range(DECODERS)]:
                job.result()
        finally:
            torch.set_num_threads(usual)  # in this thread, and in those that start later
    return pool


def prepare(
    image: ImageLike, rule: ResizeRule, stored: StoredProposals | None = None, value_range: ValueRange = "auto", *,
    keep: bool = False,
) -> PreparedImage:  # fmt: skip
    """An image resized by a rule, with the proposals stored for it, and its original pixels if `keep`."""
    read = read_any_image(image, value_range)
    path = str(image) if isinstance(image, (str, Path)) else None
    return _fitted(read.pixels, path, rule, stored)._replace(original=read.pixels if keep else None, note=read.note)


def _fitted(pixels: Tensor, path: str | None, rule: ResizeRule, stored: StoredProposals | None) -> PreparedImage:
    hw = (int(pixels.shape[1]), int(pixels.shape[2]))
    plan = resize_plan(hw, rule)
    proposals = None
    if stored is not None:
        if path is None:
            raise ValueError(f"{stored.path} identifies images by their files: give paths, not pixels")
        proposals = resize_proposals(stored.of(path, hw), hw, rule)
    return PreparedImage(fit_image(pixels, plan), hw, plan, path, proposals)
