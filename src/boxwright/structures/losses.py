"""What a batch costs: the losses that a detector is trained on, and beside them what they cannot fall below."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor


class Losses(dict[str, Tensor]):
    """Scalar losses by name, all of them trained on: `sum(losses.values())` is what is minimised.

    A detector with nothing else to say gives a plain dict.
    """

    floors: Mapping[str, Tensor] = MappingProxyType({})
    """By the name of a loss: the least that it can be on this batch, for logs and plots. Nothing is trained on it."""
