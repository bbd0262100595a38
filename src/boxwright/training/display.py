"""What is seen of a run: lines on standard error, and a progress bar where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from boxwright.training.columns import train_losses
from boxwright.writing import printable, writing


class _Bar(RichProgress):
    """A bar with a line of numbers below it, which may be longer than the terminal is wide."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.numbers)


class Display:
    """Lines and a bar; silent on all processes but the main one."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._file: Path | None = None
        self._lines: list[str] = []
        self._bar: _Bar | None = None
        self._task: Any = None

    def log(self, text: str) -> None:
        """One line, on standard error and in the log file."""
        if self.enabled:
            text = printable(text)
            self.console.print(text, markup=False, emoji=False)
            self._lines.append(text + "\n")
            self._write()

    def log_to(self, path: Path) -> None:
        """Keep the lines in a file too, those already logged first."""
        self._file = path if self.enabled else None
        self._write()

    def _write(self) -> None:
        if self._file is not None:
            with (
                writing(self._file, whole=False),
                self._file.open("a", encoding="utf-8", errors="backslashreplace") as file,
            ):
                file.writelines(self._lines)
            self._lines = []

    def __enter__(self) -> None:
        if self.enabled and self.console.is_terminal:
            self._bar = _Bar(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=self.console
            )
            self._task = self._bar.add_task("training", total=None)
            self._bar.start()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, step: int, steps: int, row: Mapping[str, float], seconds_left: float) -> None:
        """Show where the run stands; a plain line every hundred steps where there is no terminal."""
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in train_losses(row).items())
        numbers += f"  lr {row['lr']:.2g}  {row['images_per_second']:.1f} images/s"
        if self._bar is not None:
            self._bar.numbers = numbers
            self._bar.update(self._task, completed=step, total=steps)
        elif step % 100 == 0:
            self.log(f"step {step}/{steps}  {numbers}  {seconds_left / 60:.1f} min left")
