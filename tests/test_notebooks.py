"""The notebooks run from their first cell to their last, on small data, and what they draw can be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from notebook_cells import SMALL, cells_of, run_notebook
from PIL import Image

from boxwright.evaluation.report import plain_figure

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
FIGURES = {"coming_from": 2, "fcos_exercise": 9, "fcos_report": 3, "own_data": 7, "two_stage_exercise": 8}
FAST = ("fcos_exercise", "own_data")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem in FAST else pytest.mark.slow, id=path.stem) for path in NOTEBOOKS],
)
def test_a_notebook_runs_and_draws(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_figure(1, 1)  # imports matplotlib, whose font cache then lies outside of the home folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    figures = tmp_path / "figures"
    figures.mkdir()
    outcome = run_notebook(path, SMALL[path.stem], figures)
    assert len(outcome.figures) == FIGURES[path.stem]
    for figure in outcome.figures:
        pixels = np.asarray(Image.open(figure).convert("L"))
        assert min(pixels.shape) >= 100
        assert pixels.std() > 3, f"{figure.name} is empty"


def test_every_notebook_has_small_parameters_and_a_place_in_the_docs() -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert [path.stem for path in NOTEBOOKS] == sorted(SMALL) == sorted(FIGURES)
    assert not [path.name for path in NOTEBOOKS if f"(../notebooks/{path.name})" not in page]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short_and_explained(path: Path) -> None:
    cells = cells_of(path)
    code = [cell for cell in cells if cell.kind == "code"]
    assert [cell.parameters for cell in code].index(True) == 0  # the first, so that all others see them
    assert cells[0].kind == "markdown"
    assert cells[0].text.startswith("# # ")
    assert "published" in cells[0].text.lower()  # the number that it stands beside, or that there is none
    assert max(len(cell.text.strip().splitlines()) for cell in code) <= 32
    assert sum(cell.kind == "markdown" for cell in cells) >= len(code) / 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_jupytext_finds_the_same_cells(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    ours = [(cell.kind, cell.text.strip()) for cell in cells_of(path)]
    theirs = [(cell.cell_type, cell.source.strip()) for cell in jupytext.read(path).cells]
    assert [kind for kind, _ in ours] == [kind for kind, _ in theirs]
    assert [text for kind, text in ours if kind == "code"] == [text for kind, text in theirs if kind == "code"]


def test_a_failing_cell_is_named_by_its_line_and_unknown_parameters_are_refused(tmp_path: Path) -> None:
    notebook = tmp_path / "one.py"
    notebook.write_text('# %% [markdown]\n# # One\n\n# %% tags=["parameters"]\nSTEPS = 9\n\n# %%\nx = STEPS\nx / 0\n')
    with pytest.raises(ZeroDivisionError) as failure:
        run_notebook(notebook, {"STEPS": 1}, tmp_path)
    last = failure.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(notebook), 9)
    with pytest.raises(KeyError, match="EPOCHS"):
        run_notebook(notebook, {"EPOCHS": 1}, tmp_path)
