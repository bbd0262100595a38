"""The oldest versions that a pyproject.toml allows, as constraints: `name>=1.2` becomes `name==1.2`.

python tests/lower_bounds.py pyproject.toml > constraints.txt
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def lower_bounds(project: Path) -> list[str]:
    """A line for each requirement of users, extras included, that states a lower bound; not for our own tools."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = {name: part for name, part in table["optional-dependencies"].items() if name != "dev"}
    lines = set()
    for requirement in (*table["dependencies"], *(one for part in extras.values() for one in part)):
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(\[[^]]*\])?>=([0-9.]+)", requirement)
        if match:
            lines.add(f"{match[1]}=={match[3]}")
    return sorted(lines)


if __name__ == "__main__":
    print("\n".join(lower_bounds(Path(sys.argv[1]))))
