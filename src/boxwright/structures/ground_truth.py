"""The ground truth of one image: boxes, labels, ignore flags, masks, keypoints, labels of pixels, rotated boxes.

Shape legend: G = ground-truth boxes of the image, K = classes, P = keypoints of an object, H W = size of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import torch
from PIL import Image
from torch import Tensor

from boxwright.data.image_io.any_image import ImageLike
from boxwright.structures.classes import Classes
from boxwright.structures.detections import require
from boxwright.structures.masks import CroppedMask
from boxwright.structures.rows import Rows, has_field, rows_of
from boxwright.visualize.drawing import draw


class GroundTruthObject(NamedTuple):
    """One object of the ground truth: what iterating over `GroundTruth` gives.

    `box` is x1, y1, x2, y2 in pixels, `label` the class index; `ignore`, `mask`, `keypoints` (P, 3) and `rotated`
    as in `GroundTruth`.
    """

    box: tuple[float, float, float, float]
    label: int
    ignore: bool = False
    mask: CroppedMask | None = None
    keypoints: Tensor | None = None
    rotated: tuple[float, float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The ground truth of one image: boxes (G, 4), labels (G,) int64, ignore (G,) bool, and more if any.

    Keypoints (G, P, 3) float32 are x, y and visibility: 0 for not annotated, 1 for hidden, 2 for visible.
    `ignore` marks regions that do not count in loss and evaluation (COCO crowd, VOC difficult). `semantic` (H, W) uint8
    is the label of every pixel of the image, a number of `Classes.semantic_names`, or 255 where it is not known.
    Rotated boxes (G, 5) float32 are cx, cy, w, h and degrees in [-180, 180), counter-clockwise as seen (`ops.rotated`).
    They are never cut: `boxes` are the upright hulls of what the image shows of them. A
    number or iterating gives a `GroundTruthObject`, a slice, flags or numbers the ground truth of these objects.

    >>> ground_truth = GroundTruth.of([[0, 0, 8, 8], [2, 2, 6, 6]], [1, 0])
    >>> ground_truth[-1].box, [one.label for one in ground_truth], len(ground_truth[ground_truth.labels == 1])
    ((2.0, 2.0, 6.0, 6.0), [1, 0], 1)
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    masks: tuple[CroppedMask, ...] | None = None
    keypoints: Tensor | None = None
    semantic: Tensor | None = None
    rotated: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        require(self.boxes.shape == (count, 4), f"boxes: expected (G, 4), got {tuple(self.boxes.shape)}")
        require(self.boxes.dtype == torch.float32, f"boxes: expected float32, got {self.boxes.dtype}")
        require(self.labels.shape == (count,), f"labels: expected ({count},), got {tuple(self.labels.shape)}")
        require(self.labels.dtype == torch.int64, f"labels: expected int64, got {self.labels.dtype}")
        require(self.ignore.shape == (count,), f"ignore: expected ({count},), got {tuple(self.ignore.shape)}")
        require(self.ignore.dtype == torch.bool, f"ignore: expected bool, got {self.ignore.dtype}")
        if self.masks is not None:
            require(len(self.masks) == count, f"masks: expected {count}, got {len(self.masks)}")
        if self.keypoints is not None:
            shape, dtype = tuple(self.keypoints.shape), self.keypoints.dtype
            good = len(shape) == 3 and shape[0] == count and shape[2] == 3
            require(good, f"keypoints: expected ({count}, P, 3), got {shape}")
            require(dtype == torch.float32, f"keypoints: expected float32, got {dtype}")
        if self.semantic is not None:
            shape, dtype = tuple(self.semantic.shape), self.semantic.dtype
            good = len(shape) == 2 and dtype == torch.uint8
            require(good, f"semantic: expected (H, W) uint8, got {shape} {dtype}")
        if self.rotated is not None:
            _check_rotated(self.rotated, count)
        if count:
            bad = ~torch.isfinite(self.boxes).all(1) | (self.boxes[:, 2:] <= self.boxes[:, :2]).any(1)
            if bool(bad.any()):
                index = int(bad.nonzero()[0])
                raise ValueError(f"box {index} {self.boxes[index].tolist()}: expected finite x1 < x2 and y1 < y2")
            require(int(self.labels.min()) >= 0, f"labels: expected [0, K), got {int(self.labels.min())}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[GroundTruthObject]:
        """The objects one by one."""
        return (self[index] for index in range(len(self)))

    def __contains__(self, field: object) -> bool:
        """Whether a field is filled: `"masks" in ground_truth`."""
        return has_field(self, field)

    @overload
    def __getitem__(self, index: int) -> GroundTruthObject: ...

    @overload
    def __getitem__(self, index: Rows) -> GroundTruth: ...

    def __getitem__(self, index: int | Rows) -> GroundTruthObject | GroundTruth:
        """One object by its number; the ground truth of several by a slice, by flags (G,) or by numbers (N,).

        Raises IndexError for a number that there is not, and for flags or numbers of another kind.
        """
        rows = rows_of(index, len(self), "ground truth")
        if isinstance(rows, int):
            x1, y1, x2, y2 = self.boxes[rows].tolist()
            mask = None if self.masks is None else self.masks[rows]
            points = None if self.keypoints is None else self.keypoints[rows]
            turned = None
            if self.rotated is not None:
                cx, cy, width, height, angle = self.rotated[rows].tolist()
                turned = cx, cy, width, height, angle
            label, ignore = int(self.labels[rows]), bool(self.ignore[rows])
            return GroundTruthObject((x1, y1, x2, y2), label, ignore, mask, points, turned)
        rows = rows.to(self.boxes.device)
        masks = self.masks
        if masks is not None:
            masks = tuple(masks[row] for row in torch.arange(len(self), device=rows.device)[rows].tolist())
        points = None if self.keypoints is None else self.keypoints[rows]
        turned = None if self.rotated is None else self.rotated[rows]
        return GroundTruth(self.boxes[rows], self.labels[rows], self.ignore[rows], masks, points, self.semantic, turned)

    def mask(self, index: int) -> CroppedMask:
        """The mask of one object. Raises ValueError where there are no masks."""
        if self.masks is None:
            raise ValueError("this ground truth has no masks")
        return self.masks[index]

    def draw(self, image: ImageLike, *, classes: Classes | None = None, scale: float = 1.0) -> Image.Image:
        """The image (a path, PIL image, array or tensor) with these objects on it; see `visualize.drawing.draw`."""
        return draw(image, self, classes=classes, scale=scale)

    @classmethod
    def empty(cls) -> GroundTruth:
        """The ground truth of an image without objects."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))

    @classmethod
    def of(
        cls,
        boxes: Any,
        labels: Any,
        ignore: Any = None,
        masks: Sequence[CroppedMask] | None = None,
        keypoints: Any = None,
        semantic: Any = None,
        rotated: Any = None,
    ) -> GroundTruth:
        """Ground truth from anything tensor-like; without flags no object is ignored.

        >>> len(GroundTruth.of([[10, 20, 60, 90]], [1]))
        1
        """
        boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        labels = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
        flags = torch.zeros(len(labels)) if ignore is None else torch.as_tensor(ignore)
        points = None if keypoints is None else torch.as_tensor(keypoints, dtype=torch.float32)
        given = None if masks is None else tuple(masks)
        plane = None if semantic is None else torch.as_tensor(semantic)
        turned = None if rotated is None else torch.as_tensor(rotated, dtype=torch.float32).reshape(-1, 5)
        return cls(boxes, labels, flags.to(torch.bool).reshape(-1), given, points, plane, turned)


def _check_rotated(rotated: Tensor, count: int) -> None:
    """ValueError unless these are so many rotated boxes (G, 5)."""
    require(rotated.shape == (count, 5), f"rotated: expected ({count}, 5), got {tuple(rotated.shape)}")
    require(rotated.dtype == torch.float32, f"rotated: expected float32, got {rotated.dtype}")
    bad = ~torch.isfinite(rotated).all(1) | (rotated[:, 2:4] <= 0).any(1)
    bad |= (rotated[:, 4] < -180) | (rotated[:, 4] >= 180)
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        expected = "expected finite cx, cy, sides above 0 and degrees in [-180, 180)"
        raise ValueError(f"rotated box {index} {rotated[index].tolist()}: {expected}")
