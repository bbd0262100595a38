"""Validation losses, added up over the images of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from boxwright.structures import GroundTruth, Losses


@dataclass
class LossSums:
    """Losses summed over images: each image has the same weight, whatever the size of its batch.

    A batch's losses are divided by its own number of positives, so they depend on which images make up a batch.
    """

    ground_truths: Sequence[GroundTruth]
    """Ground truth of the images that are processed next, in network pixels."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    floors: dict[str, Tensor] = field(default_factory=dict)
    """Likewise, of what losses cannot fall below."""
    count: int = 0

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Add the losses of a batch of `images` images; values stay on the device."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * images
        for name, value in losses.floors.items() if isinstance(losses, Losses) else ():
            self.floors[name] = self.floors.get(name, 0.0) + value * images
        self.count += images
