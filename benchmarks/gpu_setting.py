"""What the parts of `benchmarks.gpu` share: where and how large they measure, and a row of the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes


class Figure(NamedTuple):
    """A row: what was measured, with its unit; the peer's figure and by how much ours is better; what issue 17 asks."""

    what: str
    measured: str
    peer: str = ""
    ratio: str = ""
    before: str = ""
    to_reach: str = ""
    seconds: float = 0.0
    """What measuring it took."""


@dataclass(frozen=True)
class Setting:
    """Where a part measures, and how much."""

    device: torch.device
    tiny: bool
    folder: Path
    """For data and runs; it is removed afterwards."""
    bccd: Path

    def large(self, usual: int, tiny: int) -> int:
        """A number that is smaller in a tiny run."""
        return tiny if self.tiny else usual

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the images of the large detectors."""
        return (64, 96) if self.tiny else (800, 1088)

    def shapes(self, size: int, train: int) -> Path:
        """A folder of synthetic images with boxes and masks, six classes; drawn once."""
        folder = self.folder / f"shapes-{size}-{train}"
        if not folder.exists():
            write_shapes(folder, train, 2, "coco", ShapesConfig(size=size), 0)
        return folder
