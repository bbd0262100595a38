"""Grey values of more than 8 bits as 256 levels: by the range of their type, of the image, or of the dataset.

Cameras write 12 or 14 bits into 16-bit files, and thermal ones a few hundred of 65536 values: scaled by the range of
the type, such images become black or flat, and no detector finds anything in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

ValueRange: TypeAlias = Literal["auto", "type", "image"] | tuple[float, float]
"""The values that become 0 and 255, for images of more than 8 bits.

"type": the range of the type (0 to 65535). "image": the range of the image, without a thousandth at each end. "auto":
as "type", unless that leaves the image at most a quarter of the levels; then as "image". Or two numbers for all images.
"""
NARROW = 0.25
"""Fraction of the type's range that counts as narrow: at most 64 of 256 levels."""
_SAMPLE = 250_000  # values sampled to find where nearly all of them lie
_OUTSIDE = 0.001
Values: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class UsedRange:
    """The range in which nearly all values of an image lie, and the highest value of their type."""

    low: float
    high: float
    highest: float

    @property
    def is_narrow(self) -> bool:
        """Whether scaling by the range of the type leaves the image few of its levels."""
        return 0 < self.high - self.low <= NARROW * self.highest

    def bounds(self, setting: ValueRange) -> tuple[float, float]:
        """The values that become 0 and 255."""
        if isinstance(setting, tuple):
            return setting
        own = self.high > self.low and (setting == "image" or (setting == "auto" and self.is_narrow))
        return (self.low, self.high) if own else (0.0, self.highest)

    def lost(self, setting: ValueRange) -> str | None:
        """A sentence if an image becomes flat, or nearly so, under a setting."""
        low, high = self.bounds(setting)
        first, last = (round(min(max((v - low) / (high - low), 0.0), 1.0) * 255) for v in (self.low, self.high))
        levels = last - first + 1
        whole = float(self.highest).is_integer() and self.highest > 1
        held = self.high - self.low + 1 if whole else np.inf if self.high > self.low else 1
        if levels > NARROW * 256 + 1 or held < 2 * levels:
            return None
        return (
            f"its values, nearly all from {self.low:g} to {self.high:g}, become {levels} of 256 grey levels "
            f"({low:g} to {high:g} are scaled): the image is nearly flat; set data.value_range to image, or "
            f"to [{self.low:g},{self.high:g}]"
        )


def used_range(strips: Iterable[Values], num_values: int) -> UsedRange:
    """The range that an image's values use, from its strips (h, W)."""
    step = max(1, int(np.sqrt(num_values / _SAMPLE)))
    low, high, is_float, parts = np.inf, -np.inf, False, []
    for strip in strips:
        is_float = np.issubdtype(strip.dtype, np.floating)
        finite = strip[np.isfinite(strip)] if is_float else strip
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        sample = strip[::step, ::step]
        parts.append(sample[np.isfinite(sample)] if is_float else sample.ravel())
    if low > high:
        low = high = 0.0
    if is_float:
        highest = 1.0 if high <= 1.0 else 255.0 if high <= 255.0 else 65535.0
    else:  # Pillow also opens 16-bit files as 32-bit numbers
        highest = 65535.0 if high <= 65535 else 2.0**31 - 1
    values = np.concatenate(parts) if parts else np.zeros(0)
    if values.size:
        bottom = float(np.quantile(values, _OUTSIDE, method="lower"))
        top = float(np.quantile(values, 1 - _OUTSIDE, method="higher"))
        if top > bottom:
            low, high = bottom, top
    return UsedRange(low, high, highest)


def eight_bits(values: Values, low: float, high: float) -> npt.NDArray[np.uint8]:
    """Values scaled to 0 to 255: `low` and less is 0, `high` and more is 255, NaN is 0.

    >>> eight_bits(np.array([-5, 0, 257, 65535]), 0, 65535).tolist()
    [0, 0, 1, 255]
    """
    wide = np.nan_to_num(values.astype(np.float64), nan=low, posinf=low, neginf=low)
    wide -= low
    wide *= 255.0 / (high - low)
    return wide.round(out=wide).clip(0, 255, out=wide).astype(np.uint8)


def common_range(used: Sequence[UsedRange]) -> ValueRange:
    """One range for all images of a dataset: that of their values if most are narrow, else the range of the type.

    "auto" if there are no images of more than 8 bits.
    """
    if not used:
        return "auto"
    if sum(one.is_narrow for one in used) * 2 <= len(used):
        return "type"
    return min(one.low for one in used), max(one.high for one in used)
