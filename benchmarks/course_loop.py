"""Seed 001's own inference, re-stated: images one by one, normalised on the CPU, level by level, NMS in Python.

The network has our layers and weights, as the seed runs them: NCHW, norms not folded. What its `inference` does is kept
(the geometric mean of scores, the best class, threshold, decoding of all locations, clipping, NMS of each class).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from boxwright.ops.select import nms
from boxwright.structures import ImageBatch


class CourseImages(Dataset[tuple[Tensor, tuple[int, int]]]):
    """As the course's data set: opened by PIL, resized, a tensor, normalised."""

    def __init__(self, paths: Sequence[Path], side: int, model: Any) -> None:
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.Resize(side),
                transforms.ToTensor(),
                transforms.Normalize(model.pixel_mean.tolist(), model.pixel_std.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        image = Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), (image.height, image.width)


def detect_one_by_one(
    model: Any, paths: Sequence[Path], *, side: int, score: float, iou: float, workers: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes in original pixels, classes and scores of each image; the model must not normalise once more."""
    loader = DataLoader(CourseImages(paths, side, _Normal), batch_size=1, num_workers=workers)
    found = []
    with torch.no_grad():
        for image, (height, _) in loader:
            outputs = model(ImageBatch.of([image[0]]))
            boxes, classes, scores = _select(outputs, image.shape[2:], score, iou)
            found.append((boxes * (float(height) / image.shape[2]), classes, scores))
    return found


class _Normal:
    pixel_mean = torch.tensor([0.485, 0.456, 0.406])
    pixel_std = torch.tensor([0.229, 0.224, 0.225])


def _select(outputs: Any, size: Sequence[int], score: float, iou: float) -> tuple[Tensor, Tensor, Tensor]:
    boxes, classes, scores = [], [], []
    start = 0
    for height, width in outputs.level_sizes:
        level = slice(start, start := start + height * width)
        level_scores = torch.sqrt(
            outputs.class_logits[0, level].sigmoid() * outputs.centerness_logits[0, level, None].sigmoid()
        )
        level_scores, level_classes = level_scores.max(dim=1)
        retain = level_scores > score
        sides = outputs.distances[0, level].clip(min=0) * outputs.strides[level, None]
        centre = outputs.locations[level]
        level_boxes = torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], dim=1)[retain]
        level_boxes[:, :2] = level_boxes[:, :2].clip(min=0)
        level_boxes[:, 2] = level_boxes[:, 2].clip(max=size[1])
        level_boxes[:, 3] = level_boxes[:, 3].clip(max=size[0])
        boxes.append(level_boxes)
        classes.append(level_classes[retain])
        scores.append(level_scores[retain])
    all_boxes, all_classes, all_scores = torch.cat(boxes), torch.cat(classes), torch.cat(scores)
    keep = [torch.empty(0, dtype=torch.int64)]
    for label in all_classes.unique():
        rows = (all_classes == label).nonzero()[:, 0]
        keep.append(rows[nms(all_boxes[rows], all_scores[rows], iou)])
    kept = torch.cat(keep)
    return all_boxes[kept], all_classes[kept], all_scores[kept]
