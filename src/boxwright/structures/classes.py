"""Class names in label order, and their ids in the user's files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from boxwright.structures.skeleton import Skeleton


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names in label order, and the id of each in the user's files.

    Label k is `names[k]` in the library and `ids[k]` in result files, whatever the ids are (0-based, 1-based, with
    gaps). `skeleton` names the keypoints of an object, where the dataset has them: the same for all classes.

    >>> Classes.named(["cat", "dog"], first_id=1)
    Classes(names=('cat', 'dog'), ids=(1, 2))
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    skeleton: Skeleton | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise ValueError(f"{len(self.names)} class names but {len(self.ids)} class ids")
        if not self.names:
            raise ValueError("no classes: a detector needs at least one class name")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"class names repeat: {sorted(self.names)}")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"class ids repeat: {sorted(self.ids)}")

    def __len__(self) -> int:
        return len(self.names)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, for checkpoints and exported files; `from_dict` reads them."""
        listed: dict[str, Any] = {"names": list(self.names), "ids": list(self.ids)}
        if self.skeleton is not None:
            listed["keypoints"] = list(self.skeleton.names)
            listed["skeleton"] = [list(line) for line in self.skeleton.lines]
        return listed

    @classmethod
    def from_dict(cls, listed: dict[str, Any]) -> Classes:
        """The classes of `as_dict`. Raises ValueError for keypoints that are no names, or lines that are no pairs."""
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
        return cls(tuple(listed["names"]), tuple(listed["ids"]), skeleton)

    @classmethod
    def named(cls, names: Iterable[str], first_id: int = 0) -> Classes:
        """Classes numbered from `first_id` in the given order."""
        names = tuple(names)
        return cls(names, tuple(range(first_id, first_id + len(names))))
