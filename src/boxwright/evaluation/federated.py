"""Federated evaluation, as of LVIS: in each image only the classes count that are known to be in it or absent from it.

Gupta, Dollar, Girshick, "LVIS", CVPR 2019, section 3 (federated dataset) and lvis-api: an image says of each class that
it shows objects, that it is absent, or nothing. Detections of a class of which it says nothing count neither as right
nor as wrong; unmatched ones of a class whose annotation is incomplete do not count either; and only the best 300
detections of an image are looked at, over all its classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from boxwright.data.records import Federated
from boxwright.structures import Detections, GroundTruth

MOST_DETECTIONS = 300
"""LVIS's limit, for an image with all its classes."""


@dataclass(frozen=True, slots=True)
class Federation:
    """What is known of the classes of each image, in the images' order, and the frequency (r, c, f) of each class.

    `frequencies` are empty where the data gives none. An image of which nothing is said (None) counts with all classes.
    `limit`: so many detections of an image are evaluated, the best of all classes.
    """

    images: tuple[Federated | None, ...]
    frequencies: tuple[str, ...] = ()
    limit: int = MOST_DETECTIONS

    @classmethod
    def of(cls, images: Sequence[Federated | None], frequencies: tuple[str, ...]) -> Federation | None:
        """That of images and classes, None where nothing is federated."""
        return cls(tuple(images), frequencies) if frequencies or any(image is not None for image in images) else None


def counted(
    detections: Sequence[Detections], ground_truths: Sequence[GroundTruth], federation: Federation | None
) -> tuple[Sequence[Detections], Sequence[GroundTruth]]:
    """What counts of boxes under a federation, for COCO's matching; both as they are without one."""
    if federation is None:
        return detections, ground_truths
    kept = counted_detections(detections, ground_truths, federation)
    return kept, with_open_classes(kept, ground_truths, federation)


def counted_detections(
    detections: Sequence[Detections], ground_truths: Sequence[GroundTruth], federation: Federation
) -> list[Detections]:
    """The best detections of each image, up to the limit, without those of a class of which the image says nothing."""
    kept = []
    for found, ground_truth, known in zip(detections, ground_truths, federation.images, strict=True):
        best = found.select(torch.argsort(found.scores, descending=True, stable=True)[: federation.limit])
        if known is not None:
            said = torch.tensor(sorted({*ground_truth.labels.tolist(), *known.absent}), dtype=torch.int64)
            best = best.select(torch.isin(best.labels.cpu(), said).to(best.labels.device))
        kept.append(best)
    return kept


def with_open_classes(
    detections: Sequence[Detections], ground_truths: Sequence[GroundTruth], federation: Federation
) -> list[GroundTruth]:
    """The boxes with an ignore region over the whole image for each class that is annotated incompletely.

    So COCO's matching, which the table and the curves use, ignores unmatched detections of such a class, as LVIS does.
    """
    opened = []
    for found, ground_truth, known in zip(detections, ground_truths, federation.images, strict=True):
        labels = sorted(known.incomplete & set(ground_truth.labels.tolist())) if known is not None else []
        height, width = found.size_hw
        reach = found.boxes.detach().cpu().float()
        corners = torch.cat([reach, torch.tensor([[0.0, 0.0, float(width), float(height)]])])  # files are not clipped
        whole = torch.cat([corners[:, :2].amin(0), corners[:, 2:].amax(0)])
        opened.append(
            GroundTruth(
                torch.cat([ground_truth.boxes, whole.expand(len(labels), 4)]),
                torch.cat([ground_truth.labels, torch.tensor(labels, dtype=torch.int64)]),
                torch.cat([ground_truth.ignore, torch.ones(len(labels), dtype=torch.bool)]),
            )
        )
    return opened
