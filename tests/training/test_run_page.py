"""`boxwright report` and the page at the end of a run: what is written, and what is refused in one sentence."""

import re
import shutil

import pytest
import yaml
from typer.testing import CliRunner

from boxwright.cli.main import app
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training.run import train
from boxwright.training.run_page import report

TINY = ["data.resize.size=48", "data.resize.max_size=64", "data.workers=0", "data.batch_size=2", "validation.times=1",
        "optim.reference_batch=2", "schedule.steps=2"]  # fmt: skip


def run_folder(path, data="data", **arguments):
    """What a run leaves, as far as it is read before anything is evaluated."""
    (path / "weights").mkdir(parents=True)
    (path / "args.yaml").write_text(yaml.safe_dump({"arguments": {"data": str(data), "val_split": "val", **arguments}}))
    (path / "results.jsonl").write_text('{"step": 1}\n')
    (path / "weights/last.pt").write_bytes(b"")
    return path


def test_a_folder_without_results_is_refused_with_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such run folder"):
        report([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"expected a run folder with results .*, got one without args.yaml and"):
        report([tmp_path])
    folder = run_folder(tmp_path / "a")
    (folder / "weights/last.pt").unlink()
    with pytest.raises(ValueError, match=r"got one without weights/last.pt; give a folder that boxwright train wrote"):
        report([folder])
    with pytest.raises(ValueError, match="no run: give a run folder"):
        report([])


@pytest.mark.parametrize("content", ["", "[", "arguments: 3", "arguments: {classes: null}", "\x00"])
def test_arguments_that_are_none_are_refused(tmp_path, content):
    folder = run_folder(tmp_path / "a")
    (folder / "args.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"a/args\.yaml: expected what boxwright train wrote"):
        report([folder])


def test_runs_on_different_data_or_the_same_run_twice_are_refused(tmp_path):
    runs = [run_folder(tmp_path / "a", tmp_path / "x"), run_folder(tmp_path / "b", tmp_path / "y")]
    with pytest.raises(ValueError, match=r"different data: .*a on .*x \(val\), .*b on .*y \(val\); .*--data"):
        report(runs)
    other = run_folder(tmp_path / "c", tmp_path / "x", val_split="test")
    with pytest.raises(ValueError, match=r"c on .*x \(test\)"):
        report([runs[0], other])
    with pytest.raises(ValueError, match="the same run twice"):
        report([runs[0], tmp_path / "b" / ".." / "a"])
    with pytest.raises(FileNotFoundError, match=r"x: the data of .*a is not there; say where it is with --data"):
        report(runs[:1])
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="expected a file to write, got a folder"):
        report(runs[:1], out=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere to write it into"):
        report(runs[:1], out=tmp_path / "nowhere" / "x.html")


def tiny_run(folder, *more, overfit=None):
    write_shapes(folder / "shapes", train=4, val=3, seed=1, config=ShapesConfig(size=64))
    return train(
        "fcos-small", folder / "shapes", overrides=[*TINY, *more], runs=folder, name="a", device="cpu", overfit=overfit
    ).folder  # fmt: skip


@pytest.mark.slow
def test_the_page_of_an_overfitted_run_is_of_the_images_that_it_learned(tmp_path):
    run = tiny_run(tmp_path, overfit=2)
    first = (run / "report.html").read_text(encoding="utf-8")
    assert "last weights on 2 images of train" in first
    assert report([run]).read_text(encoding="utf-8") == first


@pytest.mark.slow
def test_the_key_report_leaves_the_page_out(tmp_path):
    assert not (tiny_run(tmp_path, "report=false") / "report.html").exists()


@pytest.mark.e2e
def test_a_run_ends_with_its_page_and_report_writes_the_same_of_it(tmp_path):
    run = tiny_run(tmp_path)
    first = (run / "report.html").read_text(encoding="utf-8")
    assert len(first) < 3_000_000
    (run / "report.html").unlink()
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(run / "report.html")
    assert (run / "report.html").read_text(encoding="utf-8") == first
    result = CliRunner().invoke(app, ["report", str(run), "--split", "train"])  # the page of validation stays
    assert result.stdout.strip() == str(run / "report-train.html")
    assert (run / "report.html").read_text(encoding="utf-8") == first
    runs = [str(run), str(shutil.copytree(run, tmp_path / "b"))]
    result = CliRunner().invoke(app, ["report", *runs, "--out", str(tmp_path / "two.html"), "--split", "train"])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "two.html").read_text(encoding="utf-8")
    assert re.search(r"<h2 id=\"comparison\">Side by side</h2>", page)
    assert "last weights on 4 images of train" in page
