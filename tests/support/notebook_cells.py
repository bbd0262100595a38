"""Notebooks in jupytext's percent format: their cells, and running them without Jupyter.

A cell begins at a line `# %%`. What would be displayed below a cell in Jupyter is what counts as a figure here: images
that its last line gives, and matplotlib's figures.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

SMALL: dict[str, dict[str, Any]] = {
    "coming_from": {"SHORT_SIDE": 96, "LONG_SIDE": 160},
    "fcos_exercise": {"SIDE": 128, "TRAIN_IMAGES": 8, "VAL_IMAGES": 4, "OVERFIT_STEPS": 4, "TRAIN_STEPS": 2},
    "fcos_report": {"SIDE": 64, "TRAIN_IMAGES": 6, "VAL_IMAGES": 4, "STEPS": 1, "ROWS": (4, 9)},
    "own_data": {
        "MINUTES": None, "OVERRIDES": ["schedule.steps=2", "validation.times=1"], "TRAIN_IMAGES": 8, "VAL_IMAGES": 4,
    },
    "two_stage_exercise": {"SIDE": 128, "TRAIN_IMAGES": 8, "VAL_IMAGES": 4, "TRAIN_STEPS": 2},
}  # fmt: skip
"""Values of each notebook's parameters that make it take seconds."""
MARK = re.compile(r"(?m)^# %%(?: \[(?P<kind>\w+)\])?(?: (?P<options>.*))?$")


@dataclass(frozen=True)
class Cell:
    """One cell: "code" or "markdown", whether it holds the parameters, its text and the line where that begins."""

    kind: str
    parameters: bool
    text: str
    line: int


@dataclass(frozen=True)
class Ran:
    """A cell with what it printed and drew: nothing for text."""

    cell: Cell
    printed: str
    figures: list[Path]


@dataclass(frozen=True)
class Outcome:
    """What running a notebook leaves: its variables, and its cells with what they showed."""

    names: dict[str, Any]
    cells: list[Ran]

    @property
    def figures(self) -> list[Path]:
        """All figures, as PNG files."""
        return [figure for one in self.cells for figure in one.figures]


def cells_of(path: Path) -> list[Cell]:
    """The cells of a notebook, without the header of jupytext."""
    text = path.read_text(encoding="utf-8")
    marks = list(MARK.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [
        Cell(
            mark["kind"] or "code",
            'tags=["parameters"]' in (mark["options"] or ""),
            text[mark.end() + 1 : end],
            text.count("\n", 0, mark.end()) + 2,
        )
        for mark, end in zip(marks, ends, strict=True)
    ]


def run_notebook(path: Path, parameters: Mapping[str, Any], figures: Path) -> Outcome:
    """Run all cells of a notebook, with other values for some of the names that its parameter cell sets.

    Raises KeyError for a name that it does not set, and whatever a cell raises.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names: dict[str, Any] = {"__name__": "__main__"}
    ran: list[Ran] = []
    count = 0
    shown = pyplot.show
    pyplot.show = lambda *_args, **_more: None
    try:
        for cell in cells_of(path):
            printed, drawn = io.StringIO(), list[Path]()
            if cell.kind == "code":
                with redirect_stdout(printed):
                    value = _run(cell, path, names)
                if cell.parameters:
                    if missing := sorted(set(parameters) - set(names)):
                        raise KeyError(f"{path.name}: its parameters are not {missing}")
                    names.update(parameters)
                for image in [*map(pyplot.figure, pyplot.get_fignums()), value]:
                    target = figures / f"{path.stem}_{count:02d}_line{cell.line}.png"
                    if isinstance(image, Image.Image):
                        image.save(target)
                    elif hasattr(image, "savefig"):
                        image.savefig(target)
                    else:
                        continue
                    drawn.append(target)
                    count += 1
                pyplot.close("all")
            ran.append(Ran(cell, printed.getvalue(), drawn))
    finally:
        pyplot.show = shown
    return Outcome(names, ran)


def _run(cell: Cell, path: Path, names: dict[str, Any]) -> Any:
    """Run one cell, and give the value of its last line where that is an expression."""
    tree = ast.parse("\n" * (cell.line - 1) + cell.text, str(path))
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, str(path), "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), str(path), "exec"), names)
    return eval(compile(ast.Expression(last.value), str(path), "eval"), names)
