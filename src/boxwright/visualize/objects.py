"""What can be drawn, as protocols: records of `structures` have what is asked for here, and stand above this folder."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Objects(Protocol):
    """Objects of one image, such as `Detections` or `GroundTruth`: boxes (D, 4) as x1, y1, x2, y2, and labels (D,).

    What else they have is drawn too: `scores` (D,), `ignore` flags (D,) and `classes` with the names.
    """

    @property
    def boxes(self) -> Tensor:
        """(D, 4) in pixels of the image."""

    @property
    def labels(self) -> Tensor:
        """(D,) class indices."""

    @property
    def keypoints(self) -> Tensor | None:
        """x, y and a visibility or score (N, P, 3); None where there are no keypoints."""

    @property
    def masks(self) -> object | None:
        """None where there are no masks."""

    def mask(self, index: int) -> tuple[int, int, Tensor]:
        """Column and row of the corner of an object's mask, and its bitmap (h, w) bool."""


class Masked(Protocol):
    """Objects of one image with masks, best first."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image."""

    @property
    def labels(self) -> Tensor:
        """(D,) class indices."""

    def mask(self, index: int) -> tuple[int, int, Tensor]:
        """Column and row of the corner of an object's mask, and its bitmap (h, w) bool."""


class Names(Protocol):
    """Class names by label, such as `Classes`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the labels."""
