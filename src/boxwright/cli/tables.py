"""Where tables are printed: as wide as the terminal, and as wide as they are where the output goes elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDEST = 2000
"""Columns of a table in a file or a pipe, where nothing says how wide a line may be."""


def table_console(*, highlight: bool = True) -> Console:
    """A console on standard output that cuts no table where no terminal limits it (COLUMNS is obeyed)."""
    from rich.console import Console

    console = Console(highlight=highlight)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDEST
    return console
