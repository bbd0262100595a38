"""`Detector`: a trained model, its classes and its preprocessing, ready for pictures of any kind and size."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.checkpoint import Checkpoint, load_checkpoint
from boxwright.data.image_file import read_image, upright_rgb
from boxwright.models import DetectSettings
from boxwright.ops.image import ResizeRule, fit_image, resize_plan
from boxwright.structures import Classes, Detections, ImageBatch

Picture: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


class Detector:
    """A trained detector to use.

    >>> detector = Detector.load("runs/fcos-small/weights/best.pt")  # doctest: +SKIP
    >>> detector.predict("street.jpg")[0].names  # doctest: +SKIP
    ['car', 'car', 'person']
    """

    def __init__(self, checkpoint: Checkpoint, device: str | torch.device = "auto") -> None:
        self.device = _device(device)
        self.recipe = checkpoint.recipe
        self.classes: Classes = checkpoint.classes
        self.score_threshold = 0.3 if checkpoint.score_threshold is None else checkpoint.score_threshold
        """What `predict` reports from: the score of the best F1 in validation."""
        self.resize: ResizeRule = self.recipe.data.resize.rule()
        self.settings: DetectSettings = self.recipe.detect.settings()
        self.model: Any = checkpoint.build().to(self.device, memory_format=torch.channels_last)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "auto") -> Detector:
        """The detector of a checkpoint. Raises FileNotFoundError, or ValueError where the file is not one."""
        return cls(load_checkpoint(path), device)

    def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        score: float | None = None,
        resize: ResizeRule | Literal["recipe"] | None = "recipe",
        batch: int = 8,
        nms_iou: float | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]:
        """What is in each picture, best first, in the pixels of the picture as given.

        Args:
            images: one or several of: a path, a glob, a folder, a PIL image, a numpy array (H, W, 3) or (H, W) RGB
                uint8, a tensor (3, H, W) uint8 or float in [0, 1], a batch of them (B, 3, H, W).
            score: least score; the checkpoint's own threshold if not given.
            resize: the recipe's resizing, another rule, or None for pictures as they are.
            batch: pictures a forward pass; sizes may be mixed, pictures of like shape are put together.
            nms_iou, max_detections: instead of the recipe's.
        """
        return list(self.stream(images, score=score, resize=resize, batch=batch, nms_iou=nms_iou,
                                max_detections=max_detections, window=None))  # fmt: skip

    def stream(
        self,
        images: Picture | Sequence[Picture] | Iterable[Picture],
        *,
        score: float | None = None,
        resize: ResizeRule | Literal["recipe"] | None = "recipe",
        batch: int = 8,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        window: int | None = 256,
    ) -> Iterator[Detections]:
        """`predict` for any number of pictures: a window of them is held in memory at a time (None: all)."""
        if batch < 1:
            raise ValueError(f"batch: expected at least 1, got {batch}")
        rule = self.resize if resize == "recipe" else resize or ResizeRule("none")
        least = self.score_threshold if score is None else score
        settings = replace(self.settings, score_threshold=least)
        if nms_iou is not None:
            settings = replace(settings, nms_iou=nms_iou)
        if max_detections is not None:
            settings = replace(settings, max_detections=max_detections)
        held: list[tuple[Tensor, tuple[int, int], str | None]] = []
        for picture in pictures_of(images):
            pixels, path = as_pixels(picture)
            hw = (int(pixels.shape[1]), int(pixels.shape[2]))
            held.append((fit_image(pixels, resize_plan(hw, rule)), hw, path))
            if window is not None and len(held) >= window:
                yield from self._detect(held, rule, settings, batch)
                held = []
        yield from self._detect(held, rule, settings, batch)

    @torch.inference_mode()
    def _detect(
        self, held: list[tuple[Tensor, tuple[int, int], str | None]], rule: ResizeRule, settings: DetectSettings,
        batch: int,
    ) -> list[Detections]:  # fmt: skip
        """Detections of resized pictures, in their order; batches are made of pictures of like shape and type."""
        order = sorted(range(len(held)), key=lambda k: (str(held[k][0].dtype), *held[k][0].shape[1:]))
        found: dict[int, Detections] = {}
        while order:
            rows = [k for k in order[:batch] if held[k][0].dtype == held[order[0]][0].dtype]
            order = order[len(rows) :]
            images = ImageBatch.of(
                [held[k][0] for k in rows],
                [held[k][1] for k in rows],
                [resize_plan(held[k][1], rule).scale_xy for k in rows],
                [resize_plan(held[k][1], rule).offset_xy for k in rows],
            ).to(self.device)
            outputs = self.model(images)
            for k, one in zip(rows, self.model.detect(outputs, images, settings), strict=True):
                found[k] = replace(one, classes=self.classes, path=held[k][2])
        return [found[k] for k in range(len(held))]


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


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: expected auto, cpu, cuda, cuda:N or mps") from error
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {device!r}: expected auto, cpu, cuda, cuda:N or mps")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device}: this machine (or this torch) has no Apple GPU; use cpu or auto")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this machine (or this torch) has no CUDA GPU; use cpu or auto")
    return chosen
