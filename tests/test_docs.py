"""The tour's counts are those of the code: the files that run for a snippet, and about how long they are."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch

import boxwright
from boxwright.recipes import load_recipe, recipe_names
from boxwright.recipes.schema import Recipe
from boxwright.structures import DetectSettings, GroundTruth, ImageBatch, Targets

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(boxwright.__file__).parent
TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"(?ms)^```python tour=(\w+)\n(.*?)^```\n\n^```text\n(.*?)^```", TOUR)


def files_that_run(setup: str, name: str) -> dict[str, set[CodeType]]:
    """The package's files, and the functions in them, that are called while `name` runs after `setup`."""
    names: dict[str, Any] = {"__name__": "tour"}
    exec(compile(setup, "tour", "exec"), names)
    called: dict[str, set[CodeType]] = defaultdict(set)

    def record(frame: Any, event: str, _argument: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(PACKAGE)):
            called[Path(path).relative_to(PACKAGE).as_posix()].add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        names[name]()
    finally:
        sys.setprofile(before)
    return called


def test_the_tour_has_its_counts_and_no_way_leads_through_more_than_eight_files() -> None:
    assert [name for name, _, _ in SNIPPETS] == ["loss_and_detect", "look", "load", "step", "epoch"]
    files = {name: set(re.findall(r"functions +(\S+)", printed)) for name, _, printed in SNIPPETS}
    epoch = files.pop("epoch")
    assert len(epoch - set().union(*files.values())) <= 8  # files that no way before it has led through
    assert len(epoch - files["step"]) <= 10
    assert len(files.pop("load")) <= 11  # files to batch: reading and augmenting are themes of their own
    assert all(len(found) <= 8 for found in files.values())


@pytest.mark.parametrize(("name", "setup", "printed"), SNIPPETS, ids=[name for name, _, _ in SNIPPETS])
def test_the_tour_counts_what_runs(
    name: str, setup: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = re.findall(r"(\d+) lines +(\d+) functions +(\S+)", printed)
    called = files_that_run(setup, name)
    assert sorted(called) == [file for _, _, file in rows], "run reading_load.py again and put its output into the tour"
    lines = sum(len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in called)
    functions = sum(len(codes) for codes in called.values())
    sums = re.search(r"(\d+) files / (\d+) lines / (\d+) functions", printed)
    assert sums is not None
    told = [int(number) for number in sums.groups()]
    assert told == [len(rows), sum(int(row[0]) for row in rows), sum(int(row[1]) for row in rows)]
    # small changes do not make the tour false; a tenth does
    assert abs(lines - told[1]) <= told[1] / 10, f"{lines} lines now: run reading_load.py again"
    assert abs(functions - told[2]) <= max(3, told[2] / 10), f"{functions} functions now: run reading_load.py again"


def test_the_tour_names_real_functions() -> None:
    """Each `file.py: name, name` of the tour is defined in that file."""
    named = re.findall(r"`([\w/]+\.py): ([^`]+)`", TOUR)
    assert len(named) > 15
    for file, names in named:
        text = (PACKAGE / file).read_text(encoding="utf-8")
        for name in names.replace("\n", " ").split(", "):
            for part in name.strip().split("."):
                assert re.search(rf"(?m)^\s*(?:def|class) {part}\b", text), f"{file} has no {part}"


def keys_of(section: Any, prefix: str = "") -> set[str]:
    """All dotted keys of a recipe section, and of its detector's."""
    found = set()
    for name in getattr(type(section), "model_fields", None) or type(section).__dataclass_fields__:
        value = getattr(section, name)
        found |= {prefix + name}
        if hasattr(type(value), "model_fields") or dataclasses.is_dataclass(value):
            found |= keys_of(value, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_settings_named_in_a_page_exist(page: Path) -> None:
    """Dotted settings such as `optim.lr` (with or without a value) are keys of a recipe."""
    recipe: Recipe = load_recipe("fcos-small")
    known = keys_of(recipe)
    spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    sections = "model|data|optim|schedule|validation|detect"
    told = {key for span in spans for key in re.findall(rf"(?<![\w./])((?:{sections})(?:\.[a-z]\w*)+)(?![\w/(])", span)}
    files = {key for key in told if key.endswith((".py", ".yaml", ".json"))}
    assert not told - known - files, f"{page.name}: {sorted(told - known - files)}"


def test_conventions_name_the_settings_that_fcos_has() -> None:
    """Each field of FCOS's config on which references differ has its line in the conventions."""
    text = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    recipe = load_recipe("fcos-small")
    plain = {"name", "backbone.name", "backbone.weights", "backbone.pixel_mean", "backbone.pixel_std", "fpn.channels"}
    plain |= {"head.prior_probability", "loss.normaliser_start", "loss.normaliser_momentum"}
    keys = keys_of(recipe.model)
    settings = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)} - plain
    assert len(settings) > 25
    assert not {key for key in settings if f"`{key}" not in text and f" {key}`" not in text}


def test_choosing_lists_every_recipe_with_what_was_published() -> None:
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"(?m)^\| `([\w-]+)` \| (.*?) \| .* \|$", text))
    names = recipe_names()
    assert {name: rows.get(name) for name in names} == {name: load_recipe(name).reference or "-" for name in names}


def claims() -> list[tuple[str, str, list[str]]]:
    """Where a measured figure is told, of which recipe (or ""), and the figures that belong together."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- results -->")[1].split("<!-- /results -->")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in readme.splitlines() if row.startswith("|")]
    named, (head, _, *body) = re.compile(r"`([\w-]+)`"), rows
    at = [place for place, name in enumerate(head) if "AP" in name]
    found = []
    for row in body:
        name = named.fullmatch(row[head.index("detector")])
        found.append((f"README: {' | '.join(row[:2])}", name[1] if name else "", [row[place] for place in at]))
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    for name, told in re.findall(r"(?m)^\| `([\w-]+)` \| .*? \| (.*) \|$", text):
        if figures := re.findall(r"\b[01]\.\d{3,}\b", told):
            found.append((f"choosing: {name}", name, figures))
    return found


def half_a_unit(figure: str) -> Decimal:
    """Half of the last digit: 0.0005 of 0.609."""
    return Decimal(5).scaleb(-len(figure.partition(".")[2]) - 1)


def recorded_together(name: str, told: list[str]) -> bool:
    """Whether one line of a recorded table, or one paragraph, holds all these figures; a table says whose they are."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    for unit in re.findall(r"(?m)^\|.*$|(?:^[^|\n].*\n)+", text):
        if unit.startswith("|") and not re.search(rf"(?<![\w-]){name}(?![\w-])", unit):
            continue
        figures = [Decimal(figure) for figure in re.findall(r"\b[01]\.\d{4}\b", unit)]
        # half a unit of the last digit that is told: 0.8025 may be told as 0.802 or 0.803
        if all(any(abs(Decimal(one) - other) <= half_a_unit(one) for other in figures) for one in told):
            return True
    return False


@pytest.mark.parametrize(("where", "name", "told"), claims(), ids=[where for where, _, _ in claims()])
def test_every_measured_figure_is_a_recorded_one(where: str, name: str, told: list[str]) -> None:
    assert len(told) >= 2
    assert recorded_together(name, told), f"{where}: {told} of {name or 'this row'} is in no line of RESULTS.md"


def test_benchmarks_are_called_as_they_can_be() -> None:
    """Every `python -m benchmarks.NAME --option` of README and pages names a file, and options that it defines."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    called = re.findall(r"python -m benchmarks\.(\w+)([^`\n]*)", text)
    assert len(called) > 10
    for name, arguments in called:
        source = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
        for option in re.findall(r"--[\w-]+", arguments):
            assert f'"{option}"' in source, f"benchmarks/{name}.py has no {option}"


def test_the_detector_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that docs/adding_a_detector.md shows: its losses fall, and it detects."""
    text = (ROOT / "docs" / "adding_a_detector.md").read_text(encoding="utf-8")
    (tmp_path / "nearest.py").write_text(re.findall(r"(?ms)^```python\n(.*?)^```", text)[0], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    page = importlib.import_module("nearest")
    torch.manual_seed(0)
    backbone = page.BackboneSection(name="mobilenet_v3_small", norm="bn", frozen_stages=0)
    model = page.Nearest(page.NearestConfig(backbone=backbone, head=page.NearestHead(channels=16)), 3).train()
    images = ImageBatch.of([torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)])
    targets = Targets.of([GroundTruth.of([[10, 12, 50, 40]], [1])])
    optimizer, totals = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(12):
        total = sum(model.loss(model(images), targets).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.8 * totals[0]
    (found,) = model.eval().detect(model(images), images, DetectSettings(score_threshold=0.0))
    assert len(found) > 0
