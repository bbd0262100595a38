"""Semantic segmentation: intersection over union of each class, from a confusion matrix that adds up over images.

Shape legend: K = labels, H W = size of an image. A confusion matrix is (K, K + 1) int64: pixels by their true label
(rows) and their predicted one (columns), the last column for pixels without a prediction. Pixels of true label 255
count for nothing (Long, Shelhamer, Darrell, "Fully convolutional networks", CVPR 2015, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwright.structures.classes import IGNORED


def label_confusion(found: Tensor, ground_truth: Tensor, num_labels: int) -> Tensor:
    """The confusion matrix (K, K + 1) of predicted labels (H, W) and true ones; a prediction from K on is none.

    Raises ValueError for maps of different sizes, or a true label that is neither below K nor 255.

    >>> label_confusion(torch.tensor([[0, 1, 255]]), torch.tensor([[0, 0, 1]]), 2).tolist()
    [[1, 1, 0], [0, 0, 1]]
    """
    if found.shape != ground_truth.shape:
        raise ValueError(f"semantic maps: predicted {tuple(found.shape)}, ground truth {tuple(ground_truth.shape)}")
    rows, columns = ground_truth.flatten().long(), found.flatten().long().clamp(max=num_labels)
    known = rows != IGNORED
    rows, columns = rows[known], columns[known]
    if len(rows) and int(rows.max()) >= num_labels:
        raise ValueError(f"semantic map: true label {int(rows.max())}, but the number of labels is {num_labels}")
    counts = torch.bincount(rows * (num_labels + 1) + columns, minlength=num_labels * (num_labels + 1))
    return counts.reshape(num_labels, num_labels + 1)


@dataclass(frozen=True, slots=True)
class SemanticResult:
    """Figures of semantic segmentation, fractions in [0, 1], or None where one is undefined.

    A class of which the ground truth has no pixel is undefined and takes no part in means, whatever is predicted.

    mean_iou: the mean of `per_class`, intersection over union. mean_accuracy: the mean of the recalls of the classes.
    pixel_accuracy: share of the pixels with the right label. frequency_weighted: IoU weighted by true pixels.
    """

    mean_iou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    frequency_weighted: float | None
    per_class: dict[str, float | None]
    per_class_accuracy: dict[str, float | None]
    pixels: dict[str, int]

    def figures(self) -> dict[str, Any]:
        """The figures under their usual names, for one JSON object."""
        return {
            "mIoU": self.mean_iou, "fwIoU": self.frequency_weighted, "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy, "per_class_IoU": self.per_class,
        }  # fmt: skip


def semantic_iou(confusion: Tensor, names: Sequence[str]) -> SemanticResult:
    """The figures of a confusion matrix (K, K + 1) over labels of these names.

    >>> semantic_iou(torch.tensor([[3, 1, 0], [0, 2, 0]]), ["sky", "road"]).per_class["sky"]
    0.75
    """
    counts = confusion.double()
    hits = counts.diagonal()
    true, predicted = counts.sum(1), counts[:, :-1].sum(0)
    present = true > 0
    iou = hits / (true + predicted - hits).clamp(min=1)
    recall = hits / true.clamp(min=1)
    total = float(true.sum())

    def by_name(values: Tensor) -> dict[str, float | None]:
        pairs = zip(names, values.tolist(), present.tolist(), strict=True)
        return {name: value if known else None for name, value, known in pairs}

    return SemanticResult(
        mean_iou=float(iou[present].mean()) if total else None,
        pixel_accuracy=float(hits.sum()) / total if total else None,
        mean_accuracy=float(recall[present].mean()) if total else None,
        frequency_weighted=float((true * iou).sum()) / total if total else None,
        per_class=by_name(iou),
        per_class_accuracy=by_name(recall),
        pixels=dict(zip(names, true.long().tolist(), strict=True)),
    )
