"""Validation losses, added up over the images of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from boxwright.structures import GroundTruth, Losses


@dataclass
class LossSums:
    """Losses added up over images: each image counts once, whatever the size of its batch.

    A batch's losses are divided by its own positives, so they depend on which images make up a batch.
    """

    ground_truths: Sequence[GroundTruth]
    """Of the prepared images that are detected in next, in network pixels."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    floors: dict[str, Tensor] = field(default_factory=dict)
    """Likewise, of what losses cannot fall below."""
    count: int = 0

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Take the losses of a batch of so many images; numbers stay on the device."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * images
        for name, value in losses.floors.items() if isinstance(losses, Losses) else ():
            self.floors[name] = self.floors.get(name, 0.0) + value * images
        self.count += images
