"""Lines and zones of a video: how many tracked objects cross them in each direction, by class.

The place of an object is the centre of its box. It changes sides only when it is clear of the border by a tenth of its
own size, so that a box that trembles on the border is not counted again and again. Where it was is kept as long as its
identity, so that an object that is not seen for a while is counted when it comes out on the other side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from boxwright.structures import Detections
from boxwright.wording import counted

Point: TypeAlias = tuple[float, float]

CLEAR = 0.1
"""Distance from the border from which an object is clear of it, over the square root of the area of its box."""


class Border:
    """A line or a zone, with what has crossed it so far.

    A line has two points. What comes to its right, as seen from its first point towards its second, is in: a line from
    left to right counts as in what moves down in the image. A zone is a polygon; what comes into it is in.
    """

    def __init__(self, kind: Literal["line", "zone"], points: Sequence[Point]) -> None:
        self.kind = kind
        self.points = tuple(points)
        closing = self.points[:1] if kind == "zone" else ()
        self.edges = list(pairwise((*self.points, *closing)))
        self.entered: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self._before: dict[int, Point] = {}

    def crossed(self, before: Point, now: Point) -> int:
        """1 where a way from one point to another enters, -1 where it leaves, else 0."""
        if self.kind == "zone":
            return self.holds(now) - self.holds(before)
        ((start, end),) = self.edges
        was, is_now = right_of(start, end, before), right_of(start, end, now)
        if was == is_now or right_of(before, now, start) == right_of(before, now, end):
            return 0
        return 1 if is_now else -1

    def holds(self, point: Point) -> bool:
        """Whether a point is inside of the zone: a ray from it to the right crosses an odd number of edges."""
        x, y = point
        across = [(a, b) for a, b in self.edges if (a[1] > y) != (b[1] > y)]
        return sum(x < a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) for a, b in across) % 2 == 1

    def update(self, found: Detections, ids: Sequence[int]) -> None:
        """Count what has crossed since the frame before; `ids` are the identities of `found`, one each."""
        for (x1, y1, x2, y2), name, identity in zip(found.boxes.tolist(), found.names, ids, strict=True):
            now = ((x1 + x2) / 2, (y1 + y2) / 2)
            size = math.sqrt(max(0.0, x2 - x1) * max(0.0, y2 - y1))
            if min(distance(*edge, now) for edge in self.edges) <= CLEAR * size:
                continue
            before = self._before.get(identity)
            self._before[identity] = now
            way = 0 if before is None else self.crossed(before, now)
            if way:
                (self.entered if way > 0 else self.left)[name] += 1

    def check(self, size_hw: tuple[int, int]) -> None:
        """Raise ValueError where all of it is outside of a frame of this height and width."""
        height, width = size_hw
        xs, ys = zip(*self.points, strict=True)
        if max(xs) < 0 or min(xs) > width or max(ys) < 0 or min(ys) > height:
            raise ValueError(
                f"--{self.kind} {self.text}: expected points within the frame of {width} x {height} pixels "
                "(width x height), got all outside"
            )

    @property
    def text(self) -> str:
        """Its coordinates as on the command line."""
        return ",".join(f"{value:g}" for point in self.points for value in point)


def right_of(start: Point, end: Point, point: Point) -> bool:
    """Whether a point is to the right of the way from start to end, y pointing down."""
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0]) > 0


def distance(start: Point, end: Point, point: Point) -> float:
    """Distance of a point from an edge.

    >>> distance((0, 0), (10, 0), (5, 3)), distance((0, 0), (10, 0), (13, 4))
    (3.0, 5.0)
    """
    (x, y), along = (end[0] - start[0], end[1] - start[1]), (point[0] - start[0], point[1] - start[1])
    length = x * x + y * y
    share = min(1.0, max(0.0, (along[0] * x + along[1] * y) / length)) if length else 0.0
    return math.hypot(along[0] - share * x, along[1] - share * y)


def line_of(text: str) -> Border:
    """The line of a text `x1,y1,x2,y2`, in pixels. Raises ValueError for another text, or a line without a length."""
    points = _points(text)
    if points is None or len(points) != 2 or points[0] == points[1]:
        raise ValueError(f"--line: expected x1,y1,x2,y2, two different points in pixels, got {text!r}")
    return Border("line", points)


def zone_of(text: str) -> Border:
    """The zone of a text `x1,y1,x2,y2,x3,y3,...`, in pixels. Raises ValueError for another text, or without an area."""
    points = _points(text)
    if points is None or len(points) < 3:
        got = repr(text) if points is None else counted(len(points), "point")
        raise ValueError(f"--zone: expected x1,y1,x2,y2,x3,y3,..., three points or more in pixels, got {got}")
    if _flat(points):
        raise ValueError(f"--zone: expected points that enclose an area, got {text!r}")
    return Border("zone", points)


def _flat(points: Sequence[Point]) -> bool:
    """Whether all points are on one line."""
    first, far = points[0], max(points, key=lambda point: math.dist(point, points[0]))
    return all(distance(first, far, point) < 1e-9 * (1 + math.dist(first, far)) for point in points)


def _points(text: str) -> list[Point] | None:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    if len(values) % 2 or not all(map(math.isfinite, values)):
        return None
    return list(zip(values[::2], values[1::2], strict=True))
