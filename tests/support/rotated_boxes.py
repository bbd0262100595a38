"""Rotated boxes for tests."""

import torch


def random_rotated(count, seed=0, span=100.0):
    """Rotated boxes (count, 5) of sides up to half the span, at any angle."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, 5, generator=generator)
    centres, sides = draws[:, :2] * span, draws[:, 2:4] * span / 2 + 0.5
    return torch.cat([centres, sides, draws[:, 4:] * 360 - 180], 1)
