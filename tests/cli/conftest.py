"""What the tests of whole commands share: running a verb in this process, tiny settings, small VOC folders."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from boxwright.cli import main

TINY = (
    "data.batch_size=2", "optim.reference_batch=2", "schedule.steps=2", "validation.times=1", "model.fpn_channels=16",
    "model.stem_channels=[16]", "data.resize.size=64", "data.resize.max_size=128", "data.workers=0", "precision=fp32",
)  # fmt: skip


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
        assert self.err.count("boxwright: ") == 1, self
        assert "Traceback" not in self.err
        for part in parts:
            assert part in sentence, (part, sentence)


Call = Callable[..., Ended]


@pytest.fixture
def boxwright(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
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


def voc_object(name: str, box: tuple[float, float, float, float]) -> str:
    """One object of a VOC file."""
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{escape(name)}</name><bndbox>{corners}</bndbox></object>"


def write_voc(
    root: Path,
    train: Iterable[str] = ("p0.png", "p1.png"),
    val: Iterable[str] = ("p2.png", "p3.png"),
    names: tuple[str, ...] = ("cell", "dot"),
) -> Path:
    """A VOC folder of different pictures of 64 x 48 with one object of each class in each."""
    lists = {"train": list(train), "val": list(val)}
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for index, name in enumerate(lists["train"] + lists["val"]):
        picture = Image.new("RGB", (64, 48), (20, 3 * index, 20))
        picture.paste((250, 200, 10), (8, 8, 30, 30))
        picture.save(root / "JPEGImages" / name)
        objects = "".join(voc_object(label, (8 + k, 8, 30, 30)) for k, label in enumerate(names))
        write_labels(root, Path(name).stem, objects)
    for split, files in lists.items():
        stems = "\n".join(Path(name).stem for name in files)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(stems, encoding="utf-8")
    return root


def write_labels(root: Path, stem: str, objects: str) -> None:
    """The VOC file of one picture."""
    path = root / "Annotations" / f"{stem}.xml"
    path.write_text(f"<annotation>{objects}</annotation>", encoding="utf-8")


def snapshot(root: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its content, and every folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }
