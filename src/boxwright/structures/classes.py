"""Class names in label order, and their ids in the user's files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from boxwright.structures.requirement import require


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names in label order, and the id that each has in the user's files.

    Label k is `names[k]` inside the library and `ids[k]` in result files, whatever the ids were (0-based, 1-based,
    with gaps).
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        require(len(self.names) == len(self.ids), f"{len(self.names)} class names but {len(self.ids)} class ids")
        require(len(self.names) > 0, "no classes: a detector needs at least one class name")
        require(len(set(self.names)) == len(self.names), f"class names repeat: {sorted(self.names)}")
        require(len(set(self.ids)) == len(self.ids), f"class ids repeat: {sorted(self.ids)}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def named(cls, names: Iterable[str], first_id: int = 0) -> Classes:
        """Classes numbered from `first_id` in the given order."""
        names = tuple(names)
        return cls(names, tuple(range(first_id, first_id + len(names))))
