"""Backgrounds of textures, as classes of stuff: two to four regions of an image, each filled with another one.

Shape legend: H W = size of the image. A canvas is (H, W, 3) float32 in [0, 255].
"""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt

from boxwright.data.synthetic.drawing import Canvas, smooth_noise

STUFF = ("checks", "dots", "plain", "stripes")
"""Names of the textures, in the order of their labels."""
LEAST_SHARE = 0.1
"""Of the image: a region that would be smaller belongs to the first one."""
CONTRAST = 38.0
"""Half the distance of the two tones of a texture, in levels of each colour."""


def textured_regions(
    random: np.random.Generator, size: int, texture: float, spread: float
) -> tuple[Canvas, npt.NDArray[np.uint8]]:
    """A ground (H, W, 3), and which texture each pixel (H, W) has, as a number of `STUFF`.

    `texture` is the amplitude of its noise; `spread` the part of the colour circle on either side of a texture's own
    hue from which it is coloured (0.5: any colour, so that only the pattern tells).
    """
    chosen = random.permutation(len(STUFF))[: int(random.integers(2, len(STUFF) + 1))]
    region = _regions(random, size, len(chosen))
    canvas = smooth_noise(random, size, 3, 3) * np.float32(0.6 * texture)
    canvas += smooth_noise(random, size, max(4, size // 4), 1) * np.float32(0.4 * texture * random.random())
    for number, kind in enumerate(chosen.tolist()):
        here = region == number
        pattern = _pattern(random, size, STUFF[kind]) * np.float32(CONTRAST)
        canvas[here] += (pattern[..., None] + _ground(random, kind, spread))[here]
    return canvas, chosen.astype(np.uint8)[region]


def _regions(random: np.random.Generator, size: int, count: int) -> npt.NDArray[np.int64]:
    """Which of `count` regions each pixel (H, W) belongs to: that of the nearest of as many points, roughly."""
    points = random.integers(0, size, (count, 2))
    wave = smooth_noise(random, size, 5, 1)[..., 0] * np.float32(size / 12)
    steps = np.arange(size)
    distances = [
        np.hypot(steps[None] - x, steps[:, None] - y) + (wave if n % 2 else -wave) for n, (x, y) in enumerate(points)
    ]
    nearest = np.argmin(np.stack(distances), axis=0)
    shares = np.bincount(nearest.ravel(), minlength=count) / nearest.size
    return np.where(shares[nearest] < LEAST_SHARE, int(shares.argmax()), nearest)


def _ground(random: np.random.Generator, kind: int, spread: float) -> Canvas:
    """A pale colour (3,) of the hue of a texture, which lies between those of the objects."""
    turn, paleness, value = random.random(3)
    hue = ((kind + 0.5) / len(STUFF) + spread * (2 * turn - 1)) % 1
    colour = colorsys.hsv_to_rgb(hue, 0.15 + 0.2 * paleness, 0.4 + 0.3 * value)
    return np.array(colour, np.float32) * np.float32(255)


def _pattern(random: np.random.Generator, size: int, name: str) -> Canvas:
    """A texture (H, W) in [-1, 1]."""
    steps = np.arange(size)
    if name == "plain":
        return np.zeros((size, size), np.float32)
    if name == "stripes":
        period, slopes = int(random.integers(6, 11)), [(4, 0), (0, 4), (3, 3), (3, -3), (4, 2), (2, -4)]
        slope_x, slope_y = slopes[int(random.integers(len(slopes)))]
        marked = ((steps[None] * slope_x + steps[:, None] * slope_y) % (4 * period)) < 2 * period
    elif name == "checks":
        cell = int(random.integers(4, 8))
        marked = (steps[None] // cell + steps[:, None] // cell) % 2 == 0
    else:  # dots
        gap = int(random.integers(7, 11))
        across, down = (steps[None] % gap) - gap // 2, (steps[:, None] % gap) - gap // 2
        marked = across**2 + down**2 <= (gap * 0.3) ** 2
    return np.where(marked, np.float32(1), np.float32(-1))
