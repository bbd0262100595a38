"""Draw what a picture holds or what a detector found: boxes, masks and label tags that can be read.

Shape legend: G = ground-truth boxes, D = detections, H W = height and width of the picture in pixels. A class index has
the same colour in every picture. Tags stay inside the picture and keep off each other; where the picture is crowded
they get shorter, and where they still do not fit only the colour speaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from boxwright.structures import Classes, Detections, Truth
from boxwright.visualize.tags import Item, Rectangle, draw_tags

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
           ".tiff": "TIFF"}  # fmt: skip


def draw(
    image: Tensor,
    found: Detections | Truth,
    *,
    classes: Classes | None = None,
    min_score: float = 0.0,
    scale: float = 1.0,
    masks: bool = True,
) -> Image.Image:
    """The picture (3, H, W) uint8 with its objects drawn on it, as a Pillow image `scale` times as large.

    Detections under `min_score` are left out; ignored regions are grey, dashed and hatched. Names come from `classes`,
    else from the detections, else the label number stands for the name. Raises ValueError where the picture is not
    (3, H, W) uint8 or the detections belong to a picture of another size.
    """
    if image.dim() != 3 or image.shape[0] != 3 or str(image.dtype) != "torch.uint8":
        raise ValueError(f"picture to draw on: expected (3, H, W) uint8, got {tuple(image.shape)} {image.dtype}")
    height, width = int(image.shape[1]), int(image.shape[2])
    if isinstance(found, Detections) and tuple(found.size_hw) != (height, width):
        raise ValueError(f"detections of a picture of {found.size_hw[0]} x {found.size_hw[1]} pixels (height x width) "
                         f"cannot be drawn on one of {height} x {width}")  # fmt: skip
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    if scale != 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX)
    items = _items(found, classes, min_score, scale, picture.size)
    if masks and found.masks is not None and items:
        picture = _with_masks(picture, found, items, scale)
    _draw_boxes(picture, items)
    draw_tags(picture, items)
    return picture


def _items(
    found: Detections | Truth, classes: Classes | None, min_score: float, scale: float, size: tuple[int, int]
) -> list[Item]:
    """What is to be drawn, largest first, so that small objects lie on top of the large ones around them."""
    if classes is None and isinstance(found, Detections):
        classes = found.classes
    boxes = found.boxes.detach().cpu().double().numpy() * scale
    labels = found.labels.cpu().tolist()
    scores = found.scores.detach().cpu().tolist() if isinstance(found, Detections) else [None] * len(labels)
    ignored = found.ignore.cpu().tolist() if isinstance(found, Truth) else [False] * len(labels)
    width, height = size
    items = []
    for index, (box, label, score, ignore) in enumerate(zip(boxes, labels, scores, ignored, strict=True)):
        if (score is not None and not score >= min_score) or not np.isfinite(box).all():
            continue
        x1, y1, x2, y2 = (round(float(edge)) for edge in np.clip(box, 0, [width, height, width, height]))
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            continue  # outside the picture
        x1, y1 = min(x1, width - 1), min(y1, height - 1)  # and an object thinner than a pixel gets a whole one
        rectangle = (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))
        name = classes.names[label] if classes is not None and 0 <= label < len(classes) else str(label)
        if score is not None:
            # Where there is only one class, the score says more than the name.
            texts = (f"{name} {score:.2f}", f"{score:.2f}" if classes is not None and len(classes) == 1 else name)
        else:
            texts = (f"{name} (ignored)", name) if ignore else (name, name)
        items.append(Item(rectangle, label, ignore, texts, index))
    return sorted(items, key=lambda item: -item.area)


def _with_masks(picture: Image.Image, found: Detections | Truth, items: Sequence[Item], scale: float) -> Image.Image:
    """The picture with each object's mask as a translucent fill and a solid outline of its class colour."""
    canvas = np.array(picture)
    thickness = max(1, round(_line_width(picture.size) / 2))
    for item in items:
        cropped = _cropped_mask(found, item.index)
        if cropped is None:
            continue
        x, y, bitmap = cropped
        if scale != 1.0:
            right, bottom = round((x + bitmap.shape[1]) * scale), round((y + bitmap.shape[0]) * scale)
            x, y = round(x * scale), round(y * scale)
            grey = Image.fromarray(bitmap.astype(np.uint8) * 255)
            grey = grey.resize((max(1, right - x), max(1, bottom - y)), Image.Resampling.BILINEAR)
            bitmap = np.asarray(grey) > 127
        region = canvas[y : y + bitmap.shape[0], x : x + bitmap.shape[1]]
        bitmap = bitmap[: region.shape[0], : region.shape[1]]
        inner = np.pad(bitmap, thickness)
        for _ in range(thickness):
            inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        outline = bitmap & ~inner[thickness:-thickness, thickness:-thickness]
        colour = np.array(item.colour)
        region[bitmap] = (0.62 * region[bitmap] + 0.38 * colour).astype(np.uint8)
        region[outline] = colour
    return Image.fromarray(canvas)


def _cropped_mask(found: Detections | Truth, index: int) -> tuple[int, int, npt.NDArray[np.bool_]] | None:
    """Left, top and bitmap of one object's mask, no larger than the object; None where it is empty."""
    if found.masks is None:
        return None
    if isinstance(found, Truth):
        x, y, bitmap = found.masks[index]
        return (int(x), int(y), bitmap.cpu().numpy().astype(bool)) if bitmap.any() else None
    x, y, bitmap = found.mask(index).tight()
    return (x, y, bitmap.cpu().numpy().astype(bool)) if bitmap.numel() else None


def _line_width(size: tuple[int, int]) -> int:
    """Line width in pixels for a picture of (width, height): 1 for thumbnails, 2 at 640 x 480, 14 at 12 megapixels."""
    return max(1, round(math.sqrt(size[0] * size[1]) / 260))


def _draw_boxes(picture: Image.Image, items: Sequence[Item]) -> None:
    """Draw rectangles, thinner for small objects and in crowds; ignored ones dashed and hatched."""
    pen = ImageDraw.Draw(picture, "RGBA")
    common = _line_width(picture.size)
    if len(items) > 60:
        common = max(1, common // 2)
    for item in items:
        x1, y1, x2, y2 = item.rectangle
        line = min(common, max(1, min(x2 - x1, y2 - y1) // 12))
        if item.ignored:
            _hatch(pen, item.rectangle, line, common)
            continue
        if line > 1:  # a dark seam inside keeps the line apart from ground of its own colour
            pen.rectangle((x1 + line, y1 + line, x2 - 1 - line, y2 - 1 - line), outline=(0, 0, 0, 110), width=1)
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=item.colour, width=line)


def _hatch(pen: ImageDraw.ImageDraw, rectangle: Rectangle, line: int, common: int) -> None:
    """Draw an ignored region: light diagonals, and dashes of light grey on a dark frame, seen on any ground."""
    x1, y1, x2, y2 = rectangle[0], rectangle[1], rectangle[2] - 1, rectangle[3] - 1
    step = 6 + 5 * common
    for start in range(x1 + y1 + step, x2 + y2, step):  # the diagonals x + y = start
        left, right = max(x1, start - y2), min(x2, start - y1)
        pen.line((left, start - left, right, start - right), fill=(255, 255, 255, 90), width=line)
    pen.rectangle((x1, y1, x2, y2), outline=(60, 60, 60), width=line)
    light, far = (225, 225, 225), line - 1
    for x in range(x1, x2 + 1, step):
        end = min(x + step // 2, x2)
        pen.rectangle((x, y1, end, min(y1 + far, y2)), fill=light)
        pen.rectangle((x, max(y2 - far, y1), end, y2), fill=light)
    for y in range(y1, y2 + 1, step):
        end = min(y + step // 2, y2)
        pen.rectangle((x1, y, min(x1 + far, x2), end), fill=light)
        pen.rectangle((max(x2 - far, x1), y, x2, end), fill=light)


def save(image: Image.Image, path: str | Path) -> None:
    """Write a picture in the format of its file's suffix: .jpg, .png, .webp, .bmp or .tif.

    JPEG and WebP are written without loss of colour resolution, which would blur thin coloured lines. Raises ValueError
    for another suffix.
    """
    path = Path(path)
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ValueError(f"{path}: pictures are written as {', '.join(FORMATS)}, not as {path.suffix or 'no suffix'!r}")
    options: dict[str, Any] = {"JPEG": {"quality": 90, "subsampling": 0}, "WEBP": {"quality": 90}}.get(form, {})
    image.save(path, format=form, **options)
