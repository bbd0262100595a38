"""What the tests of whole commands share: running a verb in this process, and small VOC folders."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from boxwright.cli import main
from boxwright.evaluation import report, voc_report
from boxwright.training import plots

CHARTS = (report, voc_report, plots)
plain_figure = report.plain_figure


@pytest.fixture(scope="module", autouse=True)
def blank_charts() -> Iterator[None]:
    """Charts are put together but not painted, which takes longer than a short run: their files are blank.

    `real_charts` is for tests of what is painted; `tests/training/test_plots.py` and others look at all of it.
    """

    def blank_figure(width: float, height: float) -> Any:
        figure = plain_figure(width, height)

        def savefig(path: Path, **_: object) -> None:
            size = (round(inches * figure.dpi) for inches in figure.get_size_inches())
            Image.new("RGB", tuple(size), "white").save(path)

        figure.savefig = savefig
        return figure

    with pytest.MonkeyPatch.context() as patch:
        for module in CHARTS:
            patch.setattr(module, "plain_figure", blank_figure)
        yield


@pytest.fixture
def real_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are painted."""
    for module in CHARTS:
        monkeypatch.setattr(module, "plain_figure", plain_figure)


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, *parts: str) -> None:
        """Check that the command ended with one sentence that holds all parts."""
        sentence = self.err.splitlines()[-1] if self.err else ""
        assert self.code == 2, self
        assert sentence.startswith("boxwright: "), self
        assert "Traceback" not in self.err, self
        for part in parts:
            assert part in sentence, (part, sentence)


@pytest.fixture
def boxwright(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Ended]:
    """Runs a command in this process from an empty folder; any exception but SystemExit would be a traceback."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["boxwright", *map(str, words)])
        code: object = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code or 0
        printed = capfd.readouterr()
        assert isinstance(code, int)
        return Ended(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def voc() -> Callable[..., Path]:
    """Writes a VOC folder of different images of 64 x 48 with one object of each class in each."""

    def write(
        root: Path,
        train: Iterable[str] = ("p0.png", "p1.png"),
        val: Iterable[str] = ("p2.png", "p3.png"),
        names: tuple[str, ...] = ("cell", "dot"),
    ) -> Path:
        lists = {"train": list(train), "val": list(val)}
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)
        for index, name in enumerate(lists["train"] + lists["val"]):
            image = Image.new("RGB", (64, 48), (20, 3 * index, 20))
            image.paste((250, 200, 10), (8, 8, 30, 30))
            image.save(root / "JPEGImages" / name)
            objects = "".join(voc_object(label, (8 + k, 8, 30, 30)) for k, label in enumerate(names))
            file = root / "Annotations" / f"{Path(name).stem}.xml"
            file.write_text(f"<annotation>{objects}</annotation>", encoding="utf-8")
        for split, files in lists.items():
            stems = "\n".join(Path(name).stem for name in files)
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text(stems, encoding="utf-8")
        return root

    return write


def voc_object(name: str, box: tuple[float, float, float, float]) -> str:
    """One object of a VOC file."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{escape(name)}</name><bndbox>{corners}</bndbox></object>"
