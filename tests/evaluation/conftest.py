"""Random images for the tests of metrics."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from boxwright.structures import CroppedMask, Detections, GroundTruth


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(__file__).resolve().parents[2] / "../shared"
    if not folder.is_dir():
        pytest.skip("the folder shared does not lie beside the checkout")
    return folder.resolve()


def boxes_at(generator: torch.Generator, count: int, size_hw: tuple[int, int], largest: float = 0.6) -> torch.Tensor:
    """Boxes (count, 4) of all sizes inside the image, on quarter pixels so that xywh and back is exact."""
    height, width = size_hw
    limits = torch.tensor([width, height]) * largest
    sides = (torch.rand(count, 2, generator=generator) ** 2 * limits * 4).round() / 4 + 1
    corner = (torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - sides) * 4).floor() / 4
    return torch.cat([corner, corner + sides], 1).clamp(min=0)


@pytest.fixture(scope="session")
def random_set() -> Callable[..., tuple[list[Detections], list[GroundTruth]]]:
    """The maker of random sets: call it with a seed."""
    return make_random_set


def make_random_set(
    seed: int,
    *,
    images: int = 12,
    num_classes: int = 3,
    crowd: float = 0.1,
    ties: bool = False,
    masks: bool = False,
    most: int = 9,
) -> tuple[list[Detections], list[GroundTruth]]:
    """Ground truth and plausible detections: with jitter, some missed, some invented, some mislabelled."""
    generator = torch.Generator().manual_seed(seed)
    detections, ground_truths = [], []
    for _ in range(images):
        size_hw = (90, 120) if masks else (240, 320)
        count = int(torch.randint(0, most, (1,), generator=generator))
        boxes = boxes_at(generator, count, size_hw)
        labels = torch.randint(0, num_classes, (count,), generator=generator)
        ignore = torch.rand(count, generator=generator) < crowd
        again = torch.randint(0, max(count, 1), (2 * count,), generator=generator)[: 2 * count]
        near = boxes[again] + (torch.randn(len(again), 4, generator=generator) * 3 * 4).round() / 4
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        wild = boxes_at(generator, int(torch.randint(0, 5, (1,), generator=generator)), size_hw)
        found = torch.cat([near, wild])
        found_labels = torch.cat([labels[again], torch.randint(0, num_classes, (len(wild),), generator=generator)])
        scores = torch.rand(len(found), generator=generator)
        if ties:
            scores = (scores * 4).round() / 4
        order = torch.argsort(scores, descending=True, stable=True)
        found, scores, found_labels = found[order], scores[order], found_labels[order]
        found_masks = torch.stack([disc(box, size_hw) for box in found]) if masks and len(found) else None
        if masks and found_masks is None:
            found_masks = torch.zeros(0, *size_hw, dtype=torch.bool)
        crops = tuple(crop(box, size_hw) for box in boxes) if masks else None
        detections.append(Detections(found, scores, found_labels, size_hw, masks=found_masks))
        ground_truths.append(GroundTruth.of(boxes, labels, ignore, crops))
    return detections, ground_truths


def disc(box: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """An ellipse (H, W) that fills the box."""
    y = torch.arange(size_hw[0])[:, None] + 0.5
    x = torch.arange(size_hw[1])[None] + 0.5
    x1, y1, x2, y2 = box.tolist()
    return ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 <= 0.3


def crop(box: torch.Tensor, size_hw: tuple[int, int]) -> CroppedMask:
    mask = disc(box, size_hw)
    x1, y1 = int(box[0]), int(box[1])
    x2, y2 = min(int(box[2]) + 2, size_hw[1]), min(int(box[3]) + 2, size_hw[0])
    return CroppedMask(x1, y1, mask[y1:y2, x1:x2])
