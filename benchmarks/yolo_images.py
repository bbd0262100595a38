"""The peer's way of loading: the augmentation that Ultralytics documents as the default of its trainer, re-stated.

Images are decoded by OpenCV and resized to the long side once (`cache=ram` keeps them); four of them make a mosaic
around a random point, which is scaled (0.5), shifted (0.1), cut to the size of the network in one affine warp, jittered
in hue, saturation and value (0.015, 0.7, 0.4), and flipped. Written from its documentation, not from its code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.records import Split

GREY = 114
HUE, SATURATION, VALUE = 0.015, 0.7, 0.4
SCALE, TRANSLATE = 0.5, 0.1


class YoloImages(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """A split as pixels (3, S, S) uint8, boxes (G, 4) and labels (G,), S the long side; needs OpenCV."""

    def __init__(self, part: Split, size: int, *, cache: bool) -> None:
        import cv2

        cv2.setNumThreads(0)
        self._cv2: Any = cv2
        self.records, self.size = part.records, size
        self._kept = [self._read(index) for index in range(len(part.records))] if cache else None

    def __len__(self) -> int:
        return len(self.records)

    def _read(self, index: int) -> tuple[Any, Any, Any]:
        cv2 = self._cv2
        image = cv2.imread(str(self.records[index].path))
        height, width = image.shape[:2]
        ground_truth = ground_truth_of(self.records[index], (height, width))
        ratio = self.size / max(height, width)
        if ratio != 1:
            image = cv2.resize(image, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_LINEAR)
        return image, ground_truth.boxes.numpy() * ratio, ground_truth.labels.numpy()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        cv2, size = self._cv2, self.size
        canvas = np.full((2 * size, 2 * size, 3), GREY, np.uint8)
        centre_x, centre_y = np.random.uniform(0.5 * size, 1.5 * size, 2).astype(int)
        boxes, labels = [], []
        for place, row in enumerate([index, *np.random.randint(0, len(self), 3)]):
            image, own, names = self._read(row) if self._kept is None else self._kept[row]
            height, width = image.shape[:2]
            left = centre_x - width if place % 2 == 0 else centre_x
            top = centre_y - height if place < 2 else centre_y
            x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, 2 * size), min(top + height, 2 * size)
            canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
            boxes.append(own + np.array([left, top, left, top], np.float32))
            labels.append(names)
        scale = np.random.uniform(1 - SCALE, 1 + SCALE)
        shift = np.random.uniform(0.5 - TRANSLATE, 0.5 + TRANSLATE, 2) * size - scale * size
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
        pixels = cv2.warpAffine(canvas, matrix, (size, size), borderValue=(GREY,) * 3)
        moved = np.concatenate(boxes) * scale + np.tile(shift, 2)
        kept = moved.clip(0, size)
        stays = (kept[:, 2:] - kept[:, :2]).prod(1) > 0.1 * (moved[:, 2:] - moved[:, :2]).prod(1)
        kept, names = kept[stays], np.concatenate(labels)[stays]
        pixels = self._other_colours(pixels)
        if np.random.rand() < 0.5:
            pixels = pixels[:, ::-1]
            kept[:, [0, 2]] = size - kept[:, [2, 0]]
        rgb = np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1))
        return torch.from_numpy(rgb), torch.from_numpy(kept), torch.from_numpy(names)

    def _other_colours(self, pixels: Any) -> Any:
        cv2 = self._cv2
        gains = 1 + np.random.uniform(-1, 1, 3) * (HUE, SATURATION, VALUE)
        levels = np.arange(256)
        tables = [(levels * gains[0] % 180), *((levels * gain).clip(0, 255) for gain in gains[1:])]
        planes = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV))
        changed = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
        return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR)
