"""`boxwright.evaluate`: the figures that the verb prints, from a path or a loaded detector, and nothing printed."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import boxwright
from boxwright.checkpoint import load_checkpoint, save_checkpoint
from boxwright.cli.main import app
from boxwright.data.formats.folder import open_folder
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.structures import Classes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six validation images, the second of which is damaged inside."""
    folder = write_shapes(tmp_path_factory.mktemp("data") / "shapes", 1, 6, "voc", ShapesConfig(size=96))
    image = sorted((folder / "JPEGImages").glob("val_*.jpg"))[1]
    image.write_bytes(image.read_bytes()[:-400] + b"\0" * 200)
    return folder


@pytest.fixture(scope="module")
def names(data):
    return open_folder(data).classes.names[:3]


@pytest.fixture(scope="module")
def checkpoint(checkpoint_file, names, tmp_path_factory):
    """The lively detector with three class names of the data."""
    path = tmp_path_factory.mktemp("checkpoint") / "named.pt"
    save_checkpoint(replace(load_checkpoint(checkpoint_file), classes=Classes.named(names)), path)
    return path


@pytest.mark.parametrize("metric", ["coco", "voc"])
def test_figures_are_those_that_the_verb_prints(checkpoint, data, names, metric, caplog, capsys):
    words = [
        "evaluate",
        str(checkpoint),
        "--data",
        str(data),
        "--json",
        "--metric",
        metric,
        "--device",
        "cpu",
        "--classes",
        ",".join(names),
    ]
    printed = json.loads(CliRunner().invoke(app, words).stdout)
    done = []
    given = {"metric": metric, "classes": ",".join(names)}
    result = boxwright.evaluate(
        str(checkpoint), str(data), device="cpu", progress=lambda *counts: done.append(counts), **given
    )
    assert result.figures == printed
    assert boxwright.evaluate(boxwright.load(checkpoint, "cpu"), data, **given).figures == printed
    assert done[-1] == (6, 6)
    assert "val_000001.jpg" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_what_the_figures_come_from_lies_beside_them(checkpoint, data, names):
    lines = []
    result = boxwright.evaluate(checkpoint, data, classes=",".join(names), limit=3, device="cpu", log=lines.append)
    count = 3 - result.inputs.unreadable
    assert len(result.detections) == len(result.ground_truths) == len(result.inputs.paths) == count
    assert any("val_000001.jpg" in line for line in lines)
    assert result.detections[0].classes == result.inputs.classes


def test_arguments_that_do_not_fit_are_refused(checkpoint, data):
    with pytest.raises(ValueError, match="metric 'ap'"):
        boxwright.evaluate(checkpoint, data, metric="ap", device="cpu")
    with pytest.raises(ValueError, match="no split"):
        boxwright.evaluate(checkpoint, data, "weekend", device="cpu")
