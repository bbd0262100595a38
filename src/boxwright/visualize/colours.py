"""Colours of classes, the same in every picture and told apart by eye, and what can be read on them."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import TypeAlias

import numpy as np

Colour: TypeAlias = tuple[int, int, int]

NUM_COLOURS = 64
FIRST_COLOUR_OKLAB = (0.67, 0.217, -0.125)
IGNORED_COLOUR: Colour = (150, 150, 150)
PAPER: Colour = (255, 255, 255)


@cache
def palette() -> tuple[Colour, ...]:
    """Colours in the order of use: each is the one farthest from all before it in OKLab, a perceptually even space.

    A class keeps its colour however many classes there are. White, black and the grey of ignored regions count as
    taken. Source of the conversion: Ottosson, "A perceptual color space for image processing" (2020).
    """
    hues = np.deg2rad(np.arange(0, 360, 5))
    lightness, chroma, hue = (np.asarray(axis) for axis in zip(
        *product((0.50, 0.585, 0.67, 0.755, 0.84), (0.09, 0.13, 0.17, 0.21, 0.25), hues), strict=True))  # fmt: skip
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    cubes = lab @ np.array([[1, 1, 1], [0.3963377774, -0.1055613458, -0.0894841775],
                            [0.2158037573, -0.0638541728, -1.2914855480]])  # fmt: skip
    linear = cubes**3 @ np.array([[4.0767416621, -1.2684380046, -0.0041960863],
                                  [-3.3077115913, 2.6097574011, -0.7034186147],
                                  [0.2309699292, -0.3413193965, 1.7076147010]])  # fmt: skip
    shown = ((linear >= 0) & (linear <= 1)).all(1)
    lab, linear = lab[shown], linear[shown]
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    taken = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.67, 0.0, 0.0]])
    distance = np.linalg.norm(lab[:, None] - taken[None], axis=2).min(1)
    chosen = []
    for number in range(NUM_COLOURS):
        # The first colour is alone in most pictures: a magenta, which stands out on black, white, grey, skin and green.
        best = int(distance.argmax()) if number else int(np.linalg.norm(lab - FIRST_COLOUR_OKLAB, axis=1).argmin())
        red, green, blue = (round(255 * float(value)) for value in encoded[best])
        chosen.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=1))
    return tuple(chosen)


def class_colour(label: int) -> Colour:
    """The colour (red, green, blue) of a class index, the same in every picture; repeats after 64 classes."""
    return palette()[label % NUM_COLOURS]


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever is easier to read on a background, by its relative luminance.

    The threshold lies above the 0.179 of equal WCAG 2 contrast, which puts black on saturated middle tones.
    """
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.25 else (255, 255, 255)
