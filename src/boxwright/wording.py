"""Counts and lists for sentences: one class, two classes, and the first few of a hundred thousand names."""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN = 12


def counted(count: int | float, noun: str) -> str:
    """A number and its noun, singular for one and plural for others.

    >>> counted(1, "class"), counted(0, "class"), counted(2, "entry"), counted(1.5, "epoch"), counted(2, "box")
    ('1 class', '0 classes', '2 entries', '1.5 epochs', '2 boxes')
    """
    return f"{count:g} {noun}" if isinstance(count, float) and count == 1 else f"{count} {plural(noun, count)}"


def plural(noun: str, count: float = 2) -> str:
    """The plural of a noun, or its singular where the count is one.

    >>> plural("process"), plural("key"), plural("batch"), plural("image", 1)
    ('processes', 'keys', 'batches', 'image')
    """
    if count == 1:
        return noun
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def listed(names: Iterable[object], shown: int = _SHOWN) -> str:
    """Names joined by commas, and how many more there are beyond the first `shown`.

    >>> listed(["a", "b"]), listed("abcde", 2)
    ('a, b', 'a, b and 3 more')
    """
    texts = [f"{name!s:.200}" for name in names]
    return ", ".join(texts[:shown]) + (f" and {len(texts) - shown} more" if len(texts) > shown else "")
