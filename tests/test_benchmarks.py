"""The benchmarks start: each says its options, and what it would build can be built."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from boxwright.recipes import check_model, load_recipe

ROOT = Path(__file__).parents[1]


@pytest.fixture
def module(monkeypatch):
    """A benchmark's module, by name."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_make_bench_knows_every_benchmark(module):
    known = module("__main__").BENCHMARKS
    with_a_command = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def main()" in path.read_text()}
    assert set(known) == with_a_command - {"__main__"}


def test_every_benchmark_says_its_options(module, monkeypatch, capsys):
    for name in module("__main__").BENCHMARKS:
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as ended:
            module(name).main()
        assert (ended.value.code, name in capsys.readouterr().out) == (0, True), name


@pytest.mark.e2e
def test_a_benchmark_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert (done.returncode, "--disturbed" in done.stdout) == (0, True), done.stderr


def test_the_variants_on_fod_are_one_network_with_other_fields(module):
    fod = module("fod")
    recipes = {name: load_recipe(fod.RECIPE, [*fod.SHARED, *own]) for name, own in fod.variants().items()}
    course, improved = (recipes[name].model for name in ("course", "improved"))
    assert (course.backbone.name, course.head.norm, course.assignment.center_radius) == ("regnet_x_400mf", "none", None)
    assert (improved.backbone.name, improved.head.norm, improved.assignment.center_radius) == (
        "regnet_x_400mf",
        "gn",
        1.5,
    )
    assert (course.fpn, course.assignment.level_bounds) == (improved.fpn, improved.assignment.level_bounds)


def test_the_detectors_of_the_step_benchmark_can_be_built(module):
    steps = module("steps")
    for name, (_, settings) in steps.PAIRS.items():
        assert check_model({**settings, "name": name}).backbone.name == "resnet50"
