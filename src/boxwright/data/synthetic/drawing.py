"""The images of the synthetic shapes dataset: silhouettes, backgrounds, distractors, lighting and sensor noise.

Everything is drawn by numpy and Pillow from the given generator, so that the same seed gives the same image on every
machine. Shape legend: H W = size of the image; N = corners of a polygon. A canvas is (H, W, 3) float32 in [0, 255].
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Canvas: TypeAlias = npt.NDArray[np.float32]
Points: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard the images are.

    rotation: maximum in degrees; aspect: maximum ratio of longer to shorter side; contrast: minimum distance in RGB
    between an object and what lies under it; texture, noise, lighting: amplitudes; distractors: minimum and maximum
    number; cover: maximum fraction of an object that others hide; hue_spread: fraction of the colour circle on either
    side of the class's hue from which the colour is drawn (0.5 means any colour, so that only the outline tells).
    """

    rotation: float
    aspect: float
    contrast: float
    texture: float
    noise: float
    lighting: float
    distractors: tuple[int, int]
    cover: float
    hue_spread: float


DIFFICULTIES = {
    "easy": Difficulty(10, 1.1, 120, 14, 3, 0.1, (0, 1), 0.3, 0.03),
    "medium": Difficulty(20, 1.2, 110, 22, 5, 0.2, (1, 4), 0.6, 0.06),
    "hard": Difficulty(180, 1.6, 55, 45, 14, 0.5, (5, 12), 0.6, 0.5),
}


class Silhouette(NamedTuple):
    """An object on its own patch: opacity (h, w) uint8 with smooth edges, mask (h, w) bool, keypoints (5, 2) x, y:
    its centre and its corners, clockwise from the upper left one (`_keypoints`).

    `around` is the rotated box around it (`ops.rotated`), along its own axes, in pixels of the patch.
    """

    opacity: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    keypoints: Points
    around: tuple[float, float, float, float, float]


def _round_trip(radius: float, count: int, start: float = 0.0) -> Points:
    angles = [start + 2 * math.pi * index / count for index in range(count)]
    return np.array([[radius * math.sin(angle), -radius * math.cos(angle)] for angle in angles])


def _outlines() -> dict[str, tuple[Points, ...]]:
    """Every class as an outline (N, 2) around the origin, followed by its holes."""
    points = np.empty((10, 2))
    points[0::2], points[1::2] = _round_trip(1.0, 5), _round_trip(0.45, 5, math.pi / 5)
    arm = 0.36
    cross = [[-arm, -1], [arm, -1], [arm, -arm], [1, -arm], [1, arm], [arm, arm],
             [arm, 1], [-arm, 1], [-arm, arm], [-1, arm], [-1, -arm], [-arm, -arm]]  # fmt: skip
    arrow = [[0, -1], [0.8, 0], [0.32, 0], [0.32, 1], [-0.32, 1], [-0.32, 0], [-0.8, 0]]
    return {
        "circle": (_round_trip(1.0, 72),),
        "square": (np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]),),
        "triangle": (np.array([[0.0, -1], [1.1, 0.9], [-1.1, 0.9]]),),
        "star": (points,),
        "cross": (np.array(cross),),
        "ring": (_round_trip(1.0, 72), _round_trip(0.55, 72)),
        "arrow": (np.array(arrow),),
        "hourglass": (np.array([[-0.8, -1], [0.8, -1], [0.12, 0], [0.8, 1], [-0.8, 1], [-0.12, 0]]),),
    }


OUTLINES = _outlines()
CORNERS = {
    "square": (0, 1, 2, 3),
    "triangle": (0, 1, 2),
    "star": (0, 2, 4, 6, 8),
    "cross": (11, 2, 5, 8),
    "arrow": (6, 1, 3, 4),
    "hourglass": (0, 1, 3, 4),
}
"""Which points of an outline are its corners, clockwise; those of a cross are the inner ones, and circles have none."""
SYMMETRY = {"square": 4, "triangle": 3, "star": 5, "cross": 4, "arrow": 1, "hourglass": 2}
"""By how many rotations an outline comes to lie on itself, about."""


def _keypoints(name: str, outline: Points, degrees: float) -> Points:
    """Centre and four corners (5, 2) of an outline that was rotated: upper left, upper right, lower right, lower left.

    They can be told from the image alone. Where a rotated outline looks like an unrotated one, the corners are counted
    from where they lie now: the upper left corner of a square is the upper left one at any angle. The upper tip of a
    triangle is both of its upper corners; that of a star is none. A circle's are where it reaches farthest diagonally.
    """
    if name not in CORNERS:
        diagonal = outline @ np.array([[-1.0, 1, 1, -1], [-1, -1, 1, 1]])  # (N, 4)
        return np.concatenate([np.zeros((1, 2)), outline[diagonal.argmax(0)]])
    corners = outline[list(CORNERS[name])]
    corners = np.roll(corners, round(degrees * SYMMETRY[name] / 360) * len(corners) // SYMMETRY[name], axis=0)
    if name == "triangle":
        corners = corners[[0, 0, 1, 2]]
    elif name == "star":
        corners = corners[[4, 1, 2, 3]]
    return np.concatenate([np.zeros((1, 2)), corners])


def silhouette(name: str, longer_side: float, degrees: float, aspect: float) -> Silhouette:
    """A class's outline, rotated and stretched (width over height), scaled to the given longer side."""
    cos, sin = round(math.cos(math.radians(degrees)), 6), round(math.sin(math.radians(degrees)), 6)
    turn = np.array([[cos, sin], [-sin, cos]])
    upright = [outline * [math.sqrt(aspect), 1 / math.sqrt(aspect)] for outline in OUTLINES[name]]
    outlines = [outline @ turn for outline in upright]
    low, high = outlines[0].min(0), outlines[0].max(0)
    fine = 4 if longer_side < 80 else 2  # drawn larger and reduced: smooth edges
    scale = (longer_side - 1 / fine) / float((high - low).max())  # Pillow includes the pixels of both ends
    width, height = (math.ceil(extent * scale + 1 / fine) + 2 for extent in high - low)
    image = Image.new("L", (width * fine, height * fine))
    draw = ImageDraw.Draw(image)
    for index, outline in enumerate(outlines):
        corners = ((outline - low) * scale + 1) * fine
        draw.polygon([(x, y) for x, y in corners.round(3).tolist()], fill=0 if index else 255)
    opacity = np.asarray(image.reduce(fine))
    keypoints = (_keypoints(name, outlines[0], degrees) - low) * scale + 1 + 0.5 / fine
    first, last = upright[0].min(0), upright[0].max(0)
    x, y = ((first + last) / 2 @ turn - low) * scale + 1 + 0.5 / fine
    sides = (last - first) * scale + 1 / fine
    angle = (180 - degrees) % 360 - 180  # the turn above is clockwise as seen
    around = (float(x), float(y), float(sides[0]), float(sides[1]), angle)
    return Silhouette(opacity, opacity >= 128, keypoints, around)


def vivid_colour(random: np.random.Generator, hue: float = 0.0, spread: float = 0.5) -> Canvas:
    """A random object colour (3,) of a hue in [0, 1) plus or minus `spread`; a small spread avoids grey."""
    turn, saturation, value = random.random(3)
    own = (hue + spread * (2 * turn - 1)) % 1
    palest, darkest = (0.25, 0.15) if spread >= 0.5 else (0.5, 0.4)
    colour = colorsys.hsv_to_rgb(own, palest + (1 - palest) * saturation, darkest + (1 - darkest) * value)
    return np.array(colour, np.float32) * np.float32(255)


def contrasting_colour(
    random: np.random.Generator, under: Canvas, contrast: float, hue: float = 0.0, spread: float = 0.5
) -> Canvas:
    """A random colour of a hue, at least `contrast` away from the colour `under` (3,), or the farthest of 12 tries."""
    best, distance = under, -1.0
    for _ in range(12):
        colour = vivid_colour(random, hue, spread)
        away = float(np.sqrt(np.square(colour - under).sum()))
        if away > distance:
            best, distance = colour, away
        if distance >= contrast:
            break
    return best


def paint(canvas: Canvas, shape: Silhouette, x: int, y: int, colour: Canvas, shading: tuple[float, float]) -> None:
    """Paint a silhouette with its corner at column x, row y, in place; the colour changes evenly across it."""
    height, width = shape.mask.shape
    y1, y2, x1, x2 = max(y, 0), min(y + height, canvas.shape[0]), max(x, 0), min(x + width, canvas.shape[1])
    across = np.linspace(-shading[0], shading[0], width, dtype=np.float32)[None, x1 - x : x2 - x]
    down = np.linspace(-shading[1], shading[1], height, dtype=np.float32)[y1 - y : y2 - y, None]
    surface = (1 + across + down)[..., None] * colour
    opacity = shape.opacity[y1 - y : y2 - y, x1 - x : x2 - x, None] * np.float32(1 / 255)
    under = canvas[y1:y2, x1:x2]
    under += (surface - under) * opacity


def smooth_noise(random: np.random.Generator, size: int, cells: int, channels: int) -> Canvas:
    """Noise (H, W, channels) in [-1, 1] that changes over 1 / `cells` of the image."""
    coarse = random.integers(0, 256, (cells, cells, channels), np.uint8)
    image = Image.fromarray(coarse if channels == 3 else coarse[..., 0])
    fine = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return (fine.reshape(size, size, channels) - 127.5) * np.float32(1 / 127.5)


def _pattern(random: np.random.Generator, size: int) -> Canvas:
    """Stripes, checks, spots or nothing (H, W, 1) in [-1, 1]."""
    kind = int(random.integers(4))
    if kind == 0:
        return np.zeros((1, 1, 1), np.float32)
    if kind == 1:
        blobs = smooth_noise(random, size, int(random.integers(5, 14)), 1) > np.float32(0.25)
        return np.where(blobs, np.float32(1), np.float32(-1))
    period = int(random.integers(8, 40)) * 16
    slope_x, slope_y = (int(value) for value in random.integers(-16, 17, 2))
    steps = np.arange(size)
    stripes = ((steps[None] * slope_x + steps[:, None] * slope_y) % period) * 2 < period
    if kind == 3:
        stripes = stripes ^ (((steps[None] * slope_y - steps[:, None] * slope_x) % period) * 2 < period)
    return np.where(stripes, np.float32(1), np.float32(-1))[..., None]


def background(random: np.random.Generator, size: int, texture: float) -> Canvas:
    """A textured ground (H, W, 3): a colour, a gradient, noise at three scales and a pattern."""
    ground = vivid_colour(random) * np.float32(0.7) + np.float32(25)
    canvas = smooth_noise(random, size, 3, 3) * np.float32(texture * (0.4 + random.random()))
    grain = smooth_noise(random, size, int(random.integers(8, 24)), 1) * np.float32(texture * random.random())
    grain += smooth_noise(random, size, size // 4, 1) * np.float32(0.5 * texture * random.random())
    grain = grain + _pattern(random, size) * np.float32(0.6 * texture * random.random())
    canvas += grain
    canvas += ground
    return canvas


def draw_distractors(random: np.random.Generator, canvas: Canvas, count: int) -> Canvas:
    """The canvas with distractors, which belong to no class: lines, writing, arcs, crescents."""
    if not count:
        return canvas
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    size = canvas.shape[0]
    for _ in range(count):
        kind = int(random.integers(4))
        red, green, blue = vivid_colour(random).astype(int).tolist()
        fill = (red, green, blue)
        x, y = random.integers(0, size, 2).tolist()
        extent = int(random.integers(size // 16, size // 3))
        if kind == 0:
            end = random.integers(-size // 4, size + size // 4, 2).tolist()
            draw.line([x, y, *end], fill=fill, width=int(random.integers(1, 5)))
        elif kind == 1:
            _draw_writing(random, draw, (x, y), max(extent // 4, 4), fill)
        elif kind == 2:
            start = int(random.integers(360))
            turn = int(random.integers(50, 170))
            width = max(2, extent // int(random.integers(6, 14)))
            draw.arc([x, y, x + extent, y + extent], start, start + turn, fill=fill, width=width)
        else:
            _draw_crescent(draw, (x, y), extent / 2, float(random.random() * 2 * math.pi), fill)
    return np.asarray(image, dtype=np.float32).copy()


def _draw_writing(
    random: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    height: int,
    fill: tuple[int, int, int],
) -> None:
    """A few jagged strokes side by side, which look like writing."""
    for letter in range(int(random.integers(3, 8))):
        left = corner[0] + letter * height
        points = random.integers(0, height, (4, 2)) * [0.7, 1.0] + [left, corner[1]]
        draw.line([(float(px), float(py)) for px, py in points], fill=fill, width=max(1, height // 8))


def _draw_crescent(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], radius: float, angle: float, fill: tuple[int, int, int]
) -> None:
    """A crescent: half a circle, and back along a flatter curve."""
    cos, sin = round(math.cos(angle), 6), round(math.sin(angle), 6)
    half = _round_trip(1.0, 36)[:19]  # the right half, from top to bottom
    back = half[::-1] * [0.62, 1.0]
    moon = np.concatenate([half, back]) @ np.array([[cos, sin], [-sin, cos]]) * radius + corner
    draw.polygon([(float(px), float(py)) for px, py in moon.round(3)], fill=fill)


@cache
def _normal_table() -> npt.NDArray[np.float32]:
    """256 equally likely values of the standard normal distribution, to turn random bytes into noise by look-up."""
    normal = NormalDist()
    return np.array([round(normal.inv_cdf((index + 0.5) / 256), 6) for index in range(256)], np.float32)


def expose(random: np.random.Generator, canvas: Canvas, lighting: float, noise: float) -> npt.NDArray[np.uint8]:
    """The image (H, W, 3) uint8 of a canvas as a camera sees it: uneven lighting, gamma, sensor noise."""
    size = canvas.shape[0]
    light = 1 + smooth_noise(random, size, 2, 1) * np.float32(lighting * random.random())
    light *= np.float32(1 + lighting * (random.random() - 0.5))
    lit = (canvas * light).clip(0, 255).astype(np.uint8)
    gamma = 1 + lighting * (2 * random.random() - 1)
    curve = np.array([255 * (index / 255) ** gamma for index in range(256)]).round().astype(np.float32)
    grains = np.frombuffer(random.bytes(lit.size), np.uint8).reshape(lit.shape)
    strength = np.float32(noise * (0.3 + 0.7 * random.random()))
    noisy = curve[lit] + (_normal_table() * strength)[grains]
    return (noisy + np.float32(0.5)).clip(0, 255).astype(np.uint8)
