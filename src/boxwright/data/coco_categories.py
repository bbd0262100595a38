"""The categories of COCO files: names and ids as they came, dummy parents left out, several files joined."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple


class Category(NamedTuple):
    """One category: its id as a number, its name, and the id as it stands in the file (a number or text)."""

    identity: int
    name: str
    key: int | str


def read_categories(content: dict[str, Any], file: Path, notes: list[str]) -> list[Category]:
    """The categories of one file, without dummy parents.

    Exports of some tools begin with a category that no annotation uses and that the others name as their
    supercategory: it is no class. Other unused categories stay, for they keep the order of classes between splits.
    """
    found: dict[int, Category] = {}
    supers: dict[int, Any] = {}
    for index, row in enumerate(content["categories"]):
        key = row.get("id") if isinstance(row, dict) else None
        if not isinstance(key, int | str) or not re.fullmatch(r"-?\d{1,18}", str(key).strip()):
            raise ValueError(f'{file}: entry {index} of "categories" has no whole number as its id, got {key!s:.40}')
        identity = int(key)
        name = str(row.get("name") or "").strip() or f"class{identity}"
        if identity in found and found[identity].name != name:
            raise ValueError(f"{file}: category id {identity} stands for both {found[identity].name!r} and {name!r}")
        found[identity] = Category(identity, name, key)
        supers[identity] = row.get("supercategory")
    if not found:
        raise ValueError(f'{file}: "categories" is empty; a COCO truth file names at least one category')
    ids = (row.get("category_id") for row in content["annotations"] if isinstance(row, dict))
    used = {key for key in ids if isinstance(key, int | str)}
    kept = []
    for category in found.values():
        named_by = {identity for identity, parent in supers.items() if parent == category.name} - {category.identity}
        if named_by and category.key not in used:
            notes.append(
                f'category "{category.name}" (id {category.identity}) is an unused parent and is no class here'
            )
        else:
            kept.append(category)
    return kept


def join_categories(
    files: list[tuple[Path, list[Category]]], notes: list[str]
) -> tuple[dict[int, str], dict[Path, dict[Any, int]]]:
    """Names by id over all files in the order of the ids, and for each file its own keys with their ids.

    Raises ValueError where two files give one id to different names.
    """
    names: dict[int, str] = {}
    source: dict[int, Path] = {}
    keys: dict[Path, dict[Any, int]] = {}
    for file, categories in files:
        for category in categories:
            known = names.setdefault(category.identity, category.name)
            source.setdefault(category.identity, file)
            if known != category.name:
                raise ValueError(
                    f"{file}: category id {category.identity} is {category.name!r}, but {known!r} in "
                    f"{source[category.identity]}; the files of one data set must agree"
                )
        keys[file] = {category.key: category.identity for category in categories}
    joined: dict[int, str] = {}
    for identity in sorted(names):
        name = names[identity]
        if name in joined.values():
            notes.append(
                f'several categories are called "{name}"; the one with id {identity} is called "{name}#{identity}"'
            )
            name = f"{name}#{identity}"
        joined[identity] = name
    return joined, keys
