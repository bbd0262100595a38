"""What a verb shows on standard error while it works: lines of a log, and a bar where there is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from boxwright.writing import printable


def log(text: str) -> None:
    """One line; what would steer the terminal, as in the name of a file, is shown as an escape."""
    typer.echo(f"boxwright: {printable(text)}", err=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar while the block runs; gives what moves it: a function of the number done and the number to do."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
