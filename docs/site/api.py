"""Pages of the API reference, from the docstrings: the public names, and a page for each folder of the package."""

from __future__ import annotations

import re
from pathlib import Path

import boxwright

PACKAGE = Path(boxwright.__file__).parent
INSIDE = ("cli",)
"""Folders without a page: a verb's own page says what it does."""


def public_page() -> str:
    """The page of `boxwright` itself, each name where it is defined."""
    lines = ["# `boxwright`", "", "What `import boxwright` gives. [The Python API](../python.md) shows it in use.", ""]
    for name in sorted(set(boxwright.__all__) - {"__version__"}, key=str.lower):
        home, _, attribute = boxwright._HOMES[name].rpartition(":")
        lines += [f"::: boxwright.{home}.{attribute}", "    options:", f"      heading: boxwright.{name}"]
        lines += [f"      toc_label: {name}", "      heading_level: 2", ""]
    return "\n".join(lines)


def folder_page(folder: Path) -> str:
    """The page of one folder of the package: its modules in alphabetical order."""
    name = folder.name
    lines = [f"# `boxwright.{name}`", ""]
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        if file.name == "__init__.py" and not re.search(r"(?m)^(def|class) ", file.read_text(encoding="utf-8")):
            continue  # only hands names on
        lines += [f"::: boxwright.{module}", "    options:", "      heading_level: 2", ""]
    return "\n".join(lines)


def api_pages() -> dict[str, str]:
    """Path below the site's docs and text of each page: `api/boxwright.md` first, then one for each folder."""
    folders = sorted(path.parent for path in PACKAGE.glob("*/__init__.py") if path.parent.name not in INSIDE)
    return {"api/boxwright.md": public_page()} | {f"api/{path.name}.md": folder_page(path) for path in folders}
