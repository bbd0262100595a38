"""Examples in docstrings (`>>> ...` and what they print) as blocks of code; bare, `>>>` is a quotation in Markdown."""

from __future__ import annotations

from typing import Any

import griffe


def fenced(text: str) -> str:
    """A docstring with each run of lines from `>>>` to the next empty line in a block."""
    lines: list[str] = []
    opened: str | None = None
    for line in text.splitlines():
        begins = line.lstrip().startswith(">>> ")
        if opened is None and begins:
            opened = line[: len(line) - len(line.lstrip())]
            lines += [""] * bool(lines and lines[-1]) + [f"{opened}```pycon"]
        elif opened is not None and not line.strip():
            lines.append(f"{opened}```")
            opened = None
        lines.append(line)
    return "\n".join(lines if opened is None else [*lines, f"{opened}```"])


class Doctests(griffe.Extension):
    """Applies `fenced` to every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_others: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)
