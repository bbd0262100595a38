"""Detections: padded, in network pixels, as a network gives them, and in the pixels of each original image.

Shape legend: B = images, N = detections at most, D = detections, M = side of a mask grid, S = semantic classes, H W =
height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from PIL import Image
from torch import Tensor

from boxwright.data.image_io.any_image import ImageLike
from boxwright.ops.keypoints import decode_heatmaps
from boxwright.ops.mask_paste import Paste, mask_polygons, paste_masks
from boxwright.ops.semantic import semantic_labels
from boxwright.structures.classes import Classes
from boxwright.structures.detection import Detection
from boxwright.structures.image_batch import ImageBatch, require
from boxwright.structures.masks import CroppedMask
from boxwright.structures.panoptic import Panoptic, PanopticSettings, merge_panoptic
from boxwright.structures.rows import Rows, has_field, rows_of
from boxwright.visualize.drawing import draw
from boxwright.wording import counted

SEMANTIC_STRIDE = 4
"""Network pixels to a cell of `PaddedDetections.semantic`, along each axis."""


class PaddedDetections(NamedTuple):
    """Detections of a batch at fixed ranks, best first: boxes (B, N, 4), scores (B, N), labels (B, N), counts (B,).

    Rows from `counts` on are padding: box 0, score 0, label -1. Boxes are in network pixels. `masks`
    (B, N, M, M), where a detector gives them, are probabilities on a grid over each box; `heatmaps` (B, N, P, M, M), of
    a keypoint detector, logits over each box of where its P keypoints are; `semantic` (B, S, h, w), of a model with
    semantic maps, logits of its S classes at stride 4.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor
    masks: Tensor | None = None
    heatmaps: Tensor | None = None
    semantic: Tensor | None = None

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
        """Detections of each image on the CPU, in the pixels of the original; masks are pasted and cropped.

        Keypoints are decoded in network pixels, as the references do, and then moved. Semantic maps are labelled where
        their logits are, and merged with the masks as `panoptic` says, if it is given.
        """
        in_network, scores, labels, numbers, grids, heatmaps, _ = self._replace(semantic=None).cpu()
        counts = numbers.tolist()
        scale = images.scale_xy.cpu().repeat(1, 2)[:, None]  # (B, 1, 4)
        offset = images.offset_xy.cpu().repeat(1, 2)[:, None]
        boxes = (in_network - offset) / scale
        found = []
        for image, (height, width) in enumerate(images.original_hw.tolist()):
            rows = slice(0, counts[image])
            limits = torch.tensor([width, height, width, height])
            own = boxes[image, rows].clamp(min=0).minimum(limits)
            masks = None
            if grids is not None:
                # into the box before clipping: a mask that leaves the image must not be squeezed
                pasted = paste_masks(grids[image, rows], boxes[image, rows], (height, width), how=paste)
                masks = tuple(CroppedMask(*part) for part in pasted)
            points = None
            if heatmaps is not None:
                points = decode_heatmaps(heatmaps[image, rows].float(), in_network[image, rows])
                points[..., :2] = (points[..., :2] - offset[image, 0, :2]) / scale[image, 0, :2]
            semantic = self._labels_of(image, images)
            merged = None
            if panoptic is not None and semantic is not None and masks is not None:
                merged = merge_panoptic(masks, scores[image, rows], labels[image, rows], semantic, panoptic)
            found.append(
                Detections(
                    own, scores[image, rows], labels[image, rows], (height, width), masks=masks, keypoints=points,
                    semantic=semantic, panoptic=merged,
                )
            )  # fmt: skip
        return found

    def _labels_of(self, image: int, images: ImageBatch) -> Tensor | None:
        """The semantic map (H, W) uint8 of one image on the CPU, at the pixels of the original."""
        if self.semantic is None:
            return None
        size_hw, original_hw, scale_xy, offset_xy = (
            part[image].tolist()
            for part in (images.sizes_hw, images.original_hw, images.scale_xy, images.offset_xy)
        )  # fmt: skip
        labels = semantic_labels(self.semantic[image], SEMANTIC_STRIDE, size_hw, original_hw, scale_xy, offset_xy)
        return labels.cpu()


@dataclass(frozen=True, slots=True)
class Detections:
    """The detections in one image, best first: boxes (D, 4), scores (D,), labels (D,), masks and keypoints if any.

    `semantic` (H, W) uint8, where the model gives it, has an index into `classes.semantic_names` for each pixel (255
    where the network did not see), and `panoptic` the segments that masks and semantic map were merged to.

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

    def __post_init__(self) -> None:
        count = len(self.boxes)
        for name, expected in (("boxes", (count, 4)), ("scores", (count,)), ("labels", (count,))):
            got = tuple(getattr(self, name).shape)
            if got != expected:
                raise ValueError(f"{name}: expected {'(D, 4)' if name == 'boxes' else expected}, got {got}")
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
        points = (
            None if self.keypoints is None else tuple((x, y, score) for x, y, score in self.keypoints[row].tolist())
        )
        return Detection((x1, y1, x2, y2), self.scores[row].item(), label, self._name(label), mask, points)

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
        points = None if self.keypoints is None else self.keypoints[keep]
        panoptic = self.panoptic
        if panoptic is not None:
            panoptic = panoptic.select(torch.arange(len(self), device=keep.device)[keep].tolist())
        return Detections(
            *chosen, self.size_hw, self.classes, masks, self.path, points, self.semantic, panoptic
        )  # fmt: skip

    def above(self, score: float) -> Detections:
        """The detections whose score is at least `score`."""
        return self.select(self.scores >= score)

    def whole_masks(self) -> Tensor | None:
        """Masks of the size of the image (D, H, W) bool, None if there are none."""
        if not isinstance(self.masks, tuple):
            return self.masks
        planes = torch.zeros(len(self), *self.size_hw, dtype=torch.bool)
        for plane, mask in zip(planes, self.masks, strict=True):
            mask.draw(plane)
        return planes

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
        pixel to the left and up, since COCO counts from the centre of a pixel. Raises ValueError without an id where no
        file is known.
        """
        if image_id is None:
            require(self.path is not None, "to_coco: these detections are of no file: give the id of their image")
            image_id = Path(str(self.path)).stem
        ids = self.classes.ids if self.classes else None
        rows: list[dict[str, Any]] = []
        for index, (box, score, label) in enumerate(
            zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = box
            row = {
                "image_id": image_id,
                "category_id": ids[label] if ids else label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            if self.masks is not None:
                mask = self.mask(index)
                row["segmentation"] = (
                    mask_polygons(mask.bitmap, mask.x, mask.y) if polygons else mask.encoded(self.size_hw)
                )
            if self.keypoints is not None:
                points = self.keypoints[index].double() - torch.tensor([0.5, 0.5, 0.0])
                row["keypoints"] = points.flatten().tolist()
            rows.append(row)
        return rows

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, for its trackers, annotators and zones.

        Raises ImportError where the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision() needs the package supervision: pip install supervision") from error
        masks = self.whole_masks()
        return supervision.Detections(
            xyxy=self.boxes.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            mask=None if masks is None else masks.cpu().numpy(),
            data={"class_name": self.names},
        )
