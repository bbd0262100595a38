"""YAML from a file or the command line, as plain data: bounded in size, depth and aliases before anything is built.

An alias stands for all that its anchor holds, so ten lines can mean billions of values, and brackets can be nested
without limit. The events of a text are therefore counted first, which takes no memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LARGEST_BYTES = 8 << 20
DEEPEST = 64
MOST_VALUES = 500_000
"""Each use of an alias counts all that it stands for."""
_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FAST_WORDS: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))


def read_yaml(path: Path, *, words: bool = False) -> Any:
    """The content of a YAML file; see `parse_yaml`. Raises ValueError with what is wrong, without the file's name."""
    with path.open("rb") as file:
        data = file.read(LARGEST_BYTES + 1)
    try:
        return parse_yaml(data.decode("utf-8-sig"), words=words)
    except UnicodeDecodeError as error:
        raise ValueError(" ".join(str(error).split())) from error


def parse_yaml(text: str, *, words: bool = False) -> Any:
    """Plain data of a YAML text: dicts by text or number, lists, text, numbers, true, false and null.

    With `words` every scalar stays text, so that a class called `no` or `1.5` keeps its name.
    Raises ValueError with the reason, for texts beyond the bounds of this file too.

    >>> parse_yaml("names: [cat, no]", words=True)
    {'names': ['cat', 'no']}
    """
    if len(text) > LARGEST_BYTES:
        raise ValueError(f"it is larger than {LARGEST_BYTES >> 20} MiB, far more than settings or class names need")
    loader = _FAST_WORDS if words else _FAST
    try:
        _check(text, loader, typed=not words)
        return yaml.load(text, Loader=loader)  # a safe one: plain data only
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{where}{' '.join(str(error.problem or error.context).split())[:160]}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:160]) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"a value in it cannot be read ({' '.join(str(error).split())[:120]})") from error


@dataclass
class _Open:
    """A list or mapping that has not ended: its anchor, the values in it so far, and whether a key comes next."""

    anchor: str | None
    mapping: bool
    values: int = 1
    key_next: bool = field(default=True)


class _Counter:
    """Counts the values that a text stands for, event by event, and refuses it where they go beyond the bounds."""

    def __init__(self) -> None:
        self.sizes: dict[str | None, int | None] = {}
        """The values of each anchor, its aliases written out; None while it is open."""
        self.open: list[_Open] = []

    def see(self, event: Any, line: int) -> None:
        """Take in one event."""
        if isinstance(event, yaml.CollectionStartEvent):
            self._refuse_key(line)
            if len(self.open) == DEEPEST:
                raise ValueError(f"line {line}: it is nested more than {DEEPEST} deep")
            self.open.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            self.sizes[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            whole = self.open.pop()
            self.sizes[whole.anchor] = whole.values
            self._count(whole.values, line)
        elif isinstance(event, yaml.ScalarEvent):
            self.sizes[event.anchor] = 1
            self._count(1, line)
        elif isinstance(event, yaml.AliasEvent):
            size = self.sizes.get(event.anchor, 1)  # an unknown one is refused when it is read
            if size is None:
                raise ValueError(f"line {line}: the alias *{event.anchor} refers to a value that contains it")
            if size > 1:
                self._refuse_key(line)
            self._count(size, line)

    def _refuse_key(self, line: int) -> None:
        if self.open and self.open[-1].mapping and self.open[-1].key_next:
            raise ValueError(f"line {line}: expected a key, which is text, and found a list or mapping")

    def _count(self, values: int, line: int) -> None:
        """Add a finished value to the list or mapping that it stands in."""
        if not self.open:
            return
        inside = self.open[-1]
        inside.values += values
        inside.key_next = not inside.key_next
        if sum(entry.values for entry in self.open) > MOST_VALUES:
            raise ValueError(
                f"line {line}: it stands for more than {MOST_VALUES} values, with its aliases written out; "
                "no settings need that"
            )


def _check(text: str, loader: Any, *, typed: bool) -> None:
    """Raise ValueError where a text goes beyond the bounds, names a foreign type, or has a key that is not text."""
    counter = _Counter()
    events: Any = yaml.parse(text, Loader=loader)
    for event in events:
        line = event.start_mark.line + 1
        tag = event.tag if isinstance(event, (yaml.CollectionStartEvent, yaml.ScalarEvent)) else None
        if typed and tag not in (None, "!", *_TAGS):
            raise ValueError(
                f"line {line}: the type {tag!r:.80} is not allowed; only text, numbers, lists and mappings are"
            )
        counter.see(event, line)
