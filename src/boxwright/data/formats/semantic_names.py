"""What the values of semantic maps stand for: a file of class names in one of the forms found in practice.

`classes.txt` (or labels.txt, class_names.txt): a name a line, the first for the value 0, or a value and a name on each
line. `classes.csv` (and Roboflow's `_classes.csv`): a value and a name. `classes.json`: a list of names, or an object
of values and names, either of them first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from boxwright.data.formats.listing import files_in
from boxwright.reading.values import whole_number

NAMES_FILES = (
    "classes.txt", "labels.txt", "class_names.txt", "classes.csv", "_classes.csv", "classes.json", "labels.json",
)  # fmt: skip
VOID = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
"""Names, in small letters, of what is no class: its pixels count for nothing."""
_VALUE_FIRST = re.compile(r"(\d+)\s*[:,;\t ]\s*(\S.*)")
_MOST = 65535


def read_names(folders: Iterable[Path]) -> dict[int, str] | None:
    """Class names by value, in the order of the values, from the first folder with such a file; None without one.

    Raises ValueError for a file that cannot be understood.
    """
    for folder in dict.fromkeys(folders):
        present = {name.lower(): name for name in files_in(folder)}
        for name in NAMES_FILES:
            if name in present:
                return _read(folder / present[name])
    return None


def _read(file: Path) -> dict[int, str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: it cannot be read ({error}); expected class names as UTF-8 text") from error
    pairs = _of_json(file, text) if file.suffix.lower() == ".json" else _of_lines(text)
    found: dict[int, str] = {}
    for value, name in pairs:
        if value is None or not 0 <= value <= _MOST or not isinstance(name, str) or not name.strip():
            raise ValueError(f"{file}: expected values of pixels with a name each, got {value!r:.40} and {name!r:.40}")
        if value in found:
            raise ValueError(f"{file}: the value {value} has two names, {found[value]!r:.40} and {name.strip()!r:.40}")
        found[value] = name.strip()
    if not found:
        raise ValueError(f"{file}: it names no class; write a name a line, the first for pixels of value 0")
    return dict(sorted(found.items()))


def _of_lines(text: str) -> Sequence[tuple[int | None, Any]]:
    """Values and names of a text: those on its lines, where all of them (but a heading) begin with a number."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    matches = [_VALUE_FIRST.fullmatch(line) for line in lines]
    rest = matches[1:] if matches and matches[0] is None else matches
    if rest and all(rest):
        return [(int(match[1]), match[2]) for match in rest if match is not None]
    return list(enumerate(lines))


def _of_json(file: Path, text: str) -> Sequence[tuple[int | None, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: this is not valid JSON ({error!s:.200})") from error
    if isinstance(content, list):
        return list(enumerate(content))
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a list of names, or an object of values and names")
    pairs = [(whole_number(key), value) for key, value in content.items()]
    if all(value is not None for value, _ in pairs):
        return pairs
    return [(whole_number(value), key) for key, value in content.items()]
