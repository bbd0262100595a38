"""The supported image formats and their suffixes: one list for folders, annotation readers and uploads.

Pillow opens dozens of other formats. It passes some of them to other programs (PostScript to Ghostscript, which
executes the file), so a file is opened as one of these formats or not at all, whatever its name is.
"""

from __future__ import annotations

import threading
from typing import IO

from PIL import Image, UnidentifiedImageError, features

SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm"),
    "AVIF": (".avif",),
}
_OPTIONAL = tuple(name for name in ("WEBP", "AVIF") if name.lower() not in features.modules
                  or not features.check(name.lower()))  # fmt: skip
FORMATS = tuple(name for name in SUFFIXES_OF if name not in _OPTIONAL)
"""Pillow's names of the supported formats, as far as this Pillow was built with them."""
SUFFIXES = tuple(suffix for name in FORMATS for suffix in SUFFIXES_OF[name])
"""The suffixes of image files, in lower case."""
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp")
_LOCK = threading.Lock()


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of a supported image format.

    >>> is_image_name("A.JFIF"), is_image_name("a.jpg.txt"), is_image_name("a.eps")
    (True, False, False)
    """
    return name.lower().endswith(SUFFIXES)


def is_video_name(name: str) -> bool:
    """Whether a file name has the suffix of a video."""
    return name.lower().endswith(VIDEO_SUFFIXES)


def video_sentence(name: str) -> str:
    """An error message for a video in place of an image."""
    return (
        f"{name}: this is a video, and images are expected: `boxwright predict` takes a video as its only source, "
        "Detector.video in Python; or extract its frames first "
        f"(ffmpeg -i {name} frames/%06d.jpg) and give their folder"
    )


def open_image(handle: IO[bytes]) -> Image.Image:
    """An image file of a supported format, by its content; our own pixel limit replaces Pillow's.

    Raises UnidentifiedImageError for other formats, and on a damaged header whatever Pillow raises.
    """
    handle.read(1)  # waits for slow storage here and not under the lock
    handle.seek(0)
    with _LOCK:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None  # it warns, then raises, at bounds of its own
        try:
            return Image.open(handle, formats=FORMATS)
        except UnidentifiedImageError as error:
            names = ", ".join("PPM or PGM" if name == "PPM" else name for name in FORMATS)
            raise UnidentifiedImageError(f"unknown format; {names} are read") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
