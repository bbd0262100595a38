"""Four images in one: each shows a random part of itself in one quadrant, around a random centre.

It shows the model small and cropped objects from little data. Randomness comes from torch's global generator only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.data.moved_objects import MovedObjects
from boxwright.data.transforms import Sample, on_canvas, on_window, place_proposals
from boxwright.ops.image import Placement
from boxwright.structures import GroundTruth


@dataclass(frozen=True, slots=True)
class Mosaic:
    """With probability `p`, a sample combined with three other random ones, at the size of the sample.

    low, high: scale of the images relative to the canvas; an image that would not fill its quadrant is enlarged.
    min_visibility: the fraction of a box that must be visible for the object to stay.
    """

    p: float = 1.0
    low: float = 0.5
    high: float = 1.0
    min_visibility: float = 0.3

    def __call__(self, fetch: Callable[[int], Sample], count: int, sample: Sample) -> Sample:
        """The mosaic of `sample` and three of the `count` samples that `fetch` returns by index."""
        if bool(torch.rand(()) >= self.p) or min(sample.size_hw) < 4:  # too small for four quadrants
            return sample
        others = [fetch(index) for index in torch.randint(count, (3,)).tolist()]
        order = torch.randperm(4).tolist()
        four = [sample, *others]
        return mosaic(
            [four[index] for index in order],
            sample.size_hw,
            scales=(self.low, self.high),
            min_visibility=self.min_visibility,
        )


def mosaic(
    samples: Sequence[Sample],
    size_hw: tuple[int, int],
    *,
    scales: tuple[float, float] = (0.5, 1.0),
    min_visibility: float = 0.3,
) -> Sample:
    """Four samples on one canvas of `size_hw`: top left, top right, bottom left, bottom right of a random centre."""
    if len(samples) != 4:
        raise ValueError(f"a mosaic takes 4 images, got {len(samples)}")
    height, width = size_hw
    if height < 4 or width < 4:
        raise ValueError(f"a mosaic needs a canvas of at least 4 x 4 pixels, got {height} x {width}")
    across, down = (0.3 + 0.4 * torch.rand(2)).tolist()
    x, y = round(width * across), round(height * down)
    parts, ground_truths, proposals = [], [], []
    quadrants = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    for sample, (x1, y1, x2, y2) in zip(samples, quadrants, strict=True):
        placement = _fill(sample.size_hw, size_hw, (x1, y1, x2, y2), scales)
        parts.append((sample.image, placement))
        ground_truths.append(on_window(sample.ground_truth, placement, size_hw, min_visibility))
        placed = place_proposals(sample.proposals, placement)
        proposals += [] if placed is None else [placed]
    canvas = on_canvas(size_hw, parts)
    return Sample(canvas, join_ground_truths(ground_truths), torch.cat(proposals) if proposals else None)


def _fill(
    image_hw: tuple[int, int],
    canvas_hw: tuple[int, int],
    quadrant: tuple[int, int, int, int],
    scales: tuple[float, float],
) -> Placement:
    """A random window of an image, at a random scale, that fills a quadrant of the canvas; aspect kept."""
    x1, y1, x2, y2 = quadrant
    size_hw = (y2 - y1, x2 - x1)
    fit = min(canvas_hw[0] / image_hw[0], canvas_hw[1] / image_hw[1])
    scale, across, down = torch.rand(3).tolist()
    scale = fit * (scales[0] + (scales[1] - scales[0]) * scale)
    scale = max(scale, size_hw[0] / image_hw[0], size_hw[1] / image_hw[1])
    height = min(image_hw[0], max(1, round(size_hw[0] / scale)))
    width = min(image_hw[1], max(1, round(size_hw[1] / scale)))
    left, top = round((image_hw[1] - width) * across), round((image_hw[0] - height) * down)
    return Placement((left, top, left + width, top + height), size_hw, (x1, y1))


def join_ground_truths(several: Sequence[GroundTruth | MovedObjects]) -> GroundTruth | MovedObjects:
    """The ground truth of several images on one canvas; masks are kept if every image with objects has them."""
    moved = [one for one in several if isinstance(one, MovedObjects)]
    if moved:
        return MovedObjects.joined(moved)
    ground_truths = [one for one in several if isinstance(one, GroundTruth)]
    some = any(ground_truth.masks is not None for ground_truth in ground_truths)
    every = all(ground_truth.masks is not None for ground_truth in ground_truths if len(ground_truth))
    masks = (
        tuple(mask for ground_truth in ground_truths for mask in ground_truth.masks or ()) if some and every else None
    )
    return GroundTruth(
        torch.cat([ground_truth.boxes for ground_truth in ground_truths]),
        torch.cat([ground_truth.labels for ground_truth in ground_truths]),
        torch.cat([ground_truth.ignore for ground_truth in ground_truths]),
        masks,
        _joined("keypoints", ground_truths),
        _joined_maps(ground_truths),
        _joined("rotated", ground_truths),
    )


def _joined(field: str, ground_truths: Sequence[GroundTruth]) -> Tensor | None:
    """Keypoints or rotated boxes of all objects, if every image with objects has them."""
    given = [rows for one in ground_truths if (rows := getattr(one, field)) is not None]
    every = all(field in one for one in ground_truths if len(one))
    return torch.cat(given) if given and every else None


def _joined_maps(ground_truths: Sequence[GroundTruth]) -> Tensor | None:
    """The map of a canvas of which every image has another part, and 255 elsewhere."""
    given = [one.semantic for one in ground_truths if one.semantic is not None]
    return torch.stack(given).amin(0) if given else None
