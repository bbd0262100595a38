"""Images as users pass them (paths, PIL images, arrays, tensors): listed, read as RGB tensors, resized ahead of use."""

from __future__ import annotations

import glob
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from boxwright.ops.tiling import Tiling
from boxwright.ops.tiling import Window as TileWindow

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


class TiledImage(NamedTuple):
    """An image that was cut: its tiles at network size, as images of their own, and where they lie in it."""

    tiles: tuple[PreparedImage, ...]
    windows: tuple[TileWindow, ...]
    original_hw: tuple[int, int]
    path: str | None
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
    tiling: Tiling | None = None,
) -> Ahead[ImageLike | Unreadable, PreparedImage | TiledImage | Unreadable]:
    """Windows of prepared images, cut ones with `tiling`, or their errors, each prepared while the one before is used.

    Decoded images take at most `memory` GiB; a large image is prepared while nothing else is in memory.
    """

    def attempt(image: ImageLike | Unreadable) -> PreparedImage | TiledImage | Unreadable:
        if isinstance(image, Exception):
            return image
        try:
            if tiling is not None:
                return prepare_tiles(image, rule, tiling, value_range, keep=keep)
            return prepare(image, rule, stored, value_range, keep=keep)
        except (ValueError, OSError) as error:
            return error

    def refused(image: ImageLike | Unreadable, problem: str) -> Unreadable:
        return ValueError(f"{image}: {problem}" if isinstance(image, (str, Path)) else f"an image {problem}")

    def need_of(image: ImageLike | Unreadable) -> Need:
        return need_of_image(image, rule, keep=keep, tiling=tiling)

    return Ahead(source, window, memory, need_of, attempt, refused)


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


def batches_of_one_shape(images: Sequence[Tensor], batch: int, bucket: int = 1) -> list[list[int]]:
    """Batches of at most `batch` indices of images (3, h, w), of one dtype and one size, rounded up to `bucket`.

    So the padding of an image, and with it the detections, does not depend on other images. Padding to the largest of
    a batch instead changes the statistics of group norm and, layer by layer, everything near the border.
    """
    groups: dict[tuple[str, int, int], list[int]] = {}
    for index, image in enumerate(images):
        height, width = (-(-side // bucket) for side in image.shape[1:])
        groups.setdefault((str(image.dtype), height, width), []).append(index)
    return [rows[start : start + batch] for _, rows in sorted(groups.items()) for start in range(0, len(rows), batch)]


class Ahead(Generic[_T, _R]):
    """Windows of images with the result of `prepare` for each, computed in threads while windows before are used.

    Two windows at a time are in memory, being prepared or used, and none beside one that is alone. Iterated, a window
    is in use until the next is asked for. With `take` and `release` the next may be begun while one is still in use:
    where `ready`, that does not wait.
    """

    def __init__(
        self, source: Iterator[_T], window: int, memory: float, need_of: Callable[[_T], Need],
        prepare: Callable[[_T], _R], refused: Callable[[_T, str], _R],
    ) -> None:  # fmt: skip
        """Args:

        source: the images.
        window: most images of a window.
        memory: GiB that two windows may take.
        need_of: the memory that an image needs.
        prepare: the result for an image; called in a thread.
        refused: the result for an image that would not fit into memory, and why.
        """
        self._pool = image_threads()
        self._windows = windows_within(source, window, memory, lambda images: list(self._pool.map(need_of, images)))
        self._prepare, self._refused = prepare, refused
        self._following: Window[_T] | None = None  # not begun, because it or the one before is alone
        self._begun: deque[tuple[Window[_T], list[Future[_R]]]] = deque()
        self._used: deque[bool] = deque()  # for each window in use, whether it is alone

    def __enter__(self) -> Ahead[_T, _R]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[list[_T], list[_R]]]:
        with self:
            while (taken := self.take()) is not None:
                yield taken
                del taken  # before the next is prepared, which may be one large image
                self.release()

    @property
    def ready(self) -> bool:
        """Whether there is another window, all of whose results are there; what failed is not."""
        return bool(self._begun) and all(one.done() and one.exception() is None for one in self._begun[0][1])

    def take(self) -> tuple[list[_T], list[_R]] | None:
        """The images and results of the next window, which is in use from now on; None after the last."""
        self._begin()
        if not self._begun:
            return None
        part, futures = self._begun.popleft()
        self._used.append(part.alone)
        if part.problem is not None:
            return part.images, [self._refused(image, part.problem) for image in part.images]
        return part.images, [future.result() for future in futures]

    def release(self) -> None:
        """The window that was taken first is no longer in use: its memory is free for the next."""
        self._used.popleft()
        self._begin()

    def _begin(self) -> None:
        """Begin to prepare windows while there is room for them."""
        while len(self._used) + len(self._begun) < 2 and (part := self._following or next(self._windows, None)):
            self._following = part
            before = [*self._used, *(window.alone for window, _ in self._begun)]
            if before and (before[-1] or part.alone):
                return
            todo = part.images if part.problem is None else []
            self._begun.append((part, [self._pool.submit(self._prepare, image) for image in todo]))
            self._following = None


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


def prepare_tiles(
    image: ImageLike, rule: ResizeRule, tiling: Tiling, value_range: ValueRange = "auto", *, keep: bool = False
) -> TiledImage:
    """An image cut into tiles, each resized by a rule as if it were an image, and its original pixels if `keep`."""
    read = read_any_image(image, value_range)
    path = str(image) if isinstance(image, (str, Path)) else None
    hw = (int(read.pixels.shape[1]), int(read.pixels.shape[2]))
    windows = tuple(tiling.windows(hw))
    tiles = (_fitted(read.pixels[:, y1:y2, x1:x2].contiguous(), path, rule, None) for x1, y1, x2, y2 in windows)
    return TiledImage(tuple(tiles), windows, hw, path, read.pixels if keep else None, read.note)


def _fitted(pixels: Tensor, path: str | None, rule: ResizeRule, stored: StoredProposals | None) -> PreparedImage:
    hw = (int(pixels.shape[1]), int(pixels.shape[2]))
    plan = resize_plan(hw, rule)
    proposals = None
    if stored is not None:
        if path is None:
            raise ValueError(f"{stored.path} identifies images by their files: give paths, not pixels")
        proposals = resize_proposals(stored.of(path, hw), hw, rule)
    return PreparedImage(fit_image(pixels, plan), hw, plan, path, proposals)
