"""Output channels that are not classes: a reference's network with 91 channels for the 80 categories of COCO.

All channels take part in the softmax, the loss, the ranking and NMS, as in the reference; detections of a channel
without a class are removed at the end. Shape legend: B = images, D = detections, K = classes, C = channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST_CHANNELS = 100_000


def channel_table(num_classes: int, channels: Sequence[int] | None) -> Tensor:
    """The class (C,) of every channel, -1 for none; `channels` is the channel of each class, None for one each.

    >>> channel_table(2, (1, 3)).tolist(), channel_table(2, None).tolist()
    ([-1, 0, -1, 1], [0, 1])
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    if channels is None:
        return torch.arange(num_classes)
    if len(channels) != num_classes or len(set(channels)) != num_classes or min(channels) < 0:
        raise ValueError(f"class_channels: expected {num_classes} different channels, got {list(channels)[:9]}")
    if max(channels) >= MOST_CHANNELS:
        raise ValueError(f"class_channels: expected channels below {MOST_CHANNELS}, got {max(channels)}")
    table = torch.full((max(channels) + 1,), -1)
    table[torch.tensor(channels)] = torch.arange(num_classes)
    return table


def report_classes(
    boxes: Tensor, scores: Tensor, labels: Tensor, counts: Tensor, table: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Padded detections (B, D) with classes in place of channels; those of a channel without a class are removed."""
    labels = torch.where(labels >= 0, table[labels.clamp(min=0)], -1)
    order = (labels < 0).to(torch.uint8).argsort(dim=1, stable=True)  # those with a class move to the front
    labels = labels.gather(1, order)
    good = labels >= 0
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)) * good[..., None]
    return boxes, scores.gather(1, order) * good, labels, good.sum(1)
