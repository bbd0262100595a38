"""The pixels of a batch, with the way back to the original pictures. Shape legend: B = images, H W = pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.structures.requirement import require


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Pixels of a batch with the way back: network coordinates = original coordinates * scale + offset.

    pixels (B, 3, H, W) RGB, uint8 or float in [0, 1], padded at the right and bottom; sizes_hw (B, 2) the part that
    is picture; original_hw (B, 2); scale_xy and offset_xy (B, 2) float32. The model normalises, then zeroes padding.
    """

    pixels: Tensor
    sizes_hw: Tensor
    original_hw: Tensor
    scale_xy: Tensor
    offset_xy: Tensor

    def __post_init__(self) -> None:
        batch = self.pixels.shape[0]  # len() would fix the size in an exported graph
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

    @classmethod
    def of(
        cls,
        pictures: Sequence[Tensor],
        original_hw: Sequence[tuple[int, int]] | None = None,
        scale_xy: Sequence[tuple[float, float]] | None = None,
        offset_xy: Sequence[tuple[float, float]] | None = None,
        *,
        multiple_of: int = 1,
    ) -> ImageBatch:
        """Stack pictures (3, h, w), padding at the right and bottom to the largest, rounded up to `multiple_of`."""
        require(len(pictures) > 0, "a batch needs at least one picture")
        for index, picture in enumerate(pictures):
            good = picture.dim() == 3 and picture.shape[0] == 3
            require(good, f"picture {index}: expected (3, H, W), got {tuple(picture.shape)}")
            require(picture.dtype == pictures[0].dtype, f"picture {index}: {picture.dtype} in a batch of "
                     f"{pictures[0].dtype}")  # fmt: skip
        sizes = [(int(p.shape[1]), int(p.shape[2])) for p in pictures]
        height = -(-max(h for h, _ in sizes) // multiple_of) * multiple_of
        width = -(-max(w for _, w in sizes) // multiple_of) * multiple_of
        pixels = pictures[0].new_zeros((len(pictures), 3, height, width))
        for index, picture in enumerate(pictures):
            pixels[index, :, : sizes[index][0], : sizes[index][1]] = picture
        count = len(pictures)
        return cls(
            pixels=pixels,
            sizes_hw=torch.tensor(sizes, dtype=torch.int64),
            original_hw=torch.tensor(original_hw or sizes, dtype=torch.int64),
            scale_xy=torch.tensor(scale_xy or [(1.0, 1.0)] * count, dtype=torch.float32),
            offset_xy=torch.tensor(offset_xy or [(0.0, 0.0)] * count, dtype=torch.float32),
        )

    def normalised(self, mean: Tensor | Sequence[float], std: Tensor | Sequence[float], multiple_of: int = 1) -> Tensor:
        """Pixels (B, 3, H, W) float minus mean over std (three numbers in [0, 1] each), and zero outside each picture.

        Zero after normalisation is what a convolution pads with, so a picture ends in a batch as it ends alone. Sides
        are padded up to `multiple_of`, which the checkpoints of some libraries were trained with.
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
        if torch.compiler.is_exporting():  # layout is the runtime's business, and would tie the graph to sizes
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
