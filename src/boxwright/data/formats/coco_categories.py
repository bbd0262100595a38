"""The categories of COCO files: names and original ids, without dummy parents, merged over several files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from boxwright.reading.values import ById, number, whole_number


class Category(NamedTuple):
    """One category: its id as a number (text in some files) and its name."""

    identity: int
    name: str


def read_categories(content: dict[str, Any], file: Path, notes: list[str]) -> list[Category]:
    """The categories of one file, without dummy parents.

    Exports of some tools begin with a category that no annotation uses and that the others name as their
    supercategory: it is not a class. Other unused categories stay, so that all splits have the same order of classes.
    """
    found: dict[int, Category] = {}
    children: dict[str, set[int]] = {}
    for index, row in enumerate(content["categories"]):
        key = row.get("id") if isinstance(row, dict) else None
        identity = whole_number(key)
        if identity is None:
            raise ValueError(f'{file}: entry {index} of "categories" has no integer as its id, got {key!s:.40}')
        name = _name(row.get("name"), identity, file)
        if identity in found and found[identity].name != name:
            raise ValueError(f"{file}: category id {identity} stands for both {found[identity].name!r} and {name!r}")
        found[identity] = Category(identity, name)
        parent = row.get("supercategory")
        if isinstance(parent, str):
            children.setdefault(parent, set()).add(identity)
    if not found:
        raise ValueError(f'{file}: "categories" is empty; a COCO ground truth file names at least one category')
    ids = (row.get("category_id") for row in content["annotations"] if isinstance(row, dict))
    used = {whole_number(key) for key in ids}
    kept = []
    for category in found.values():
        others = children.get(category.name, set()) - {category.identity}
        if others and category.identity not in used:
            notes.append(
                f'category "{category.name}" (id {category.identity}) is an unused parent and is not used as a class'
            )
        else:
            kept.append(category)
    return kept


def _name(value: Any, identity: int, file: Path) -> str:
    """The name of a category, made from its id if it has none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"class{identity}"
    if isinstance(value, str):
        return value.strip()
    if number(value) is None:
        raise ValueError(f'{file}: "name" of category id {identity} is {value!r:.40}, expected text')
    return str(value)


def join_categories(
    files: list[tuple[Path, list[Category]]], notes: list[str]
) -> tuple[dict[int, str], dict[Path, ById[int]]]:
    """Names by id over all files in the order of the ids, and for each file its own keys with their ids.

    Raises ValueError if two files use one id for different names.
    """
    names: dict[int, str] = {}
    source: dict[int, Path] = {}
    keys: dict[Path, ById[int]] = {}
    for file, categories in files:
        for category in categories:
            known = names.setdefault(category.identity, category.name)
            source.setdefault(category.identity, file)
            if known != category.name:
                raise ValueError(
                    f"{file}: category id {category.identity} is {category.name!r}, but {known!r} in "
                    f"{source[category.identity]}; the files of one dataset must agree"
                )
        keys[file] = ById((category.identity, category.identity) for category in categories)
    joined: dict[int, str] = {}
    taken = set(names.values())
    said: set[str] = set()
    for identity in sorted(names):
        name = names[identity]
        if name in said:
            other = f"{name}#{identity}"
            while other in taken:
                other += "#"
            notes.append(f'several categories are called "{name}"; the one with id {identity} is called "{other}"')
            taken.add(other)
            name = other
        said.add(name)
        joined[identity] = name
    return joined, keys
