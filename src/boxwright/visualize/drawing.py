"""Draw ground truth or detections on an image: boxes, masks, stuff and legible label tags.

Shape legend: G = ground-truth boxes, D = detections, H W = height and width of the image in pixels. A class index has
the same colour in every image. Tags stay inside the image and do not overlap; in crowded images they are shortened, and
left out where there is no room, so that only the colour shows the class.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from boxwright.data.image_io.any_image import ImageLike, read_any_image
from boxwright.data.image_io.file_types import SUFFIXES_OF
from boxwright.visualize.objects import Names, Objects
from boxwright.visualize.regions import hatch, with_masks
from boxwright.visualize.rotated import draw_rotated
from boxwright.visualize.skeletons import draw_keypoints
from boxwright.visualize.stuff import Region, stuff_regions
from boxwright.writing import printable

Colour: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle: TypeAlias = tuple[int, int, int, int]

FORMATS = {suffix: name for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF") for suffix in SUFFIXES_OF[name]}
"""Suffixes of the images that are written, and what Pillow calls their formats."""
_PALETTE = """
e345dc 1a49ee 5def34 b02a2d 357426 fdc010 3fe4ec f5adf9 863ca4 f95801 03b432 2b6991 8d82f8 af6904 f68b95 d22e82
61b7fc 9dbe5d 9742f6 9d6791 247bdd 2f8d7e fc911d fdb89a ae931d 45eca4 b8a3e1 35caab 7b5f1b f94b77 d072a0 973f6e
ef82da 7a8240 5550c0 ced08b b640be 209431 dd2d34 7c6cc3 14a3d5 39ad79 cea96c c6816f bc67f3 7523de a5e060 5ace3c
fb34aa 6b578f a287c2 6a62f3 a90e88 4583ac 037465 bc5763 8f4e44 06c5dd 91debc 46a7a6 8fd5fd 4296fb d20ca9 fcb2c8
"""
PALETTE: tuple[Colour, ...] = tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, _PALETTE.split()))
"""Colours of classes in the order of use, so that a class keeps its colour however many there are. Each lies farthest
from all before it, from white, black and the grey of ignored regions, in OKLab (Ottosson 2020); the first is a magenta,
which stands out on black, white, grey, skin and green."""
NUM_COLOURS = len(PALETTE)
IGNORED_COLOUR: Colour = (150, 150, 150)
PAPER: Colour = (255, 255, 255)
FEW_OBJECTS = 10
MOST_HIDDEN = 0.5  # of an object, by a tag


def draw(
    image: ImageLike,
    found: Objects,
    *,
    classes: Names | None = None,
    min_score: float = 0.0,
    scale: float = 1.0,
    masks: bool = True,
    ids: Sequence[int] | None = None,
) -> Image.Image:
    """An image with boxes, masks, skeletons, stuff and label tags drawn on it, as a Pillow image.

    Args:
        image: a path, a PIL image, an array (H, W, 3) or (H, W), or a tensor (3, H, W); uint8, or float in [0, 1].
        found: `Detections` or `GroundTruth` in the pixels of this image. Ignored regions are grey, dashed and hatched.
            Of detections with a panoptic map those are drawn that have a segment, as large as that is. Rotated boxes
            are drawn in place of their hulls.
        classes: the names; those of the detections, else the label numbers, if not given.
        min_score: detections with a lower score are left out.
        scale: how many times as large as the image the drawing is.
        masks: whether masks are drawn, and the regions of a panoptic or semantic map.
        ids: the identity of each object, which then has the colour of its identity, and its number in the tag.

    Raises ValueError where the image is of no such kind, or the detections are of an image of another size.
    """
    if not isinstance(image, Tensor):
        image = read_any_image(image).pixels
    fraction = image.is_floating_point() and bool((image >= 0).all()) and bool((image <= 1).all())
    if image.dim() != 3 or image.shape[0] != 3 or not (fraction or str(image.dtype) == "torch.uint8"):
        raise ValueError(
            f"image to draw on: expected (3, H, W), uint8 or float in [0, 1], got {tuple(image.shape)} {image.dtype}"
        )
    if fraction:  # as the network sees it, where it is resized with "plain"
        image = (image * 255).round().byte()
    height, width = int(image.shape[1]), int(image.shape[2])
    size_hw = getattr(found, "size_hw", (height, width))
    if tuple(size_hw) != (height, width):
        raise ValueError(
            f"detections of an image of {size_hw[0]} x {size_hw[1]} pixels (height x width) "
            f"cannot be drawn on one of {height} x {width}"
        )
    drawn = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    if scale != 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        drawn = drawn.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX)
    items = _items(found, classes, min_score, scale, drawn.size, ids)
    panoptic, regions = getattr(found, "panoptic", None), []
    if masks and (panoptic is not None or getattr(found, "semantic", None) is not None):
        regions = stuff_regions(found, getattr(found, "classes", None) if classes is None else classes)
        parts = [((0, 0, region.mask), class_colour(region.colour)) for region in regions]
        drawn = with_masks(drawn, parts, scale, thickness=1)
    if panoptic is not None:
        own = {one.row: one.id for one in panoptic.segments if one.row is not None}
        items = [item for item in items if item.index in own]
    if masks and found.masks is not None and items:
        shapes = [
            found.mask(item.index) if panoptic is None else (0, 0, panoptic.mask(own[item.index])) for item in items
        ]
        areas = [(shape, item.colour) for shape, item in zip(shapes, items, strict=True)]
        drawn = with_masks(drawn, areas, scale, thickness=max(1, round(_line_width(drawn.size) / 2)))
    turned = getattr(found, "rotated", None)
    if turned is None:
        _draw_boxes(drawn, items)
    else:
        draw_rotated(drawn, [(turned[item.index], item.colour) for item in items], scale, _line_width(drawn.size))
    if found.keypoints is not None:
        names = getattr(found, "classes", None) if classes is None else classes
        lines = getattr(getattr(names, "skeleton", None), "lines", ())
        draw_keypoints(drawn, [found.keypoints[item.index] for item in items], lines, scale, _line_width(drawn.size))
    draw_tags(drawn, [*items, *(_named(region, scale, drawn.size) for region in regions)])
    return drawn


@dataclass(frozen=True, slots=True)
class Item:
    """One object to draw: its rectangle in output pixels, its class or identity, and its tag text, long and short."""

    rectangle: Rectangle
    label: int
    ignored: bool
    texts: tuple[str, str]
    index: int

    @property
    def area(self) -> int:
        """Area in output pixels."""
        return (self.rectangle[2] - self.rectangle[0]) * (self.rectangle[3] - self.rectangle[1])

    @property
    def colour(self) -> Colour:
        """Colour of the class, or grey where ignored."""
        return IGNORED_COLOUR if self.ignored else class_colour(self.label)


def _items(
    found: Objects, classes: Names | None, min_score: float, scale: float, size: tuple[int, int],
    ids: Sequence[int] | None = None,
) -> list[Item]:  # fmt: skip
    """The objects to draw, largest first, so that small objects are drawn over the large ones around them."""
    classes = getattr(found, "classes", None) if classes is None else classes
    boxes = found.boxes.detach().cpu().double().numpy() * scale
    labels = found.labels.cpu().tolist()
    scores = found.scores.detach().cpu().tolist() if hasattr(found, "scores") else [None] * len(labels)
    ignored = found.ignore.cpu().tolist() if hasattr(found, "ignore") else [False] * len(labels)
    width, height = size
    items = []
    for index, (box, label, score, ignore) in enumerate(zip(boxes, labels, scores, ignored, strict=True)):
        if (score is not None and not score >= min_score) or not np.isfinite(box).all():
            continue
        x1, y1, x2, y2 = (round(float(edge)) for edge in np.clip(box, 0, [width, height, width, height]))
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            continue  # outside the image
        x1, y1 = min(x1, width - 1), min(y1, height - 1)  # and an object thinner than a pixel is drawn one pixel wide
        rectangle = (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1))
        known = classes is not None and 0 <= label < len(classes.names)
        name = classes.names[label] if classes is not None and known else str(label)
        name = name if name.isprintable() else printable(name)  # a line end would break the tag
        if ids is not None:
            label, texts = ids[index], (f"{name} #{ids[index]}", f"#{ids[index]}")
        elif score is not None:
            # With a single class the score tells more than the name.
            texts = (f"{name} {score:.2f}", f"{score:.2f}" if classes is not None and len(classes.names) == 1 else name)
        else:
            texts = (f"{name} (ignored)", name) if ignore else (name, name)
        items.append(Item(rectangle, label, ignore, texts, index))
    return sorted(items, key=lambda item: -item.area)


def _named(region: Region, scale: float, size: tuple[int, int]) -> Item:
    """The name of a region as the tag of a point in its middle, with room for a word."""
    x, y = (min(round(place * scale), side - 1) for place, side in zip(region.middle(), size, strict=True))
    name = region.name if region.name.isprintable() else printable(region.name)
    left, right = max(0, x - size[0] // 8), min(size[0], x + size[0] // 8 + 1)
    return Item((left, y, right, y + 1), region.colour, False, (name, name), -1)


def _line_width(size: tuple[int, int]) -> int:
    """Line width in pixels for an image of (width, height): 1 for thumbnails, 2 at 640 x 480, 13 at 12 megapixels."""
    return max(1, round(math.sqrt(size[0] * size[1]) / 260))


def _draw_boxes(image: Image.Image, items: Sequence[Item]) -> None:
    """Draw rectangles, thinner for small objects and in crowds; ignored ones dashed and hatched."""
    pen = ImageDraw.Draw(image, "RGBA")
    common = _line_width(image.size)
    if len(items) > 60:
        common = max(1, common // 2)
    for item in items:
        x1, y1, x2, y2 = item.rectangle
        line = min(common, max(1, min(x2 - x1, y2 - y1) // 12))
        if item.ignored:
            hatch(pen, item.rectangle, line, common)
            continue
        if line > 1:  # a dark seam inside keeps the line apart from ground of its own colour
            pen.rectangle((x1 + line, y1 + line, x2 - 1 - line, y2 - 1 - line), outline=(0, 0, 0, 110), width=1)
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=item.colour, width=line)


def draw_tags(image: Image.Image, items: Sequence[Item]) -> None:
    """Draw the tags, each where it covers no other tag and hides least of the objects.

    Where it finds no such place it gets shorter, then it is left out; in a crowd it may not be wider than its box
    either. But every class has at least one tag, and among few objects each has its own.
    """
    width, height = image.size
    font_size = max(10, round(0.013 * math.sqrt(width * height)) + 5)
    plain = all(text.isascii() for item in items for text in item.texts)
    font = font_of(font_size, plain)
    top, bottom = font.getbbox("Ag0" if plain else "ÅÉ")[1], font.getbbox("gj")[3]
    margin = max(2, font_size // 6)
    tag_height = round(bottom - top) + margin
    tag_widths = {text: text_width(text, font) + 2 * margin for item in items for text in item.texts}
    crowded = sum(tag_widths[item.texts[0]] for item in items) * tag_height > 0.1 * width * height
    room = Room(image.size, max(1, tag_height // 4), items)
    named: set[tuple[int, bool]] = set()
    pen = ImageDraw.Draw(image)
    for item in items:
        widest = item.rectangle[2] - item.rectangle[0] if crowded else width
        spot = None
        for text in item.texts:
            if tag_widths[text] <= widest:
                spot = room.place(item.rectangle, (tag_widths[text], tag_height))
            if spot is not None:
                break
        if spot is None and (len(items) <= FEW_OBJECTS or (item.label, item.ignored) not in named):
            text = shortened(item.texts[1 if crowded else 0], font, width - 2 * margin)
            spot = room.place(item.rectangle, (text_width(text, font) + 2 * margin, tag_height), must=True)
        if spot is None:
            continue
        named.add((item.label, item.ignored))
        x, y = spot
        right = x + text_width(text, font) + 2 * margin - 1
        pen.rectangle((x, y, right, y + tag_height - 1), fill=item.colour)
        pen.text((x + margin, y + (margin + 1) // 2 - top), text, font=font, fill=text_colour(item.colour))


class Room:
    """Where tags already lie, pixel by pixel, and how much of the objects a tag would hide, cell by cell."""

    def __init__(self, size: tuple[int, int], cell: int, items: Sequence[Item]) -> None:
        self.width, self.height, self.cell = *size, cell
        self.taken = np.zeros((self.height, self.width), dtype=np.bool_)
        self.objects = np.zeros((self.height // cell + 1, self.width // cell + 1), dtype=np.float32)
        for item in items:
            region = self.objects[self._cells(item.rectangle)]
            region += 1 / region.size

    def _cells(self, rectangle: Rectangle) -> tuple[slice, slice]:
        x1, y1, x2, y2 = rectangle
        return slice(y1 // self.cell, (y2 - 1) // self.cell + 1), slice(x1 // self.cell, (x2 - 1) // self.cell + 1)

    def place(self, rectangle: Rectangle, tag: tuple[int, int], *, must: bool = False) -> tuple[int, int] | None:
        """Left and top of a free place at a box for a tag (width, height), which is then taken.

        Among the places at the four corners, outside and inside, moved into the image where they leave it, the one
        that hides least wins; earlier ones a little preferred. With `must` a tag may cover others, as little as can be.
        """
        (x1, y1, x2, y2), (width, height) = rectangle, tag
        right, lowest = max(0, self.width - width), max(0, self.height - height)
        best, least = None, math.inf
        corners = (
            (x1, y1 - height),
            (x2 - width, y1 - height),
            (x1, y1),
            (x2 - width, y1),
            (x1, y2),
            (x2 - width, y2),
            (x1, y2 - height),
            (x2 - width, y2 - height),
        )
        for order, (x, y) in enumerate(corners):
            x, y = min(max(x, 0), right), min(max(y, 0), lowest)
            covered = int(np.count_nonzero(self.taken[y : y + height, x : x + width]))
            hidden = float(self.objects[self._cells((x, y, x + width, y + height))].sum())
            if (covered or hidden > MOST_HIDDEN) and not must:
                continue
            cost = 0.04 * order + hidden + 10 * covered / (width * height)
            if cost < least:
                best, least = (x, y), cost
        if best is not None:
            self.taken[best[1] : best[1] + height, best[0] : best[0] + width] = True
        return best


@cache
def font_of(size: int, ascii_only: bool) -> Font:
    """Pillow's built-in font; it knows ASCII only, so other names take the DejaVu Sans that matplotlib carries."""
    matplotlib = None if ascii_only else importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.submodule_search_locations:
        path = Path(matplotlib.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def text_width(text: str, font: Font) -> int:
    """Width of a text in pixels."""
    return round(font.getlength(text))


def shortened(text: str, font: Font, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if text_width(text, font) <= width:
        return text
    while text and text_width(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


def class_colour(label: int) -> Colour:
    """The colour (red, green, blue) of a class index, the same in every image; repeats after 64 classes."""
    return PALETTE[label % NUM_COLOURS]


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever is easier to read on a background, by its relative luminance.

    The threshold lies above the 0.179 of equal WCAG 2 contrast, which puts black on saturated middle tones.
    """
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.25 else (255, 255, 255)


def save(image: Image.Image, path: str | Path) -> None:
    """Write an image in the format of its file's suffix: .jpg, .png, .webp, .bmp or .tif.

    JPEG and WebP are written without loss of colour resolution, which would blur thin coloured lines. Raises ValueError
    for another suffix.
    """
    path = Path(path)
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ValueError(f"{path}: images are written as {', '.join(FORMATS)}, not as {path.suffix or 'no suffix'!r}")
    options: dict[str, Any] = {"JPEG": {"quality": 90, "subsampling": 0}, "WEBP": {"quality": 90}}.get(form, {})
    image.save(path, format=form, **options)
