"""The benchmarks start: each says its options, and what it would build can be built."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

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


@pytest.fixture
def tiny(module, tmp_path):
    """Where a tiny run of the table for a GPU measures."""
    return module("gpu_setting").Setting(torch.device("cpu"), True, tmp_path, tmp_path / "nowhere")


def test_the_table_for_a_gpu_has_every_row_whatever_fails(module, tiny, tmp_path, monkeypatch, capsys):
    """One part fails, one would end too late: the others are measured, and what there is stands in the file."""
    gpu, figure = module("gpu"), module("gpu_setting").Figure
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "b"])
    parts = [
        gpu.Part("a", 1, lambda setting: [figure("speed", "10", "5", "2.00", "1.0", ">= 3")]),
        gpu.Part("b", 1, lambda setting: 1 / 0),
        gpu.Part("c", 1000, lambda setting: [figure("never", "0")]),
        gpu.Part("d", 1, lambda setting: [figure("x | y", str(setting.large(9, 1)))]),
    ]
    out = tmp_path / "runs" / "gpu.md"
    found = gpu.run(replace(tiny, tiny=False), parts, 60, out)
    assert [one.what for one in found] == ["speed", "b", "c", "x | y"]
    lines = out.read_text().splitlines()
    assert lines[0] == "## gpu: no GPU (cpu)"
    assert lines[2] == "`python -m benchmarks.gpu --only b`"
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert {len(row) for row in rows} == {len(gpu.COLUMNS)}
    assert rows[1][:6] == ["| speed", "10", "5", "2.00", "1.0", ">= 3"]
    assert rows[2][1] == "failed: ZeroDivisionError: division by zero"
    assert rows[3][1].startswith("left out: ")
    assert rows[4][:2] == ["| x / y", "9"]
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.slow
def test_some_rows_for_a_gpu_can_be_measured_on_a_cpu(module, tiny):
    gpu = module("gpu")
    parts = [part for part in gpu.PARTS if part.name in ("bccd", "latency")]
    found = gpu.run(tiny, parts, 600, None)
    assert len(found) == 2
    assert not [one for one in found if "failed" in one.measured]


@pytest.mark.slow
def test_all_rows_for_a_gpu_can_be_measured_on_a_cpu(module, tiny):
    pytest.importorskip("timm")
    gpu = module("gpu")
    found = gpu.run(tiny, gpu.PARTS, 3600, None)
    assert not [one for one in found if "failed" in one.measured]
    assert len(found) >= 17


def test_what_is_held_out_to_choose_settings_by_is_no_image_that_is_reported(module, tmp_path):
    benchmark = module("pretrained")
    lists = tmp_path / "shared" / "fod" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    annotations = tmp_path / "shared" / "fod" / "Annotations"
    annotations.mkdir()
    names = {"train": [f"a{number:03}" for number in range(400)], "test": [f"b{number}" for number in range(9)]}
    for split, listed in names.items():
        (lists / f"{split}.txt").write_text("\n".join([*listed, "a000"]))  # as in fod, one stands in both
        for number, name in enumerate(listed):
            kind = ("Bolt", "Pliers", "Wire")[number % 3]
            (annotations / f"{name}.xml").write_text(f"<object><name>{kind}</name></object>")
    fod = benchmark.DATASETS["fod-two"]
    shared, found = tmp_path / "shared", {}
    for holdout in (False, True):
        folder, train, test = benchmark.prepared(fod, "fod-two", shared, tmp_path / "runs", holdout)
        parts = [set((folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split()) for split in (train, test)]
        assert not parts[0] & parts[1]
        found[holdout] = parts
    assert [len(part) for part in found[False]] == [160, 7]
    assert [len(part) for part in found[True]] == [160, 40]
    assert not found[True][1] & found[False][1]
    assert not any("Wire" in (annotations / f"{name}.xml").read_text() for parts in found.values() for name in parts[0])


def test_the_table_of_starts_has_a_row_for_each_dataset(module):
    measurement = module("table").Measurement
    one, other = measurement("small", 0.25, 0.5, 100, 60.0), measurement("lite", 0.375, 0.75, 50, 60.0)
    rows = {"bccd": {"random": one, "pretrained": other}, "fod": {"pretrained": other}}
    assert module("pretrained").table(rows).splitlines()[2:] == [
        "| bccd | 0.2500 | 0.5000 | 100 | 0.3750 | 0.7500 | 50 | +0.1250 |",
        "| fod | - | - | - | 0.3750 | 0.7500 | 50 | - |",
    ]
