"""Counts and lists for messages: "1 class", "2 classes", and the first few of many names."""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN = 12


def counted(count: int | float, noun: str) -> str:
    """A number with its noun, in the plural unless the number is 1.

    >>> counted(1, "class"), counted(0, "class"), counted(2, "entry"), counted(1.5, "epoch"), counted(2, "box")
    ('1 class', '0 classes', '2 entries', '1.5 epochs', '2 boxes')
    """
    return f"{count:g} {noun}" if isinstance(count, float) and count == 1 else f"{count} {plural(noun, count)}"


def plural(noun: str, count: float = 2) -> str:
    """The plural of a noun, or its singular for a count of 1.

    >>> plural("process"), plural("key"), plural("batch"), plural("epoch"), plural("image", 1)
    ('processes', 'keys', 'batches', 'epochs', 'image')
    """
    if count == 1:
        return noun
    if noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch"):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def listed(names: Iterable[object], shown: int = _SHOWN) -> str:
    """Names separated by commas, with the number of further ones if there are many.

    >>> listed(["a", "b"]), listed("abcde", 2)
    ('a, b', 'a, b and 3 more')
    """
    texts = [f"{name!s:.200}" for name in names]
    return ", ".join(texts[:shown]) + (f" and {len(texts) - shown} more" if len(texts) > shown else "")
