"""A console for tables: as wide as the terminal, or unlimited if the output goes elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDEST = 2000
"""Columns of a table in a file or a pipe, where line width is unlimited."""


def table_console(*, highlight: bool = True) -> Console:
    """A console on standard output that cuts tables only to the width of a terminal (or COLUMNS)."""
    from rich.console import Console

    console = Console(highlight=highlight)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDEST
    return console
