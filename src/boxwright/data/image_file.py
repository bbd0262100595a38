"""One picture file: its size from the header, its pixels as an upright RGB tensor, or one clear sentence.

Every mode that Pillow opens ends as 8-bit RGB: 16-bit grey is scaled by its range, transparency is composited over
white, of an animation the first frame counts, and the EXIF orientation is applied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 200_000_000
_ORIENTATION = 0x0112  # the EXIF tag
_LOCK = threading.Lock()
_T = TypeVar("_T")


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A picture file as an upright RGB tensor (3, H, W) uint8.

    Raises FileNotFoundError where there is no file, ValueError where it is no picture, damaged, or larger than
    `max_pixels`; each with one sentence that names the file.
    """
    return _with_image(path, max_pixels, _decode)


def image_of_bytes(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The same of a picture file whose bytes lie elsewhere, such as in an archive; `name` is what sentences call it."""
    if not data:
        raise ValueError(f"{name}: the picture is empty (0 bytes); copy it again or remove it")
    return _with_opened(BytesIO(data), name, max_pixels, _decode)


def _decode(image: Image.Image) -> Tensor:
    image.load()
    return torch.from_numpy(np.array(upright_rgb(image))).permute(2, 0, 1).contiguous()


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

    return _with_image(path, max_pixels, measure)


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


def _with_image(path: str | Path, max_pixels: int, use: Callable[[Image.Image], _T]) -> _T:
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
