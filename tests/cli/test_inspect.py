"""The verb inspect: its tables, its JSON, its exit codes."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner, Result

from boxwright.cli.inspect import inspect


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        Image.new("RGB", (60, 40), (number, 0, 0)).save(tmp_path / f"p{number}.png")
        box = "<xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>9</ymax>"
        good = box.replace("<xmax>5", "<xmax>30")
        boxes = [good, box] if number == 0 else [good]
        objects = "".join(f"<object>\n<name>[b]no</name><bndbox>{corners}</bndbox></object>" for corners in boxes)
        (tmp_path / f"p{number}.xml").write_text(f"<annotation>{objects}</annotation>")
    return tmp_path


def call(*arguments: str | Path) -> Result:
    app = Typer()
    app.command()(inspect)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_report_names_file_line_and_box(folder: Path) -> None:
    result = call(folder)
    assert result.exit_code == 0
    assert f"{folder / 'p0.xml'}:2: the [b]no has a box of 0 x 4 pixels box 5, 5, 5, 9 (left out)" in result.stdout
    assert "0 errors, 1 warning, 0 notes" in result.stdout
    assert "128 and more" in result.stdout


def test_json_is_one_object_and_nothing_else(folder: Path) -> None:
    result = call(folder, "--json", "--split", "train")
    assert list(json.loads(result.stdout)["splits"]) == ["train"]


def test_strict_ends_with_one_where_there_are_findings(folder: Path) -> None:
    assert call(folder, "--strict").exit_code == 1
    (folder / "p0.xml").unlink()
    (folder / "p0.png").unlink()
    assert call(folder, "--strict", "--decode", "--json").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--split", "test"], "no split 'test'; it has train, val"),
        (["--classes", "nope"], "no class is called 'nope'"),
        (["--recipe", "fcoss"], "no recipe 'fcoss'"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    result = call(folder, *arguments)
    assert isinstance(result.exception, ValueError)
    assert sentence in str(result.exception)


def test_tables_are_whole_where_the_output_is_no_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide tables: a long class name, and a split for each of many lists."""
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "a-class-with-a-name-of-" + "very-" * 20 + "many-letters"
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for number in range(20):
        (folder / "ImageSets" / "Main" / f"list{number}.txt").write_text("p1\np2\n")
    for file in folder.glob("*.xml"):
        file.write_text(file.read_text().replace("[b]no", name))
    result = call(folder)
    assert result.exit_code == 0, result.exception
    assert name in result.stdout
    assert "…" not in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.strip().startswith(name))
    assert row.split()[1:] == ["1", *["2"] * 20]


def test_one_is_not_many(folder: Path) -> None:
    printed = call(folder).stdout
    assert "voc, 1 class\n" in printed
    assert "1 of the 3 train images was set aside" in printed


def test_objects_that_no_location_can_claim_are_said(tmp_path: Path) -> None:
    """Of two by two pixels where cells stand eight pixels apart; and a larger image helps."""
    for number in range(4):
        Image.new("RGB", (300, 240), (number, 0, 0)).save(tmp_path / f"p{number}.png")
        dot = "<xmin>9</xmin><ymin>9</ymin><xmax>11</xmax><ymax>11</ymax>"
        large = dot.replace("<xmax>11", "<xmax>200").replace("<ymax>11", "<ymax>180")
        boxes = "".join(f"<object><name>{name}</name><bndbox>{box}</bndbox></object>" for name, box in
                        (("[/]dot", dot), ("tree", large)))  # fmt: skip
        (tmp_path / f"p{number}.xml").write_text(f"<annotation>{boxes}</annotation>")
    content = json.loads(call(tmp_path, "--json").stdout)
    found = [row for row in content["findings"] if row["kind"] == "unclaimable-objects"]
    assert len(found) == len(content["splits"]) == 2
    assert "train: 3 of 6 objects can be claimed by no location with this recipe" in found[0]["message"]
    assert "([/]dot 3 of 3); what helps: a larger data.resize.size=" in found[0]["message"]
    assert "[/]dot 3 of 3" in call(tmp_path).stdout
    other = call(tmp_path, "--recipe", "faster-rcnn-small", "--json")  # every object has its best anchor there
    assert "unclaimable-objects" not in json.loads(other.stdout)["counts"]
