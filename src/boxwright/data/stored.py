"""What a device makes batches of (`data.drawn`): the decoded, resized images of a split, and their ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from boxwright.data.dataset import DetectionDataset
from boxwright.data.drawn import as_pixels
from boxwright.data.inputs import image_threads
from boxwright.data.moved_objects import StoredObjects
from boxwright.ops.image import resize_plan

TOGETHER = 64
"""Files that are decoded ahead of their upload."""


@dataclass(frozen=True, slots=True)
class StoredImages:
    """All images of a split, pixel after pixel (N, 3) uint8 on a device; `starts` are the first pixels of each."""

    pixels: Tensor
    starts: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """The memory that they take."""
        return self.pixels.numel()


def store_images(images: DetectionDataset, device: torch.device) -> StoredImages:
    """Decode, resize and upload all images once. Raises ValueError or OSError for one that cannot be read."""
    sizes = [resize_plan(images.original_hw(index), images.rule).size_hw for index in range(len(images))]
    *starts, end = accumulate((height * width for height, width in sizes), initial=0)
    pixels = torch.empty((end, 3), dtype=torch.uint8, device=device)

    def decoded(indices: list[int]) -> list[Tensor]:
        return [as_pixels(image) for image in images.pixels_together(indices)]

    files = images.of_each_file()
    with image_threads() as pool:
        for first in range(0, len(files), TOGETHER):
            some = files[first : first + TOGETHER]
            for indices, made in zip(some, pool.map(decoded, some), strict=True):
                for index, image in zip(indices, made, strict=True):
                    pixels[starts[index] : starts[index] + len(image)] = image.to(device)
    return StoredImages(pixels, tuple(starts))


def store_objects(images: DetectionDataset) -> StoredObjects:
    """The ground truth of all images at network size, on the host, without masks.

    Raises ValueError or OSError for an image whose size cannot be read.
    """
    with image_threads() as pool:
        sizes = pool.map(images.original_hw, range(len(images)))
        return StoredObjects.of(images.network_ground_truth(index, hw) for index, hw in enumerate(sizes))
