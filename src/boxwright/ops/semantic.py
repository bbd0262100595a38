"""Maps of class logits: the loss at the pixels of the network, and the labels at those of the original image.

Shape legend: B = images, S = semantic classes, h w = height and width of the logits, H W of an image. Labels are
uint8; 255 is ignored. Sources: Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, section 3; Detectron2
`SemSegFPNHead` and `sem_seg_postprocess`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255
"""The label of pixels that nobody annotated; in a prediction, of pixels that the network did not see."""
MOST_LOGITS = 32_000_000
"""So many logits of an image are computed at a time: its rows are labelled in bands."""


def semantic_loss(logits: Tensor, labels: Tensor, stride: int) -> Tensor:
    """Cross-entropy of logits (B, S, h, w), upsampled by `stride`, the mean over pixels (B, H, W) not 255; or 0.

    >>> round(float(semantic_loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 8, 8, dtype=torch.uint8), 4).exp()), 4)
    4.0
    """
    height, width = labels.shape[1:]
    upsampled = F.interpolate(logits, scale_factor=float(stride), mode="bilinear", align_corners=False)
    wanted = labels.to(torch.int64)
    entropy = F.cross_entropy(upsampled[:, :, :height, :width], wanted, ignore_index=IGNORED, reduction="sum")
    return entropy / (wanted != IGNORED).sum().clamp(min=1)


def semantic_labels(
    logits: Tensor,
    stride: int,
    size_hw: Sequence[int],
    original_hw: Sequence[int],
    scale_xy: Sequence[float],
    offset_xy: Sequence[float],
) -> Tensor:
    """The label (H, W) uint8 of each pixel of the original image, the first of the highest logits (S, h, w).

    Logits are upsampled by `stride`, cut to the network's image of `size_hw`, and resized, bilinearly both times, as
    Detectron2 does. Network coordinates = original coordinates * scale + offset; a pixel that the network did not see
    is 255. Each step is linear along an axis, so both are one matrix an axis, and large images are labelled in bands.

    >>> semantic_labels(torch.tensor([[[0.0, 2.0]], [[1.0, 1.0]]]), 2, (2, 4), (1, 4), (1.0, 2.0), (0.0, 0.0)).tolist()
    [[1, 1, 0, 0]]
    """
    down, up = _weights(logits, stride, size_hw, original_hw, scale_xy, offset_xy)
    labels = torch.cat([band.argmax(0).to(torch.uint8) for band in _bands(logits, down, up)])
    return labels.masked_fill_(_unseen(down, up, logits.device), IGNORED)


def semantic_confidence(
    logits: Tensor,
    stride: int,
    size_hw: Sequence[int],
    original_hw: Sequence[int],
    scale_xy: Sequence[float],
    offset_xy: Sequence[float],
    label: int | None = None,
) -> Tensor:
    """The probability (H, W) of a label at each pixel of the original image, or of the one that the pixel gets.

    It is the softmax of the logits that `semantic_labels` compares; 0 where the network did not see.

    >>> logits = torch.tensor([[[0.0, 2.0]], [[1.0, 1.0]]])
    >>> (100 * semantic_confidence(logits, 2, (2, 4), (1, 4), (1.0, 2.0), (0.0, 0.0))).round().tolist()
    [[73.0, 62.0, 62.0, 73.0]]
    """
    down, up = _weights(logits, stride, size_hw, original_hw, scale_xy, offset_xy)
    chosen = [
        probabilities.amax(0) if label is None else probabilities[label]
        for probabilities in (band.softmax(0) for band in _bands(logits, down, up))
    ]
    return torch.cat(chosen).masked_fill_(_unseen(down, up, logits.device), 0.0)


def _weights(
    logits: Tensor, stride: int, size_hw: Sequence[int], original_hw: Sequence[int], scale_xy: Sequence[float],
    offset_xy: Sequence[float],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """How much each cell weighs in each pixel: (H, h) down the image, and (W, w) across it."""
    down, up = (
        _resampling(
            logits.shape[1 + axis], stride, size_hw[axis], original_hw[axis], scale_xy[1 - axis], offset_xy[1 - axis]
        )
        for axis in (0, 1)
    )
    return down, up


def _bands(logits: Tensor, down: Tensor, up: Tensor) -> Iterator[Tensor]:
    """The logits (S, rows, W) of the pixels of the original image, band by band from the top."""
    wide = logits.float() @ up.to(logits.device).T  # (S, h, W)
    rows = max(1, MOST_LOGITS // (wide.shape[0] * wide.shape[2]))
    return (band.to(logits.device) @ wide for band in torch.split(down, rows))


def _unseen(down: Tensor, up: Tensor, device: torch.device) -> Tensor:
    """Which pixels (H, W) the network did not see; only rows and columns are copied to the device."""
    rows, columns = ((weights.sum(1) == 0).to(device) for weights in (down, up))
    return rows[:, None] | columns


def _resampling(cells: int, stride: int, size: int, original: int, scale: float, offset: float) -> Tensor:
    """The weight (original, cells) of each cell of an axis in each pixel; a row of zeros is out of sight."""
    centres = (torch.arange(original, dtype=torch.float64) + 0.5) * scale + offset  # in network pixels
    seen = min(size, max(1, round(original * scale + offset)))  # where a canvas is larger than the image, less of it
    first = max(0, round(offset))
    pixels = _linear(torch.arange(size, dtype=torch.float64) + 0.5, 0, cells, stride)  # (size, cells)
    resized = _linear(centres, first, seen, 1) @ pixels[:seen]
    inside = (centres > 0) & (centres < size)
    return (resized * inside[:, None]).float()


def _linear(centres: Tensor, first: int, last: int, stride: int) -> Tensor:
    """The weight (N, last) of cells of `stride` pixels, `first` to `last`, in points between their centres."""
    place = (centres / stride - 0.5).clamp(first, max(first, last - 1))
    return (1 - (place[:, None] - torch.arange(last, dtype=torch.float64)).abs()).clamp(min=0)
