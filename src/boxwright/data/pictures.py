"""Pictures of whatever kind a user gives, as upright RGB tensors, or one clear sentence; and resized for a network.

Every mode that Pillow opens ends as 8-bit RGB: 16-bit grey is scaled by its range, transparency is composited over
white, of an animation the first frame counts, and the EXIF orientation is applied.
"""

from __future__ import annotations

import glob
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from boxwright.data.proposals import StoredProposals
from boxwright.data.transforms import resize_proposals
from boxwright.ops.image import ResizePlan, ResizeRule, fit_image, resize_plan

Picture: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
MAX_PIXELS = 200_000_000
DECODERS = (2, 8)
"""Threads that decode and resize pictures while the network runs: at least, and at most."""
_ORIENTATION = 0x0112  # the EXIF tag
_LOCK = threading.Lock()
_STARTING = threading.Lock()
_T = TypeVar("_T")


def pictures_of(images: Any) -> Iterator[Picture]:
    """The single pictures of whatever `predict` takes; folders and globs are listed in order of name."""
    if isinstance(images, (str, Path)):
        yield from picture_paths(images)
    elif isinstance(images, Image.Image):
        yield images
    elif isinstance(images, (np.ndarray, Tensor)):
        if images.ndim == 4:
            yield from images
        else:
            yield images
    elif isinstance(images, Iterable):
        for part in images:
            yield from pictures_of(part)
    else:
        raise ValueError(f"picture: expected a path, PIL image, array or tensor, got {type(images).__name__}")


def picture_paths(source: str | Path) -> list[Path]:
    """The picture files of a path, a glob or a folder (not its subfolders)."""
    path = Path(source)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not found:
            raise FileNotFoundError(f"{path}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(source), recursive=True) if Path(name).is_file())
    if not found:
        raise FileNotFoundError(f"{source}: no such picture, folder or pattern")
    return found


def as_pixels(picture: Picture) -> tuple[Tensor, str | None]:
    """One picture as (3, H, W) uint8 or float in [0, 1], and the path that it came from."""
    if isinstance(picture, (str, Path)):
        return read_image(picture), str(picture)
    if isinstance(picture, Image.Image):
        return torch.from_numpy(np.array(upright_rgb(picture))).permute(2, 0, 1).contiguous(), None
    if isinstance(picture, Tensor):
        pixels = picture.cpu()  # it is resized and put into a batch with others there
    else:
        array = np.ascontiguousarray(picture)
        if not array.flags.writeable:  # as PIL's own arrays are; torch would warn
            array = array.copy()
        if array.ndim == 2:
            array = np.repeat(array[:, :, None], 3, axis=2)
        if array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"array: expected (H, W, 3) RGB or (H, W), got {array.shape}")
        pixels = torch.from_numpy(array).permute(2, 0, 1)
    if pixels.dim() != 3 or pixels.shape[0] != 3:
        raise ValueError(f"tensor: expected (3, H, W) RGB, got {tuple(pixels.shape)}")
    if pixels.dtype == torch.uint8:
        return pixels.contiguous(), None
    if not pixels.is_floating_point():
        raise ValueError(f"pixels: expected uint8, or float in [0, 1], got {pixels.dtype}")
    if pixels.numel() and not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):  # so also where one is NaN
        raise ValueError(
            f"float pixels: expected [0, 1], got [{float(pixels.min()):.4g}, {float(pixels.max()):.4g}]; "
            f"give uint8 for 0 to 255, and do not normalise: the model does"
        )
    return pixels.float().contiguous(), None


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A picture file as an upright RGB tensor (3, H, W) uint8, which lies in memory pixel by pixel.

    Raises FileNotFoundError where there is no file, ValueError where it is no picture, damaged, or larger than
    `max_pixels`; each with one sentence that names the file.
    """
    return with_image(path, max_pixels, _decode)


def image_of_bytes(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The same of a picture file whose bytes lie elsewhere, such as in an archive; `name` is what sentences call it."""
    if not data:
        raise ValueError(f"{name}: the picture is empty (0 bytes); copy it again or remove it")
    return _with_opened(BytesIO(data), name, max_pixels, _decode)


def _decode(image: Image.Image) -> Tensor:
    image.load()
    # as Pillow has it, pixel by pixel: resizing is faster from there than from three planes
    return torch.from_numpy(np.array(upright_rgb(image))).permute(2, 0, 1)


def image_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of a picture file as it is looked at (after EXIF rotation), from its header only."""
    return image_header(path, max_pixels=max_pixels)[0]


def image_header(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], bool]:
    """Height and width after EXIF rotation, and whether that rotation swapped them."""

    def measure(image: Image.Image) -> tuple[tuple[int, int], bool]:
        width, height = image.size
        # Pillow itself swaps the size of a rotated TIFF when it opens it; its tag then still says 5 to 8.
        turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
        return ((width, height) if turned else (height, width)), turned

    return with_image(path, max_pixels, measure)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow picture as upright 8-bit RGB: EXIF rotation applied, transparency over white, 16 bits scaled to 8."""
    if _orientation(image) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values (H, W) of more than 8 bits as uint8, scaled by the range of their kind and not by their content."""
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    highest = wide.max(initial=0.0)
    if np.issubdtype(values.dtype, np.floating):
        scale = 255.0 if highest <= 1.0 else 1.0 if highest <= 255.0 else 1 / 257
    else:  # Pillow also opens 16-bit files as 32-bit numbers
        scale = 1 / 257 if highest <= 65535 else 255 / (2**31 - 1)
    return (wide * scale).round().clip(0, 255).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels, which are still good
        return 1


def _open(handle: IO[bytes]) -> Image.Image:
    """Open without Pillow's own pixel limit, which warns, then raises, at bounds that are not ours."""
    handle.read(1)  # waits for slow storage here and not under the lock
    handle.seek(0)
    with _LOCK:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(handle)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def with_image(path: str | Path, max_pixels: int, use: Callable[[Image.Image], _T]) -> _T:
    """What `use` makes of an opened picture; whatever is wrong with it becomes one sentence that names the file."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder, not a picture")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such picture")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes); copy the picture again or remove it")
    with path.open("rb") as handle:
        return _with_opened(handle, str(path), max_pixels, use)


def _with_opened(handle: IO[bytes], name: str, max_pixels: int, use: Callable[[Image.Image], _T]) -> _T:
    try:
        image = _open(handle)
    except Exception as error:  # Pillow raises anything from struct.error to IndexError on a damaged header
        raise ValueError(f"{name}: not a picture that can be read ({_reason(error)}); convert or remove it") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: {width} x {height} pixels are more than the limit of {max_pixels}; make the picture smaller"
        )
    try:
        return use(image)
    except Exception as error:  # the same for damaged pixels
        raise ValueError(
            f"{name}: the picture is damaged or cut short ({_reason(error)}); copy it again or remove it"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return (str(error) or type(error).__name__).splitlines()[0][:120]


class Prepared(NamedTuple):
    """A picture at network size (3, h, w), how it got there from its own (height, width), its path and proposals."""

    pixels: Tensor
    original_hw: tuple[int, int]
    plan: ResizePlan
    path: str | None
    proposals: Tensor | None = None
    original: Tensor | None = None
    """Its own pixels, where they are to be kept."""


Unreadable: TypeAlias = ValueError | OSError
"""What is wrong with a picture that cannot be read."""


def prepared_ahead(jobs: Iterator[Callable[[], Prepared]], window: int) -> Iterator[list[Prepared | Unreadable]]:
    """Windows of prepared pictures, or what is wrong with them, each prepared while the one before is used."""

    def attempt(job: Callable[[], Prepared]) -> Prepared | Unreadable:
        try:
            return job()
        except (ValueError, OSError) as error:
            return error

    with picture_threads() as pool:
        ahead: deque[list[Future[Prepared | Unreadable]]] = deque()
        try:
            while True:
                while len(ahead) < 2 and (held := list(islice(jobs, window))):
                    ahead.append([pool.submit(attempt, job) for job in held])
                if not ahead:
                    return
                yield [future.result() for future in ahead.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def decoder_count() -> int:
    """Threads that decode: half of the cores that this process may use, within `DECODERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // 2, DECODERS[0]), DECODERS[1])


def picture_threads(name: str = "") -> ThreadPoolExecutor:
    """Threads that decode and resize, each on one core.

    torch would let each gather a team of threads for its operations. While such teams are there, OpenMP has the
    network's own threads sleep where else they wait awake for each other (benchmarks/RESULTS.md, the course's network).
    """
    count = decoder_count()
    pool = ThreadPoolExecutor(count, name)
    # with a timeout: a thread that cannot start must not make the others wait for ever
    together = threading.Barrier(count, timeout=30)

    def alone() -> None:
        torch.get_num_threads()  # else torch would set the number when this thread first computes
        torch.set_num_threads(1)
        together.wait()

    with _STARTING:
        usual = torch.get_num_threads()
        try:
            for job in [pool.submit(alone) for _ in range(count)]:
                job.result()
        finally:
            torch.set_num_threads(usual)  # in this thread, and in those that start later
    return pool


def prepare(
    picture: Picture, rule: ResizeRule, stored: StoredProposals | None = None, *, keep: bool = False
) -> Prepared:
    """A picture resized by a rule, with the proposals that are stored for it, and with `keep` its own pixels."""
    pixels, path = as_pixels(picture)
    hw = (int(pixels.shape[1]), int(pixels.shape[2]))
    plan = resize_plan(hw, rule)
    proposals = None
    if stored is not None:
        if path is None:
            raise ValueError(f"{stored.path} knows pictures by their files: give paths, not pixels")
        proposals = resize_proposals(stored.of(path, hw), hw, rule)
    return Prepared(fit_image(pixels, plan), hw, plan, path, proposals, pixels if keep else None)


def refuse_among_pictures(out: Path, sources: list[Path], pictures: list[Path]) -> None:
    """Refuse to write beside the pictures, or anywhere below a folder of them that was given."""
    place = out.resolve()
    among = [path.parent for path in pictures if path.parent.resolve() == place]
    among += [source for source in sources if source.is_dir() and place.is_relative_to(source.resolve())]
    if among:
        raise ValueError(f"{out}: lies in the picture folder {among[0]}, which is only read; choose another with --out")
