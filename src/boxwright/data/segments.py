"""The segments of an image's ground truth: every pixel belongs to one object, one class of stuff, or nothing.

Shape legend: H W = size of the image, N = segments. Labels of segments count the classes of objects, then stuff.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.structures import Classes, GroundTruth
from boxwright.structures.classes import IGNORED


class Segments(NamedTuple):
    """A map (H, W) int32 with 0 where there is nothing and n for the n-th segment, and the segments' labels and flags.

    `labels` are indices into `Classes.names + Classes.stuff`; a `crowd` is a region of several objects.
    """

    map: Tensor
    labels: tuple[int, ...]
    crowd: tuple[bool, ...]


def segments_of(ground_truth: GroundTruth, classes: Classes) -> Segments:
    """The segments of an image with masks and a semantic map; a later object covers an earlier one, and objects stuff.

    A pixel that the semantic map calls an object and that no mask has belongs to nothing. Segments without a pixel are
    left out. Raises ValueError without a semantic map, or where objects have no masks.
    """
    semantic = ground_truth.semantic
    if semantic is None or (len(ground_truth) and ground_truth.masks is None):
        raise ValueError("segments: expected ground truth with a semantic map and masks of its objects")
    plane = torch.zeros(semantic.shape, dtype=torch.int32)
    labels, crowd = ground_truth.labels.tolist(), ground_truth.ignore.tolist()
    for number, mask in enumerate(ground_truth.masks or (), start=1):
        height, width = mask.bitmap.shape
        plane[mask.y : mask.y + height, mask.x : mask.x + width][mask.bitmap] = number
    first = len(classes.semantic_names) - len(classes.stuff)
    for label in torch.bincount(semantic.flatten()).nonzero().flatten().tolist():
        if first <= label < IGNORED:
            labels.append(len(classes.names) + label - first)
            crowd.append(False)
            plane[(semantic == label) & (plane == 0)] = len(labels)
    areas = torch.bincount(plane.flatten(), minlength=len(labels) + 1)
    kept = [number for number in range(1, len(labels) + 1) if areas[number]]
    renumbered = torch.zeros(len(labels) + 1, dtype=torch.int32)
    renumbered[kept] = torch.arange(1, len(kept) + 1, dtype=torch.int32)
    return Segments(
        renumbered[plane.long()],
        tuple(labels[number - 1] for number in kept),
        tuple(crowd[number - 1] for number in kept),
    )
