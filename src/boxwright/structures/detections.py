"""Detections, and the batch of images that they are found in: to network pixels, and back.

Both are in one file because the second mapping is the inverse of the first. Shape legend: B = images, N = detections at
most, D = detections, M = side of a mask grid, P = keypoints, S = semantic classes, H W = height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from boxwright.data.image_io.any_image import ImageLike
from boxwright.ops.keypoints import decode_heatmaps
from boxwright.ops.mask_paste import Paste, paste_masks
from boxwright.ops.rotated import restore_rotated, rotated_hull
from boxwright.ops.semantic import semantic_labels
from boxwright.structures.classes import Classes
from boxwright.structures.detection import Detection, five_numbers
from boxwright.structures.masks import CroppedMask, whole_planes
from boxwright.structures.panoptic import Panoptic, PanopticSettings, merge_panoptic
from boxwright.structures.rows import Rows, has_field, rows_of
from boxwright.structures.written import as_supervision, coco_row
from boxwright.visualize.drawing import draw
from boxwright.wording import counted

SEMANTIC_STRIDE = 4
"""Network pixels to a cell of `PaddedDetections.semantic`, along each axis."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Pixels of a batch, and the mapping to the originals: network coordinates = original coordinates * scale + offset.

    pixels (B, 3, H, W) RGB, uint8 or float in [0, 1], padded at the right and bottom; sizes_hw (B, 2) without the
    padding; original_hw (B, 2); scale_xy and offset_xy (B, 2) float32. The model normalises, then zeroes the padding.
    A number or iterating gives single images without their padding, a slice, flags or numbers a smaller batch.

    >>> batch = ImageBatch.of([torch.zeros(3, 4, 6), torch.zeros(3, 5, 2)])
    >>> batch[0].shape, [tuple(image.shape) for image in batch], len(batch[1:])
    (torch.Size([3, 4, 6]), [(3, 4, 6), (3, 5, 2)], 1)
    """

    pixels: Tensor
    sizes_hw: Tensor
    original_hw: Tensor
    scale_xy: Tensor
    offset_xy: Tensor

    def __post_init__(self) -> None:
        batch = self.pixels.shape[0]  # len() would make the size a constant in an exported graph
        require(
            self.pixels.dim() == 4 and self.pixels.shape[1] == 3,
            f"pixels: expected (B, 3, H, W), got {tuple(self.pixels.shape)}",
        )
        good = self.pixels.dtype == torch.uint8 or self.pixels.is_floating_point()
        require(good, f"pixels: expected uint8 or float in [0, 1], got {self.pixels.dtype}")
        for name in ("sizes_hw", "original_hw", "scale_xy", "offset_xy"):
            shape = tuple(getattr(self, name).shape)
            require(shape == (batch, 2), f"{name}: expected {(batch, 2)}, got {shape}")

    def __len__(self) -> int:
        return len(self.pixels)

    __contains__ = None  # `in` would compare pixels, image by image

    def __iter__(self) -> Iterator[Tensor]:
        """The images one by one, without padding: (3, h, w) each."""
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: Rows) -> ImageBatch: ...

    def __getitem__(self, index: int | Rows) -> Tensor | ImageBatch:
        """One image (3, h, w) by its number, without padding, a view; a batch, padded as this one, by `Rows`."""
        rows = rows_of(index, len(self), "images")
        if isinstance(rows, int):
            height, width = self.sizes_hw[rows].tolist()
            return self.pixels[rows, :, :height, :width]
        return self._each(lambda tensor: tensor[rows.to(tensor.device)])

    @classmethod
    def of(
        cls,
        images: Sequence[Tensor],
        original_hw: Sequence[tuple[int, int]] | None = None,
        scale_xy: Sequence[tuple[float, float]] | None = None,
        offset_xy: Sequence[tuple[float, float]] | None = None,
        *,
        multiple_of: int = 1,
    ) -> ImageBatch:
        """Stack images (3, h, w), padded at the right and bottom to the largest size, rounded up to `multiple_of`."""
        require(len(images) > 0, "a batch needs at least one image")
        for index, image in enumerate(images):
            good = image.dim() == 3 and image.shape[0] == 3
            require(good, f"image {index}: expected (3, H, W), got {tuple(image.shape)}")
            require(image.dtype == images[0].dtype, f"image {index}: {image.dtype} in a batch of {images[0].dtype}")
        sizes = [(int(p.shape[1]), int(p.shape[2])) for p in images]
        height = -(-max(h for h, _ in sizes) // multiple_of) * multiple_of
        width = -(-max(w for _, w in sizes) // multiple_of) * multiple_of
        pixels = images[0].new_zeros((len(images), 3, height, width))
        for index, image in enumerate(images):
            pixels[index, :, : sizes[index][0], : sizes[index][1]] = image
        count = len(images)
        return cls(
            pixels=pixels,
            sizes_hw=torch.tensor(sizes, dtype=torch.int64),
            original_hw=torch.tensor(original_hw or sizes, dtype=torch.int64),
            scale_xy=torch.tensor(scale_xy or [(1.0, 1.0)] * count, dtype=torch.float32),
            offset_xy=torch.tensor(offset_xy or [(0.0, 0.0)] * count, dtype=torch.float32),
        )

    def normalised(self, mean: Tensor | Sequence[float], std: Tensor | Sequence[float], multiple_of: int = 1) -> Tensor:
        """Pixels (B, 3, H, W) float minus mean over std (three numbers in [0, 1] each), and zero outside each image.

        Zero after normalisation is what convolutions pad with, so padding looks like the border of an image alone.
        Sides are padded to `multiple_of`, with which some libraries trained their checkpoints.
        """
        unit = 255.0 if self.pixels.dtype == torch.uint8 else 1.0
        device = self.pixels.device
        mean, std = (torch.as_tensor(v, dtype=torch.float32, device=device)[:, None, None] for v in (mean, std))
        normal = torch.addcmul(-mean / std, self.pixels.float(), 1 / (unit * std))
        height, width = self.pixels.shape[-2:]
        rows = torch.arange(height, device=device) < self.sizes_hw[:, :1]  # (B, H)
        columns = torch.arange(width, device=device) < self.sizes_hw[:, 1:]  # (B, W)
        normal = normal * (rows[:, None, :, None] & columns[:, None, None, :])
        if multiple_of > 1:
            normal = F.pad(normal, (0, -width % multiple_of, 0, -height % multiple_of))
        if torch.compiler.is_exporting():  # the runtime chooses the layout, which would fix sizes in the graph
            return normal
        return normal.contiguous(memory_format=torch.channels_last)

    def to_original(self, points: Tensor, first: int = 0) -> Tensor:
        """Network coordinates x, y (n, ..., 2 or 4), of the images from `first` on, in their originals, on the CPU."""
        last, pairs = first + len(points), points.shape[-1] // 2
        shape = (len(points), *[1] * (points.dim() - 2), 2 * pairs)
        scale, offset = (
            part[first:last].cpu().repeat(1, pairs).view(shape) for part in (self.scale_xy, self.offset_xy)
        )
        return (points - offset) / scale

    def semantic_labels(self, logits: Tensor, image: int) -> Tensor:
        """The semantic map (H, W) uint8 of one image from its logits (S, h, w), at its original pixels, on the CPU."""
        fields = (self.sizes_hw, self.original_hw, self.scale_xy, self.offset_xy)
        size_hw, original_hw, scale_xy, offset_xy = (part[image].tolist() for part in fields)
        return semantic_labels(logits, SEMANTIC_STRIDE, size_hw, original_hw, scale_xy, offset_xy).cpu()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ImageBatch:
        """The same batch in pinned memory, for an asynchronous copy to a GPU."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> ImageBatch:
        tensors = (self.pixels, self.sizes_hw, self.original_hw, self.scale_xy, self.offset_xy)
        return ImageBatch(*(change(tensor) for tensor in tensors))


class PaddedDetections(NamedTuple):
    """Detections of a batch at fixed ranks, best first: boxes (B, N, 4), scores (B, N), labels (B, N), counts (B,).

    Rows from `counts` on are padding: box 0, score 0, label -1. Boxes are in network pixels. `masks`
    (B, N, M, M), where a detector gives them, are probabilities on a grid over each box; `heatmaps` (B, N, P, M, M), of
    a keypoint detector, logits over each box of where its P keypoints are; `semantic` (B, S, h, w), of a model with
    semantic maps, logits of its S classes at stride 4; `rotated` (B, N, 5), the boxes that `boxes` are the hulls of.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor
    masks: Tensor | None = None
    heatmaps: Tensor | None = None
    semantic: Tensor | None = None
    rotated: Tensor | None = None

    def cpu(self) -> PaddedDetections:
        """The same detections on the CPU; waits for the device."""
        return self.each(torch.Tensor.cpu)

    def each(self, change: Callable[[Tensor], Tensor]) -> PaddedDetections:
        """The same detections with every tensor changed."""
        boxes, scores, labels, counts = (change(part) for part in self[:4])
        grids = (None if part is None else change(part) for part in self[4:])
        return PaddedDetections(boxes, scores, labels, counts, *grids)

    def restore(
        self, images: ImageBatch, paste: Paste = "exact", panoptic: PanopticSettings | None = None
    ) -> list[Detections]:
        """Detections of each image on the CPU, in the pixels of the original, with everything that their model gives.

        Masks are pasted as `paste` says, and merged with the semantic map as `panoptic` says, if it is given.
        """
        in_network, scores, labels, numbers, grids, heatmaps, _, turned = self._replace(semantic=None).cpu()
        counts = numbers.tolist()
        boxes = images.to_original(in_network)
        if turned is not None:
            turned = restore_rotated(turned, images.scale_xy, images.offset_xy, images.original_hw)
            boxes = rotated_hull(turned)
        found = []
        for image, (height, width) in enumerate(images.original_hw.tolist()):
            rows = slice(0, counts[image])
            own, limits = boxes[image, rows], torch.tensor([width, height, width, height])
            masks = points = semantic = merged = None
            if grids is not None:
                # into the box before clipping: a mask that leaves the image must not be squeezed
                pasted = paste_masks(grids[image, rows], own, (height, width), how=paste)
                masks = tuple(CroppedMask(*part) for part in pasted)
            if heatmaps is not None:  # decoded in network pixels, as the references do, and then moved
                points = decode_heatmaps(heatmaps[image, rows].float(), in_network[image, rows])
                points[..., :2] = images.to_original(points[None, ..., :2], image)[0]
            if self.semantic is not None:  # where its logits are
                semantic = images.semantic_labels(self.semantic[image], image)
                if panoptic is not None and masks is not None:
                    merged = merge_panoptic(masks, scores[image, rows], labels[image, rows], semantic, panoptic)
            found.append(
                Detections(
                    own.clamp(min=0).minimum(limits), scores[image, rows], labels[image, rows], (height, width),
                    masks=masks, keypoints=points, semantic=semantic, panoptic=merged,
                    rotated=None if turned is None else turned[image, rows],
                )
            )  # fmt: skip
        return found


@dataclass(frozen=True, slots=True)
class Detections:
    """The detections in one image, best first: boxes (D, 4), scores (D,), labels (D,), masks and keypoints if any.

    `semantic` (H, W) uint8, where the model gives it, has an index into `classes.semantic_names` for each pixel (255
    where the network did not see), and `panoptic` the segments that masks and semantic map were merged to. `rotated`
    (D, 5) are cx, cy, w, h and degrees (`ops.rotated`), and `boxes` then their upright hulls, cut to the image.

    Boxes and masks are in the pixels of the original image of `size_hw`. Masks are (D, H, W) bool, as `predict` gives
    them, or cropped to their objects, as `stream` and evaluation keep them. Keypoints (D, P, 3) are x, y and
    a score above 0. Iterating gives single `Detection`s.

    >>> found = Detections(torch.tensor([[0.0, 0, 8, 8], [2, 2, 6, 6]]), torch.tensor([0.9, 0.4]), torch.tensor([1, 0]),
    ...                    size_hw=(10, 10), classes=Classes.named(["cat", "dog"]))
    >>> len(found), found[0].name, [one.box for one in found[1:]], found[found.scores > 0.5].names
    (2, 'dog', [(2.0, 2.0, 6.0, 6.0)], ['dog'])
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    size_hw: tuple[int, int]
    classes: Classes | None = None
    masks: Tensor | tuple[CroppedMask, ...] | None = None
    path: str | None = None
    keypoints: Tensor | None = None
    semantic: Tensor | None = None
    panoptic: Panoptic | None = None
    rotated: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        shapes = {"boxes": (count, 4), "scores": (count,), "labels": (count,), "rotated": (count, 5)}
        for name, expected in shapes.items():
            part = getattr(self, name)
            if part is not None and tuple(part.shape) != expected:
                told = "(D, 4)" if name == "boxes" else expected
                raise ValueError(f"{name}: expected {told}, got {tuple(part.shape)}")
        if isinstance(self.masks, tuple):
            require(len(self.masks) == count, f"masks: expected {count}, got {len(self.masks)}")
        elif self.masks is not None:
            planes, got = (count, *self.size_hw), tuple(self.masks.shape)
            require(got == planes, f"masks: expected {planes}, got {got}")
        if self.keypoints is not None:
            got = tuple(self.keypoints.shape)
            good = len(got) == 3 and got[0] == count and got[2] == 3
            require(good, f"keypoints: expected ({count}, P, 3), got {got}")
        merged = None if self.panoptic is None else self.panoptic.map
        for name, map_ in (("semantic", self.semantic), ("panoptic", merged)):
            if map_ is not None:
                got = tuple(map_.shape)
                require(got == tuple(self.size_hw), f"{name}: expected {tuple(self.size_hw)}, got {got}")
        if self.classes is not None and count:
            highest, known = int(self.labels.max()), len(self.classes.names)
            if highest >= known:
                raise ValueError(f"label {highest} of a detector with {counted(known, 'class')}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        """The detections one by one, best first."""
        return (self[index] for index in range(len(self)))

    def __contains__(self, field: object) -> bool:
        """Whether a field is filled: `"masks" in found`. A class is asked for by `"dog" in found.names`."""
        return has_field(self, field)

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: Rows) -> Detections: ...

    def __getitem__(self, index: int | Rows) -> Detection | Detections:
        """One detection by its number; several by a slice, by flags (D,) or by numbers (N,).

        Raises IndexError for a number that there is not, and for flags or numbers of another kind.
        """
        row = rows_of(index, len(self), "detections")
        if not isinstance(row, int):
            return self.select(row)
        x1, y1, x2, y2 = self.boxes[row].tolist()
        label = int(self.labels[row])
        mask = None if self.masks is None else self.mask(row)
        points = None if self.keypoints is None else tuple((x, y, s) for x, y, s in self.keypoints[row].tolist())
        turned = None if self.rotated is None else five_numbers(self.rotated[row])
        return Detection((x1, y1, x2, y2), self.scores[row].item(), label, self._name(label), mask, points, turned)

    @property
    def names(self) -> list[str]:
        """The class name of each detection (its label as text if there are no names)."""
        return [self._name(label) for label in self.labels.tolist()]

    def _name(self, label: int) -> str:
        return self.classes.names[label] if self.classes else str(label)

    def select(self, keep: Tensor) -> Detections:
        """The detections picked by flags (D,) or by numbers (N,)."""
        keep = keep.to(self.boxes.device)
        masks: Tensor | tuple[CroppedMask, ...] | None = self.masks
        if isinstance(masks, tuple):
            masks = tuple(masks[row] for row in torch.arange(len(self), device=keep.device)[keep].tolist())
        elif masks is not None:
            masks = masks[keep]
        chosen = (self.boxes[keep], self.scores[keep], self.labels[keep])
        points, turned = (None if part is None else part[keep] for part in (self.keypoints, self.rotated))
        panoptic = self.panoptic
        if panoptic is not None:
            panoptic = panoptic.select(torch.arange(len(self), device=keep.device)[keep].tolist())
        return Detections(
            *chosen, self.size_hw, self.classes, masks, self.path, points, self.semantic, panoptic, turned
        )  # fmt: skip

    def above(self, score: float) -> Detections:
        """The detections whose score is at least `score`."""
        return self.select(self.scores >= score)

    def whole_masks(self) -> Tensor | None:
        """Masks of the size of the image (D, H, W) bool, None if there are none."""
        return whole_planes(self.masks, self.size_hw) if isinstance(self.masks, tuple) else self.masks

    def mask(self, index: int) -> CroppedMask:
        """The mask of one detection, cropped to its object. Raises ValueError where there are no masks."""
        if self.masks is None:
            raise ValueError("these detections have no masks: their detector predicts boxes only")
        mask = self.masks[index]
        return mask if isinstance(mask, CroppedMask) else CroppedMask(0, 0, mask).tight()

    def draw(self, image: ImageLike, *, min_score: float = 0.0, scale: float = 1.0, masks: bool = True) -> Image.Image:
        """The image that these were found in, with boxes, masks and label tags on it, as a Pillow image.

        `image` is a path, a PIL image, an array or a tensor, as for `Detector.predict`; more in `visualize.drawing`.

        >>> found.draw("street.jpg").save("drawn.jpg")  # doctest: +SKIP
        """
        return draw(image, self, min_score=min_score, scale=scale, masks=masks)

    def to_coco(self, image_id: int | str | None = None, *, polygons: bool = False) -> list[dict[str, Any]]:
        """Rows of a COCO result file: the category ids of the user's own files, boxes as x, y, width, height.

        The image's id is the name of its file without suffix if not given. Masks are written as compressed run-length
        codes, or as polygons along the edges of their pixels; keypoints as x, y, score one after the other, half a
        pixel to the left and up, since COCO counts from the centre of a pixel; a rotated box as `rotated`, cx, cy, w, h
        and degrees. Raises ValueError without an id where no file is known.
        """
        if image_id is None:
            require(self.path is not None, "to_coco: these detections are of no file: give the id of their image")
            image_id = Path(str(self.path)).stem
        ids = self.classes.ids if self.classes else None
        return [
            coco_row(
                image_id, ids[label] if ids else label, self.boxes[index], score,
                None if self.masks is None else self.mask(index), self.size_hw,
                None if self.keypoints is None else self.keypoints[index], polygons=polygons,
                rotated=None if self.rotated is None else self.rotated[index],
            )
            for index, (label, score) in enumerate(zip(self.labels.tolist(), self.scores.tolist(), strict=True))
        ]  # fmt: skip

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, for its trackers, annotators and zones.

        Keypoints are its `data["keypoints"]` (D, P, 3) x, y, score, corners of rotated boxes its `data["xyxyxyxy"]`
        (D, 4, 2). Raises ImportError where the package supervision is not installed.
        """
        parts, more = (self.boxes, self.scores, self.labels, self.names), (self.keypoints, self.rotated)
        return as_supervision(*parts, self.whole_masks(), *more)
