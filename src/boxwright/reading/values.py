"""Single values from files that other tools wrote, each through a checked conversion.

JSON, XML and text files hold a number as text, an id as `1.0`, a flag as "0". A value with one clear meaning is
understood, any other gives None; no text is true merely because it is not empty.

>>> whole_number("1.0"), whole_number(True), number(" 2.5 "), number("1_000"), flag("0"), flag("maybe")
(1, None, 2.5, None, False, None)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_LONGEST = 400  # characters of a number; int() of a long text is quadratic
_MOST = 1e18
_FLAGS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True, "": False}
_T = TypeVar("_T")


def number(value: Any) -> float | None:
    """A number, also one written as text; None for true, null and what is beyond 1e18 (not NaN and infinity).

    >>> number(3), number("3"), number(None), number(True), number([3]), number("3,5")
    (3.0, 3.0, None, None, None, None)
    """
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value) if abs(value) < _MOST else None
    if isinstance(value, str) and len(value) <= _LONGEST and _NUMBER.fullmatch(value.strip()):
        return float(value.strip())  # which removes more kinds of space than float() does
    return None


def whole_number(value: Any) -> int | None:
    """A whole number, also as text or as 1.0."""
    if type(value) is int:
        return value if abs(value) < _MOST else None
    found = number(value)
    return int(found) if found is not None and math.isfinite(found) and found == int(found) else None


def flag(value: Any) -> bool | None:
    """A boolean: true and false, 1 and 0, yes and no, also as text; null and "" are false.

    >>> [flag(value) for value in (None, "", "False", "0.0", 1, "yes", 2, "x", [])]
    [False, False, False, False, True, True, None, None, None]
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    found = whole_number(value)
    return bool(found) if found in (0, 1) else None


def identity(value: Any) -> int | str | None:
    """An id: a whole number (1.0 is 1) or text that is not empty; None for true, null, fractions and lists."""
    if isinstance(value, str):
        return value or None
    return whole_number(value)


def numbers(values: Any) -> list[float] | None:
    """A flat list of numbers, some of them perhaps as text; None where one is not a number or it is not a list."""
    if not isinstance(values, list | tuple):
        return None
    if set(map(type, values)) <= {float, int} and (not values or -_MOST < min(values) <= max(values) < _MOST):
        return list(values)  # there are millions of polygons: not converted one by one
    found = [number(value) for value in values]
    return [value for value in found if value is not None] if None not in found else None


def polygons(value: Any) -> list[list[float]] | None:
    """The polygons of an object as flat lists x, y, x, y, ...: those of a list of them, or one alone."""
    if not isinstance(value, list | tuple) or not value:
        return None
    alone = numbers(value)
    if alone is not None:
        return [alone]
    parts = [numbers(part) for part in value]
    return [part for part in parts if part is not None] if None not in parts else None


class ById(Mapping[Any, _T], Generic[_T]):
    """Values by id, found also by the same id of another type: "1" and 1.0 find 1, 7 finds "7" and "007".

    The exact id comes first; an id that could mean several is not found.

    >>> known = ById([(1, "a"), ("x", "b"), ("007", "c")])
    >>> known["1"], known[1.0], known["x"], known[7], known.get(True), known.get(None), known.get([1])
    ('a', 'a', 'b', 'c', None, None, None)
    """

    def __init__(self, pairs: Iterable[tuple[int | str, _T]]) -> None:
        self._exact = dict(pairs)
        self._alike: dict[int, int | str | None] = {}
        for key in self._exact:
            same = whole_number(key)
            if same is not None:
                self._alike[same] = None if same in self._alike else key

    def key(self, value: Any) -> int | str | None:
        """The id as it is stored here, None where it is unknown or could mean several."""
        wanted = identity(value)
        if wanted is None:
            return None
        if wanted in self._exact:
            return wanted
        same = whole_number(wanted)
        return None if same is None else self._alike.get(same)

    def __getitem__(self, value: Any) -> _T:
        key = self.key(value)
        if key is None:
            raise KeyError(value)
        return self._exact[key]

    def __iter__(self) -> Any:
        return iter(self._exact)

    def __len__(self) -> int:
        return len(self._exact)
