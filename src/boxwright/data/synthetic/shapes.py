"""The synthetic shapes dataset: images with exact boxes, masks and keypoints, drawn from a seed, without any file.

An image is determined by its configuration, its seed and its index. Shape legend: G = objects of the image, H W = its
size. Boxes are tight around the visible part of each object, masks are that part; keypoints (`SKELETON`) are those of
the whole object that lie in its box, hidden or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from boxwright.data.formats.voc_masks import FOLDER, write_object_pixels
from boxwright.data.synthetic.drawing import (
    DIFFICULTIES,
    OUTLINES,
    Canvas,
    Difficulty,
    Points,
    background,
    contrasting_colour,
    draw_distractors,
    expose,
    paint,
    silhouette,
)
from boxwright.data.synthetic.stuff import STUFF, textured_regions
from boxwright.data.synthetic.write_dota import write_dota
from boxwright.data.synthetic.write_panoptic import write_maps, write_panoptic
from boxwright.data.transforms import Sample
from boxwright.ops.masks import encode_rle
from boxwright.ops.rotated import rotated_hull
from boxwright.structures import Classes, CroppedMask, GroundTruth, Skeleton
from boxwright.writing import writing

Pixels = npt.NDArray[np.uint8]
Layout = Literal["voc", "coco", "panoptic", "semantic", "dota"]

# Validation images start at this index, so that they do not depend on the number of training images.
SKELETON = Skeleton(
    ("centre", "top_left", "top_right", "bottom_right", "bottom_left"), ((1, 2), (2, 3), (3, 4), (4, 1))
)  # fmt: skip
"""The keypoints of a shape: its centre and its corners (`drawing.CORNERS`)."""
_TIP = 2.0  # pixels: a keypoint so far outside its box is the tip of a corner that smooth edges cut off
_PARTS = 8  # of a pixel, that keypoints are rounded to: exact in float32, also when half a pixel is taken off
VALIDATION_START = 1_000_000
PLACEMENT_TRIES = 25
ROTATED_ASPECT = 3.0
"""Largest ratio of the sides of a rotated object, whatever the difficulty."""


@dataclass(frozen=True, slots=True)
class ShapesConfig:
    """What the images look like: side in pixels, number of classes, difficulty, number and size of the objects.

    An object's size is the longer side of its whole box, at most 5/8 of the image, even if `max_pixels` is larger. If
    objects would hide each other too much, an image has fewer than the drawn number, but at least one. With `stuff` the
    background is of textures that are classes of stuff (`synthetic.stuff`), and the ground truth has a semantic map.
    With `rotated` objects are turned by any angle and up to three times as long as wide; the ground truth has rotated
    boxes around whole objects, and their hulls as boxes.
    """

    size: int = 256
    num_classes: int = 6
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    min_objects: int = 1
    max_objects: int = 12
    min_pixels: int = 12
    max_pixels: int = 160
    stuff: bool = False
    rotated: bool = False

    def __post_init__(self) -> None:
        if self.difficulty not in DIFFICULTIES:
            raise ValueError(f"difficulty {self.difficulty!r}: expected one of {', '.join(DIFFICULTIES)}")
        if not 1 <= self.num_classes <= len(OUTLINES):
            raise ValueError(f"{self.num_classes} classes of shapes: expected 1 to {len(OUTLINES)}")
        if not 32 <= self.size <= 4096:
            raise ValueError(f"images of {self.size} pixels: expected 32 to 4096")
        if not 1 <= self.min_objects <= self.max_objects <= 100:
            raise ValueError(
                f"{self.min_objects} to {self.max_objects} objects: expected 1 <= minimum <= maximum <= 100"
            )
        if not 6 <= self.min_pixels <= self.largest:
            raise ValueError(
                f"objects of {self.min_pixels} to {self.largest} pixels: expected 6 <= minimum <= maximum, and at "
                f"most 5/8 of the image"
            )

    @property
    def largest(self) -> int:
        """The longer side of the largest object."""
        return min(self.max_pixels, self.size * 5 // 8)

    @property
    def classes(self) -> Classes:
        """The classes, by name, as a VOC folder orders them; their ids in COCO files count from 1."""
        named = Classes.named(sorted(list(OUTLINES)[: self.num_classes]), first_id=1)
        return Classes(named.names, named.ids, stuff=STUFF) if self.stuff else named


class _Placed(NamedTuple):
    """One painted object: label, corner and size of its patch; area, keypoints and rotated box with nothing hidden."""

    label: int
    x: int
    y: int
    hw: tuple[int, int]
    area: int
    keypoints: Points
    around: tuple[float, float, float, float, float]


def draw_shapes(config: ShapesConfig, seed: int, index: int) -> tuple[Pixels, GroundTruth]:
    """Image number `index` (H, W, 3) uint8 of a seed, and its ground truth with masks and keypoints."""
    if seed < 0 or index < 0:
        raise ValueError(f"shapes: expected a seed and an index from 0, got {seed} and {index}")
    random = np.random.Generator(np.random.PCG64([seed, index]))
    level = DIFFICULTIES[config.difficulty]
    canvas = background(random, config.size, level.texture)
    textures: Pixels | None = None
    if config.stuff:  # a generator of its own: nothing else is drawn differently
        own = np.random.Generator(np.random.PCG64([seed, index, len(STUFF)]))
        canvas, textures = textured_regions(own, config.size, level.texture, level.hue_spread)
    canvas = draw_distractors(random, canvas, int(random.integers(level.distractors[0], level.distractors[1] + 1)))
    owner = np.zeros((config.size, config.size), np.uint8)  # which object is on top: its number from 1, or 0
    placed: list[_Placed] = []
    visible = np.zeros(config.max_objects + 1, np.int64)
    for _ in range(int(random.integers(config.min_objects, config.max_objects + 1))):
        _add_object(random, config, level, canvas, owner, placed, visible)
    image = expose(random, canvas, level.lighting, level.noise)
    ground_truth = _ground_truth(owner, placed)
    if config.rotated:
        ground_truth = _with_rotated(ground_truth, placed, config.size)
    if textures is not None:
        labels = np.where(owner > 0, np.uint8(0), textures + np.uint8(1))
        ground_truth = replace(ground_truth, semantic=torch.from_numpy(labels))
    return image, ground_truth


def _add_object(
    random: np.random.Generator,
    config: ShapesConfig,
    level: Difficulty,
    canvas: Canvas,
    owner: Pixels,
    placed: list[_Placed],
    visible: npt.NDArray[np.int64],
) -> None:
    """Paint one more object where it does not hide earlier ones too much, if there is such a place."""
    label = int(random.integers(config.num_classes))
    longer = config.min_pixels + (config.largest - config.min_pixels) * float(random.random())
    degrees = (180 if config.rotated else level.rotation) * float(2 * random.random() - 1)
    aspect = (ROTATED_ASPECT if config.rotated else level.aspect) ** float(2 * random.random() - 1)
    shape = silhouette(config.classes.names[label], longer, degrees, aspect)
    height, width = shape.mask.shape
    area = int(np.count_nonzero(shape.mask))
    areas = np.array([part.area for part in placed])
    cover = level.cover * float(random.random()) ** 2  # most objects find a place where they hide little
    for attempt in range(PLACEMENT_TRIES):
        limit = areas * (1 - (cover if attempt < PLACEMENT_TRIES // 2 else level.cover))
        # Up to a tenth of the patch may lie beyond each border.
        x = int(random.integers(-width // 10, max(config.size - width + width // 10, 1)))
        y = int(random.integers(-height // 10, max(config.size - height + height // 10, 1)))
        rows, columns = slice(max(y, 0), y + height), slice(max(x, 0), x + width)
        below = owner[rows, columns]
        top, left = rows.start - y, columns.start - x
        mask = shape.mask[top : top + below.shape[0], left : left + below.shape[1]]
        hidden = np.bincount(below[mask], minlength=len(placed) + 1)[1:]
        if (visible[: len(placed)] - hidden < limit).any():
            continue
        visible[: len(placed)] -= hidden
        visible[len(placed)] = int(np.count_nonzero(mask))
        under = canvas[rows, columns][mask].mean(0, dtype=np.float64).astype(np.float32)
        colour = contrasting_colour(random, under, level.contrast, label / config.num_classes, level.hue_spread)
        shading = random.random(2) * 0.3 - 0.15
        paint(canvas, shape, x, y, colour, (float(shading[0]), float(shading[1])))
        keypoints = (shape.keypoints + np.array([x, y])) * _PARTS
        cx, cy, *sides_and_angle = shape.around
        around = (x + cx, y + cy, *sides_and_angle)
        placed.append(_Placed(label, x, y, (height, width), area, keypoints.round() / _PARTS, around))
        below[mask] = len(placed)
        return


def _extent(plane: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 around the pixels of a plane that are set."""
    rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _keypoints(
    owner: Pixels, number: int, points: Points, box: tuple[int, int, int, int]
) -> list[tuple[float, float, float]]:
    """Keypoints of an object as x, y, visibility: visible, hidden (1) under another object, or not annotated (0).

    One outside the box of what is visible is not annotated, nor are two or more that are hidden: nobody could tell from
    the image where they are.
    """
    rows: list[tuple[float, float, float]] = []
    x1, y1, x2, y2 = box
    for x, y in points.tolist():
        inside = min(max(x, x1), x2), min(max(y, y1), y2)
        if max(abs(inside[0] - x), abs(inside[1] - y)) > _TIP:
            rows.append((0.0, 0.0, 0.0))
            continue
        under = owner[min(int(inside[1]), owner.shape[0] - 1), min(int(inside[0]), owner.shape[1] - 1)]
        rows.append((*inside, 1.0 if under > number else 2.0))
    hidden = sum(visible == 1 for _, _, visible in rows)
    return rows if hidden < 2 else [row if row[2] == 2 else (0.0, 0.0, 0.0) for row in rows]


def _ground_truth(owner: Pixels, placed: list[_Placed]) -> GroundTruth:
    boxes, masks, points = [], [], []
    for number, part in enumerate(placed, start=1):
        x, y = max(part.x, 0), max(part.y, 0)
        plane = owner[y : part.y + part.hw[0], x : part.x + part.hw[1]] == number
        x1, y1, x2, y2 = _extent(plane)
        box = (x + x1, y + y1, x + x2, y + y2)
        points.append(_keypoints(owner, number, part.keypoints, box))
        boxes.append(list(box))
        masks.append(CroppedMask(x + x1, y + y1, torch.from_numpy(plane[y1:y2, x1:x2].copy())))
    return GroundTruth.of(boxes, [part.label for part in placed], None, masks, points)


def _with_rotated(ground_truth: GroundTruth, placed: list[_Placed], size: int) -> GroundTruth:
    """The ground truth with rotated boxes of whole objects, and their hulls as boxes."""
    rotated = torch.tensor([part.around for part in placed]).reshape(-1, 5)
    return replace(ground_truth, boxes=rotated_hull(rotated).clamp(0, size), rotated=rotated)


@dataclass(frozen=True, slots=True)
class ShapesSource:
    """A shapes dataset without files: sample `i` is drawn on access. `start` is the index of the first image."""

    config: ShapesConfig
    seed: int
    count: int
    start: int = 0

    def __len__(self) -> int:
        return self.count

    @property
    def classes(self) -> Classes:
        """The classes of the dataset."""
        return self.config.classes

    def sample(self, index: int) -> Sample:
        """Image (3, H, W) uint8 and ground truth of one index."""
        if not 0 <= index < self.count:
            raise IndexError(f"image {index} of a shapes set of {self.count}")
        image, ground_truth = draw_shapes(self.config, self.seed, self.start + index)
        return Sample(torch.from_numpy(image).permute(2, 0, 1).contiguous(), ground_truth)


def shapes_splits(config: ShapesConfig, seed: int, train: int, val: int) -> dict[str, ShapesSource]:
    """The splits "train" and "val" of a seed: no image in common, and val does not depend on the size of train."""
    if not 1 <= train <= VALIDATION_START or val < 0:
        raise ValueError(f"shapes: expected 1 to {VALIDATION_START} training images and 0 or more validation "
                         f"images, got {train} and {val}")  # fmt: skip
    return {
        "train": ShapesSource(config, seed, train),
        "val": ShapesSource(config, seed, val, start=VALIDATION_START),
    }


def write_shapes(
    folder: Path | str,
    train: int = 800,
    val: int = 200,
    layout: Layout = "voc",
    config: ShapesConfig | None = None,
    seed: int = 0,
    progress: Callable[[str, Iterator[int], int], Iterator[int]] | None = None,
) -> Path:
    """Write a shapes dataset into a new or empty folder, in VOC or COCO layout, and return the folder.

    Images with stuff are written as COCO panoptic, or as a folder of semantic maps, and only as these; those with
    rotated boxes in DOTA's layout.
    `progress` wraps the loop over a split's images: it gets the split's name, the indices and their number. Raises
    ValueError for a folder that is not empty.
    """
    if layout not in ("voc", "coco", "panoptic", "semantic", "dota"):
        raise ValueError(f"layout {layout!r}: expected voc, coco, panoptic, semantic or dota")
    with_maps = layout in ("panoptic", "semantic")
    folder, config = Path(folder), config or ShapesConfig(stuff=with_maps, rotated=layout == "dota")
    if config.stuff != with_maps:
        wanted = f"only images with stuff, ShapesConfig(stuff={with_maps})"
        raise ValueError(f"layout {layout!r}: expected {wanted}, got stuff={config.stuff}")
    if config.rotated != (layout == "dota"):
        raise ValueError(
            f"layout {layout!r}: ShapesConfig(rotated={config.rotated}); dota has rotated boxes, no other does"
        )
    splits = shapes_splits(config, seed, train, val)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists and is not empty; choose a new folder (nothing was written)")
    for name, source in splits.items():
        if not len(source):
            continue
        image_folder = folder / ("JPEGImages" if layout == "voc" else "images")
        image_folder = image_folder / name if layout in ("semantic", "dota") else image_folder
        image_folder.mkdir(parents=True, exist_ok=True)
        indices: Iterator[int] = iter(range(len(source)))
        entries = []
        for index in progress(name, indices, len(source)) if progress else indices:
            image, ground_truth = draw_shapes(config, seed, source.start + index)
            file = f"{name}_{index:06d}.jpg"
            with writing(image_folder / file) as target:
                Image.fromarray(image).save(target, quality=95, subsampling=0)
            entries.append((file, ground_truth))
        if layout == "voc":
            _write_voc(folder, name, entries, config)
        elif layout == "coco":
            _write_coco(folder, name, entries, config)
        elif layout == "panoptic":
            write_panoptic(folder, name, entries, config.classes)
        elif layout == "dota":
            write_dota(folder, name, entries, config.classes)
        else:
            write_maps(folder, name, entries, config.classes)
    return folder


def _write_voc(folder: Path, split: str, entries: list[tuple[str, GroundTruth]], config: ShapesConfig) -> None:
    annotations, sets, masks = folder / "Annotations", folder / "ImageSets" / "Main", folder / FOLDER
    for part in (annotations, sets, masks):
        part.mkdir(parents=True, exist_ok=True)
    for file, ground_truth in entries:
        lines = [
            "<annotation>",
            f"  <filename>{escape(file)}</filename>",
            f"  <size><width>{config.size}</width><height>{config.size}</height><depth>3</depth></size>",
        ]
        for box, label in zip(ground_truth.boxes.int().tolist(), ground_truth.labels.tolist(), strict=True):
            corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box,
                                                                               strict=True))  # fmt: skip
            name = escape(config.classes.names[label])
            lines.append(f"  <object><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>")
        lines.append("</annotation>")
        with writing(annotations / f"{Path(file).stem}.xml") as labels:
            labels.write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_object_pixels(masks / f"{Path(file).stem}.png", ground_truth.masks or (), (config.size, config.size))
    stems = "".join(f"{Path(file).stem}\n" for file, _ in entries)
    with writing(sets / f"{split}.txt") as names:
        names.write_text(stems, encoding="utf-8")


def _write_coco(folder: Path, split: str, entries: list[tuple[str, GroundTruth]], config: ShapesConfig) -> None:
    classes, size = config.classes, config.size
    images = [
        {"id": number, "file_name": file, "width": size, "height": size}
        for number, (file, _) in enumerate(entries, start=1)
    ]
    rows: list[dict[str, Any]] = []
    for number, (_, ground_truth) in enumerate(entries, start=1):
        assert ground_truth.keypoints is not None
        points = ground_truth.keypoints - torch.tensor([0.5, 0.5, 0.0]) * (ground_truth.keypoints[..., 2:] > 0)
        for box, label, mask, keypoints in zip(
            ground_truth.boxes.tolist(), ground_truth.labels.tolist(), ground_truth.masks or (), points, strict=True
        ):
            plane = torch.zeros(size, size, dtype=torch.bool)
            height, width = mask.bitmap.shape
            plane[mask.y : mask.y + height, mask.x : mask.x + width] = mask.bitmap
            x1, y1, x2, y2 = box
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": number,
                    "category_id": classes.ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(mask.bitmap.sum()),
                    "iscrowd": 0,
                    "segmentation": encode_rle(plane),
                    "keypoints": keypoints.flatten().tolist(),
                    "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                }
            )
    joined = {"keypoints": list(SKELETON.names), "skeleton": [[a + 1, b + 1] for a, b in SKELETON.lines]}
    categories = [{"id": key, "name": name, **joined} for key, name in zip(classes.ids, classes.names, strict=True)]
    target = folder / "annotations" / f"instances_{split}.json"
    target.parent.mkdir(exist_ok=True)
    text = json.dumps({"images": images, "annotations": rows, "categories": categories})
    with writing(target):
        target.write_text(text, encoding="utf-8")
