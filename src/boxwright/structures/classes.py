"""Class names in label order, and their ids in the user's files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from boxwright.structures.skeleton import Skeleton

THINGS = "things"
"""The label 0 of a semantic map of a dataset that has objects too: any of them."""
IGNORED = 255
"""The label of a pixel of which nothing is known, or that counts for nothing."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names in label order, and the id of each in the user's files.

    Label k is `names[k]` in the library and `ids[k]` in result files, whatever the ids are (0-based, 1-based, with
    gaps). `skeleton` names the keypoints of an object, where the dataset has them: the same for all classes.

    `stuff` are the classes of regions that are no objects, such as sky and road, where the dataset has a map of every
    pixel; `stuff_ids` are theirs, those after the others if not given. Classes of regions only have no `names`.

    >>> Classes.named(["cat", "dog"], first_id=1)
    Classes(names=('cat', 'dog'), ids=(1, 2))
    >>> Classes(("cat",), (7,), stuff=("sky", "road")).semantic_names
    ('things', 'sky', 'road')
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    skeleton: Skeleton | None = field(default=None, repr=False)
    stuff: tuple[str, ...] = field(default=(), repr=False)
    stuff_ids: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise ValueError(f"{len(self.names)} class names but {len(self.ids)} class ids")
        if self.stuff and not self.stuff_ids:
            first = max(self.ids, default=-1) + 1
            object.__setattr__(self, "stuff_ids", tuple(range(first, first + len(self.stuff))))
        if len(self.stuff) != len(self.stuff_ids):
            raise ValueError(f"{len(self.stuff)} names of stuff but {len(self.stuff_ids)} ids of stuff")
        names, ids = self.names + self.stuff, self.ids + self.stuff_ids
        if not names:
            raise ValueError("no classes: a detector needs at least one class name")
        if len(set(names)) != len(names):
            raise ValueError(f"class names repeat: {sorted(names)}")
        if len(set(ids)) != len(ids):
            raise ValueError(f"class ids repeat: {sorted(ids)}")
        if self.names and THINGS in self.stuff:
            raise ValueError(
                f"a class of stuff is called {THINGS!r}, as all objects together are: give it another name"
            )
        if len(self.semantic_names) > IGNORED:
            raise ValueError(f"stuff: expected at most {IGNORED} labels of a pixel, got {len(self.semantic_names)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def semantic_names(self) -> tuple[str, ...]:
        """What a label of a semantic map stands for: all objects together, if there are any, then stuff.

        Empty without stuff: then there are no such maps.
        """
        return (THINGS, *self.stuff) if self.names and self.stuff else self.stuff

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, for checkpoints and exported files; `from_dict` reads them."""
        listed: dict[str, Any] = {"names": list(self.names), "ids": list(self.ids)}
        if self.skeleton is not None:
            listed["keypoints"] = list(self.skeleton.names)
            listed["skeleton"] = [list(line) for line in self.skeleton.lines]
        if self.stuff:
            listed |= {"stuff": list(self.stuff), "stuff_ids": list(self.stuff_ids)}
        return listed

    @classmethod
    def from_dict(cls, listed: dict[str, Any]) -> Classes:
        """The classes of `as_dict`. Raises ValueError for keypoints or stuff that are no names, or no pairs or ids."""
        names, lines = listed.get("keypoints"), listed.get("skeleton", [])
        skeleton = None
        if names is not None:
            pairs = isinstance(lines, list) and all(
                isinstance(line, list) and [type(end) for end in line] == [int, int] for line in lines
            )
            if not pairs or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(
                    "the keypoints are no list of names with pairs of numbers: another program changed them"
                )
            skeleton = Skeleton(tuple(names), tuple((start, end) for start, end in lines))
        stuff, ids = listed.get("stuff", []), listed.get("stuff_ids", [])
        lists = isinstance(stuff, list) and isinstance(ids, list)
        if not lists or {*map(type, stuff)} - {str} or {*map(type, ids)} - {int} or len(stuff) != len(ids):
            raise ValueError("the stuff is no list of names with as many ids: another program changed it")
        return cls(tuple(listed["names"]), tuple(listed["ids"]), skeleton, tuple(stuff), tuple(ids))

    @classmethod
    def named(cls, names: Iterable[str], first_id: int = 0) -> Classes:
        """Classes numbered from `first_id` in the given order."""
        names = tuple(names)
        return cls(names, tuple(range(first_id, first_id + len(names))))
