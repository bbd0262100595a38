"""A batch of images as a network sees it, and the mapping to the original images, which `detections` inverts.

Shape legend: B = images, H W = height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.structures.rows import Rows, rows_of


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Pixels of a batch, and the mapping to the originals: network coordinates = original coordinates * scale + offset.

    pixels (B, 3, H, W) RGB, uint8 or float in [0, 1], padded at the right and bottom; sizes_hw (B, 2) without the
    padding; original_hw (B, 2); scale_xy and offset_xy (B, 2) float32. The model normalises, then zeroes the padding.
    A number or iterating gives single images without their padding, a slice, flags or numbers a smaller batch.

    >>> batch = ImageBatch.of([torch.zeros(3, 4, 6), torch.zeros(3, 5, 2)])
    >>> batch[0].shape, [tuple(image.shape) for image in batch], len(batch[1:])
    (torch.Size([3, 4, 6]), [(3, 4, 6), (3, 5, 2)], 1)
    """

    pixels: Tensor
    sizes_hw: Tensor
    original_hw: Tensor
    scale_xy: Tensor
    offset_xy: Tensor

    def __post_init__(self) -> None:
        batch = self.pixels.shape[0]  # len() would make the size a constant in an exported graph
        require(
            self.pixels.dim() == 4 and self.pixels.shape[1] == 3,
            f"pixels: expected (B, 3, H, W), got {tuple(self.pixels.shape)}",
        )
        good = self.pixels.dtype == torch.uint8 or self.pixels.is_floating_point()
        require(good, f"pixels: expected uint8 or float in [0, 1], got {self.pixels.dtype}")
        for name in ("sizes_hw", "original_hw", "scale_xy", "offset_xy"):
            shape = tuple(getattr(self, name).shape)
            require(shape == (batch, 2), f"{name}: expected {(batch, 2)}, got {shape}")

    def __len__(self) -> int:
        return len(self.pixels)

    __contains__ = None  # `in` would compare pixels, image by image

    def __iter__(self) -> Iterator[Tensor]:
        """The images one by one, without padding: (3, h, w) each."""
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: Rows) -> ImageBatch: ...

    def __getitem__(self, index: int | Rows) -> Tensor | ImageBatch:
        """One image (3, h, w) by its number, without padding, a view; a batch, padded as this one, by `Rows`."""
        rows = rows_of(index, len(self), "images")
        if isinstance(rows, int):
            height, width = self.sizes_hw[rows].tolist()
            return self.pixels[rows, :, :height, :width]
        tensors = (self.pixels, self.sizes_hw, self.original_hw, self.scale_xy, self.offset_xy)
        return ImageBatch(*(tensor[rows.to(tensor.device)] for tensor in tensors))

    @classmethod
    def of(
        cls,
        images: Sequence[Tensor],
        original_hw: Sequence[tuple[int, int]] | None = None,
        scale_xy: Sequence[tuple[float, float]] | None = None,
        offset_xy: Sequence[tuple[float, float]] | None = None,
        *,
        multiple_of: int = 1,
    ) -> ImageBatch:
        """Stack images (3, h, w), padded at the right and bottom to the largest size, rounded up to `multiple_of`."""
        require(len(images) > 0, "a batch needs at least one image")
        for index, image in enumerate(images):
            good = image.dim() == 3 and image.shape[0] == 3
            require(good, f"image {index}: expected (3, H, W), got {tuple(image.shape)}")
            require(image.dtype == images[0].dtype, f"image {index}: {image.dtype} in a batch of {images[0].dtype}")
        sizes = [(int(p.shape[1]), int(p.shape[2])) for p in images]
        height = -(-max(h for h, _ in sizes) // multiple_of) * multiple_of
        width = -(-max(w for _, w in sizes) // multiple_of) * multiple_of
        pixels = images[0].new_zeros((len(images), 3, height, width))
        for index, image in enumerate(images):
            pixels[index, :, : sizes[index][0], : sizes[index][1]] = image
        count = len(images)
        return cls(
            pixels=pixels,
            sizes_hw=torch.tensor(sizes, dtype=torch.int64),
            original_hw=torch.tensor(original_hw or sizes, dtype=torch.int64),
            scale_xy=torch.tensor(scale_xy or [(1.0, 1.0)] * count, dtype=torch.float32),
            offset_xy=torch.tensor(offset_xy or [(0.0, 0.0)] * count, dtype=torch.float32),
        )

    def normalised(self, mean: Tensor | Sequence[float], std: Tensor | Sequence[float], multiple_of: int = 1) -> Tensor:
        """Pixels (B, 3, H, W) float minus mean over std (three numbers in [0, 1] each), and zero outside each image.

        Zero after normalisation is what convolutions pad with, so padding looks like the border of an image alone.
        Sides are padded to `multiple_of`, with which some libraries trained their checkpoints.
        """
        unit = 255.0 if self.pixels.dtype == torch.uint8 else 1.0
        device = self.pixels.device
        mean, std = (torch.as_tensor(v, dtype=torch.float32, device=device)[:, None, None] for v in (mean, std))
        normal = torch.addcmul(-mean / std, self.pixels.float(), 1 / (unit * std))
        height, width = self.pixels.shape[-2:]
        rows = torch.arange(height, device=device) < self.sizes_hw[:, :1]  # (B, H)
        columns = torch.arange(width, device=device) < self.sizes_hw[:, 1:]  # (B, W)
        normal = normal * (rows[:, None, :, None] & columns[:, None, None, :])
        if multiple_of > 1:
            normal = F.pad(normal, (0, -width % multiple_of, 0, -height % multiple_of))
        if torch.compiler.is_exporting():  # the runtime chooses the layout, which would fix sizes in the graph
            return normal
        return normal.contiguous(memory_format=torch.channels_last)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        """The same batch on another device."""
        tensors = (self.pixels, self.sizes_hw, self.original_hw, self.scale_xy, self.offset_xy)
        return ImageBatch(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))

    def pin_memory(self) -> ImageBatch:
        """The same batch in pinned memory, for an asynchronous copy to a GPU."""
        tensors = (self.pixels, self.sizes_hw, self.original_hw, self.scale_xy, self.offset_xy)
        return ImageBatch(*(tensor.pin_memory() for tensor in tensors))
