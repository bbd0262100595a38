"""Image files of any supported format as upright RGB pixels, or one clear sentence that names the file.

The result is always 8-bit RGB: more bits are scaled (`value_range`), transparency is composited over white, the first
frame of an animation is used, and the EXIF orientation is applied. This is done strip by strip, so that even the
largest image needs little more memory than its pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from torch import Tensor

from boxwright.data.image_io.file_types import is_video_name, open_image, video_sentence
from boxwright.data.image_io.short_jpeg import completed
from boxwright.data.image_io.value_range import NARROW, UsedRange, ValueRange, eight_bits, used_range

MAX_PIXELS = 200_000_000
STRIP = 2_000_000
"""Pixels that are converted at a time."""
_ORIENTATION = 0x0112  # the EXIF tag
_T = TypeVar("_T")
Unreadable: TypeAlias = ValueError | OSError
"""The error of an image that cannot be read."""


class ReadImage(NamedTuple):
    """Pixels (3, H, W) uint8, stored pixel by pixel (channels last); a note on a defect of the file; and the range of
    values in the file, for grey images of more than 8 bits.
    """

    pixels: Tensor
    note: str | None = None
    used: UsedRange | None = None


class ImageHeader(NamedTuple):
    """Height and width after EXIF rotation, whether that rotation swapped them, and whether values have more than 8
    bits.
    """

    hw: tuple[int, int]
    turned: bool
    is_deep: bool


class StoredSize(NamedTuple):
    """Height and width before EXIF rotation, and the bytes that Pillow needs per pixel."""

    hw: tuple[int, int]
    stored_bytes: int


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, value_range: ValueRange = "auto") -> Tensor:
    """An image file as an upright RGB tensor (3, H, W) uint8, stored pixel by pixel (channels last).

    Raises FileNotFoundError if there is no file, ValueError if it is not an image, damaged, or larger than
    `max_pixels`; each with one sentence that names the file.
    """
    return read_with_note(path, max_pixels=max_pixels, value_range=value_range).pixels


def read_with_note(path: str | Path, *, max_pixels: int = MAX_PIXELS, value_range: ValueRange = "auto") -> ReadImage:
    """The same with a note on defects: a missing end, values that have become flat."""
    with _opened(path) as handle:
        return _read(handle, str(path), max_pixels, value_range)


def image_of_bytes(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, value_range: ValueRange = "auto") -> Tensor:
    """An image file from its bytes, such as those in an archive; `name` is used in messages."""
    return bytes_with_note(data, name, max_pixels=max_pixels, value_range=value_range).pixels


def bytes_with_note(
    data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, value_range: ValueRange = "auto"
) -> ReadImage:
    """The same with a note on defects."""
    if not data:
        raise ValueError(f"{name}: the image is empty (0 bytes); copy it again or remove it")
    return _read(BytesIO(data), name, max_pixels, value_range)


def image_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of the upright image (after EXIF rotation), from the header of its file only."""
    return image_header(path, max_pixels=max_pixels).hw


def image_header(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """The properties of an image file, from its header."""

    def measure(image: Image.Image) -> ImageHeader:
        width, height = image.size
        if isinstance(image, TiffImageFile):  # from 11.1 on Pillow itself swaps the size of a rotated one
            width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
        is_deep = _is_deep(image)  # before the EXIF block, for which Pillow may load the pixels
        turned = _orientation(image) in (5, 6, 7, 8)
        return ImageHeader((width, height) if turned else (height, width), turned, is_deep)

    return with_image(path, max_pixels, measure)


def stored_size(path: str | Path) -> StoredSize:
    """The size of an image file and its decoded bytes per pixel; EXIF is not read, which would decode a PNG file."""
    return with_image(path, MAX_PIXELS, _stored_size)


def stored_size_of_bytes(data: bytes, name: str) -> StoredSize:
    """The same from the bytes of an image file."""
    return _with_opened(BytesIO(data), name, MAX_PIXELS, _stored_size)


def _stored_size(image: Image.Image) -> StoredSize:
    stored = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    copies = 2 if "exif" in image.info or image.format == "TIFF" else 1  # to be rotated
    return StoredSize((image.height, image.width), stored * copies)


def with_image(path: str | Path, max_pixels: int, use: Callable[[Image.Image], _T]) -> _T:
    """The result of `use` on an opened image; any error becomes one sentence that names the file."""
    with _opened(path) as handle:
        return _with_opened(handle, str(path), max_pixels, use)


def pixels_of_image(image: Image.Image, value_range: ValueRange = "auto") -> ReadImage:
    """Any Pillow image as upright 8-bit RGB pixels."""
    deep_colour = _is_deep(image) and not _is_grey(image)  # known before the pixels are loaded
    image.load()
    if _orientation(image) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    note = used = None
    if _is_grey(image):
        used = used_range((np.asarray(strip) for _, strip in _strips(image)), image.width * image.height)
        low, high = used.bounds(value_range)
        for rows, strip in _strips(image):
            pixels[rows] = eight_bits(np.asarray(strip), low, high)[:, :, None]
        note = used.lost(value_range)
    else:
        for rows, strip in _strips(image):
            pixels[rows] = np.asarray(_rgb(strip))
        note = _flat_colour(pixels) if deep_colour else None
    return ReadImage(torch.from_numpy(pixels).permute(2, 0, 1), note, used)


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """An image in strips of whole rows, each with its position."""
    rows = max(1, STRIP // max(1, image.width))
    if rows >= image.height:
        yield slice(0, image.height), image
        return
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _is_grey(image: Image.Image) -> bool:
    """Whether pixels are single values of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def _is_deep(image: Image.Image) -> bool:
    """Whether the file holds more than 8 bits per value; of colours, Pillow reads the upper 8."""
    tiles: Any = getattr(image, "tile", None)
    return _is_grey(image) or (bool(tiles) and ";16" in str(tiles[0][3]))


def _flat_colour(pixels: np.ndarray[Any, Any]) -> str | None:
    levels = int(pixels.max(initial=0)) - int(pixels.min(initial=255)) + 1
    if not 1 < levels <= NARROW * 256:
        return None
    return (
        f"its 16-bit colours become {levels} of 256 levels, since only their upper 8 bits are read: the image is "
        "nearly flat; scale it to 8 bits"
    )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels may be good although the EXIF block is broken
        return 1


def _opened(path: str | Path) -> IO[bytes]:
    """An opened image file. Raises FileNotFoundError, or ValueError for an empty file or something else than a file."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder, not an image")
    if not path.is_file():
        if path.is_symlink() and not path.exists():
            raise FileNotFoundError(f"{path}: there is no such image; this is a link to a file that is not there")
        if path.exists():
            raise ValueError(f"{path}: this is a device or a pipe, not an image file")
        raise FileNotFoundError(f"{path}: there is no such image")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes); copy the image again or remove it")
    return path.open("rb")


def _read(handle: IO[bytes], name: str, max_pixels: int, value_range: ValueRange) -> ReadImage:
    def decode(image: Image.Image) -> ReadImage:
        try:
            return pixels_of_image(image, value_range)
        except OSError as error:
            if image.format not in ("JPEG", "MPO") or "truncated" not in str(error):
                raise
        handle.seek(0)
        image, missing = completed(handle.read())
        found = pixels_of_image(image, value_range)
        return found._replace(note=missing if found.note is None else f"{missing}; {found.note}")

    return _with_opened(handle, name, max_pixels, decode)


def _with_opened(handle: IO[bytes], name: str, max_pixels: int, use: Callable[[Image.Image], _T]) -> _T:
    try:
        image = open_image(handle)
    except Exception as error:  # Pillow raises anything from struct.error to IndexError on a damaged header
        if is_video_name(name) and isinstance(error, UnidentifiedImageError):
            raise ValueError(video_sentence(name)) from error
        raise ValueError(f"{name}: not an image that can be read ({_reason(error)}); convert or remove it") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: {width} x {height} pixels are more than the limit of {max_pixels}; make the image smaller"
        )
    try:
        return use(image)
    except Exception as error:  # the same for damaged pixels
        raise ValueError(
            f"{name}: the image is damaged or cut short ({_reason(error)}); copy it again or remove it"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
