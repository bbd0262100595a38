"""Rotated boxes for tests."""

import torch


def random_rotated(count, seed=0, span=100.0):
    """Rotated boxes (count, 5) of sides up to half the span, at any angle."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, 5, generator=generator)
    centres, sides = draws[:, :2] * span, draws[:, 2:4] * span / 2 + 0.5
    return torch.cat([centres, sides, draws[:, 4:] * 360 - 180], 1)


def pixels(boxes, step=0.25, size=100):
    """Whether the centre of each small pixel of an area lies in each rotated box: (N, size / step, size / step)."""
    places = (torch.arange(int(size / step)) + 0.5) * step
    y, x = torch.meshgrid(places, places, indexing="ij")
    turn = torch.deg2rad(boxes[:, 4])[:, None, None]
    dx, dy = x - boxes[:, 0, None, None], y - boxes[:, 1, None, None]
    along, across = dx * turn.cos() - dy * turn.sin(), dx * turn.sin() + dy * turn.cos()
    return (along.abs() < boxes[:, 2, None, None] / 2) & (across.abs() < boxes[:, 3, None, None] / 2)
