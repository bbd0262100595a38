"""The notebooks as pages of the site: their text, code, what it printed and drew, on very small data.

They run as the tests run them, without Jupyter; `make notebooks` runs them at their own size.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from pages import ROOT

sys.path.insert(0, str(ROOT / "tests" / "support"))
from notebook_cells import SMALL, Ran, run_notebook

SAID = "*Run on very small data, to show what it draws: its figures mean nothing here.*"


def render(name: str, folder: Path) -> Path:
    """Run a notebook; its page and its figures lie in the folder afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    before, temporary = Path.cwd(), tempfile.tempdir
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        tempfile.tempdir = work
        try:
            cells = run_notebook(ROOT / "notebooks" / f"{name}.py", SMALL[name], folder).cells
        finally:
            os.chdir(before)
            tempfile.tempdir = temporary
    page = folder / f"{name}.md"
    page.write_text(page_of(cells), encoding="utf-8")
    return page


def page_of(cells: list[Ran]) -> str:
    """Cells with what they showed, as Markdown; figures are named as files beside the page."""
    parts = []
    for cell, printed, figures in ((one.cell, one.printed, one.figures) for one in cells):
        if cell.kind == "markdown":
            text = re.sub(r"(?m)^# ?", "", cell.text).strip()
            parts.append(text if parts else f"{text}\n\n{SAID}")
            continue
        parts.append(f"```python\n{cell.text.strip()}\n```")
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
        parts += [f"![what line {cell.line} draws]({figure.name})" for figure in figures]
    return "\n\n".join(parts) + "\n"
