"""The pictures of whatever a user gives: paths, patterns, folders, PIL images, arrays and tensors, as plain pixels."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.data.image_file import read_image, upright_rgb

Picture: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


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


def refuse_among_pictures(out: Path, sources: list[Path], pictures: list[Path]) -> None:
    """Refuse to write beside the pictures, or anywhere below a folder of them that was given."""
    place = out.resolve()
    among = [path.parent for path in pictures if path.parent.resolve() == place]
    among += [source for source in sources if source.is_dir() and place.is_relative_to(source.resolve())]
    if among:
        raise ValueError(f"{out}: lies in the picture folder {among[0]}, which is only read; choose another with --out")


def as_pixels(picture: Picture) -> tuple[Tensor, str | None]:
    """One picture as (3, H, W) uint8 or float in [0, 1], and the path that it came from."""
    if isinstance(picture, (str, Path)):
        return read_image(picture), str(picture)
    if isinstance(picture, Image.Image):
        return torch.from_numpy(np.array(upright_rgb(picture))).permute(2, 0, 1).contiguous(), None
    if isinstance(picture, Tensor):
        pixels = picture
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
