"""Annotation files of any content end in data or one sentence, soon, never in a traceback, a hang or half the memory.

A corpus of our own making (a small data set of each format) is mutated, bytes and values, with a fixed budget of
examples and a fixed order. Each mutated folder goes through opening, preflight with masks, and the report.
"""

from __future__ import annotations

import io
import json
import random
import resource
import signal
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from whole_masks import rasterise_polygons

from boxwright.data.checks.preflight import preflight
from boxwright.data.checks.report_text import print_report
from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.ops.masks import encode_rle
from boxwright.reading.values import flag, identity, number, numbers, polygons, whole_number

SECONDS = 60
"""For one small folder, which takes far less unless something hangs."""
HW = (24, 32)
BUDGET = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MUTATIONS = 400


@contextmanager
def in_time() -> Iterator[None]:
    """Fail where the block takes longer than `SECONDS`."""

    def late(*_: object) -> None:
        raise AssertionError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """At most 3 GB more than now: a mask whose declared size is terabytes cannot be made."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def looked_at(folder: Path) -> bool:
    """Whether a folder is a dataset; an error is one sentence that names a file or folder of it."""
    with in_time():
        try:
            data = open_folder(folder)
        except (ValueError, OSError) as error:
            text = str(error)
            assert str(folder) in text, text
            assert "\n" not in text, text
            assert len(text) < 3000, text[:500]
            return False
        report = preflight(data, check_masks=True, need_masks=True)
        out = io.StringIO()
        print_report(report, Console(file=out, width=200))
        json.dumps(report.as_dict())
        for split in report.dataset.splits.values():
            for record in split.records[:20]:
                assert record.stated_hw is not None
                ground_truth_of(record, record.stated_hw, masks=True)
        assert all(finding.where and finding.message and "\n" not in finding.message for finding in report.findings)
        assert all(len(finding.message) < 3000 for finding in report.findings)
    return True


# ---- the corpus -----------------------------------------------------------------------------------------------------


def save_images(folder: Path, names: tuple[str, ...] = ("a.png", "b.png", "c.png")) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        Image.new("RGB", (HW[1], HW[0]), (40 * index, 9, 9)).save(folder / name)


def coco(root: Path) -> Path:
    save_images(root / "images")
    images = [{"id": n, "file_name": f"{stem}.png", "width": HW[1], "height": HW[0]} for n, stem in enumerate("abc", 1)]
    code = encode_rle(rasterise_polygons([[2, 2, 12, 2, 12, 12]], HW))
    masks: list[Any] = [[[2, 2, 12, 2, 12, 12]], code, {"size": list(HW), "counts": [50, 10, 708]}, []]
    rows = [
        {
            "id": n,
            "image_id": n % 3 + 1,
            "category_id": n % 2 + 1,
            "bbox": [2, 2, 10, 10],
            "area": 50.0,
            "iscrowd": 0,
            "segmentation": masks[n % 4],
        }
        for n in range(8)
    ]
    categories = [{"id": 1, "name": "dog", "supercategory": "x"}, {"id": 2, "name": "cat"}]
    file = root / "annotations" / "instances_train.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return file


def voc(root: Path) -> Path:
    save_images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for stem in "abc":
        text = (
            f'<?xml version="1.0" encoding="utf-8"?>\n<annotation><filename>{stem}.png</filename><size>'
            "<width>32</width><height>24</height></size>\n<object><name>dog</name><difficult>0</difficult><bndbox><xmin>2</xmin>"
            "<ymin>3</ymin><xmax>12</xmax><ymax>13</ymax></bndbox></object>\n</annotation>"
        )
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    return root / "Annotations" / "a.xml"


def cvat(root: Path) -> Path:
    save_images(root / "images")
    box = '<box label="dog" xtl="2" ytl="3" xbr="12" ybr="13" rotation="10"/>'
    shapes = f'{box}<polygon label="dog" points="2,2;12,2;12,12"/><ellipse label="cat" cx="9" cy="9" rx="4" ry="3"/>'
    shapes += '<mask label="cat" rle="2, 3, 1" left="4" top="5" width="3" height="2"/>'
    images = [
        f'<image id="{n}" name="{stem}.png" width="32" height="24">{shapes}</image>' for n, stem in enumerate("abc")
    ]
    file = root / "annotations.xml"
    file.write_text(f"<annotations><version>1.1</version>{''.join(images)}</annotations>")
    return file


def yolo(root: Path) -> Path:
    save_images(root / "images")
    (root / "labels").mkdir()
    for stem in "abc":
        (root / "labels" / f"{stem}.txt").write_text("0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n")
    (root / "data.yaml").write_text("train: images\nnames: [dog, cat]\n")
    return root / "labels" / "a.txt"


def yolo_yaml(root: Path) -> Path:
    yolo(root)
    return root / "data.yaml"


CORPUS: dict[str, Callable[[Path], Path]] = {
    "coco": coco,
    "voc": voc,
    "cvat": cvat,
    "yolo": yolo,
    "yolo_yaml": yolo_yaml,
}
WORDS = [b"", b"\0", b"-1", b"0", b"1e400", b"NaN", b"null", b"true", b'"', b"<", b">", b"&lol;", b"]", b"[", b"{"]
WORDS += [b"}", b"9" * 5000, b"\xff\xfe", b"\xf0\x9f\x90\x95", b"../" * 300, b"\n", b"<!DOCTYPE a>", b"a: &a [*a]"]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four cuts, repeats, flips and insertions."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((1, 2, 8, 60)))
        kind = chance.randrange(5)
        if kind == 0:
            data = data[:start] + data[end:]
        elif kind == 1:
            data = data[:start] + data[start:end] * chance.choice((2, 3, 1000)) + data[end:]
        elif kind == 2 and start < len(data):
            data = data[:start] + bytes([data[start] ^ (1 << chance.randrange(8))]) + data[start + 1 :]
        elif kind == 3:
            data = data[:start] + chance.choice(WORDS) + data[end:]
        else:
            data = data[:start]
    return data


@pytest.mark.slow
@pytest.mark.parametrize("name", CORPUS)
def test_mutated_files_are_data_or_a_sentence(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    file = CORPUS[name](root)
    assert looked_at(root)
    good = file.read_bytes()
    chance = random.Random(zlib.crc32(name.encode()))
    usable = 0
    for _ in range(MUTATIONS):
        file.write_bytes(mutated(good, chance))
        usable += looked_at(root)
    assert usable > MUTATIONS / 20  # else the corpus says nothing about what comes after opening


# ---- values ---------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.integers(0, 40).map(str),
    st.sampled_from(["1.0", "0", "-1", "nan", "1e999", "x" * 5000, 10**30, 1e308, "1", 1.0, 2, [], {}, "maybe"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=12,
)
COORDINATES = st.one_of(st.floats(-50, 90), st.integers(-9, 99), st.floats(), st.integers(0, 30).map(str), SCALARS)
POLYGONS = st.lists(st.lists(COORDINATES, max_size=14), max_size=3)
CODES = st.fixed_dictionaries(
    {
        "size": st.one_of(st.just(list(HW)), st.lists(st.integers(-1, 10**12), max_size=3), VALUES),
        "counts": st.one_of(
            st.text("0123456789:;<=>?@ABCPQRSTo`abc", max_size=60), st.lists(st.integers(-5, 900)), VALUES
        ),
    }
)
FIELDS = (
    "id",
    "image_id",
    "category_id",
    "bbox",
    "area",
    "iscrowd",
    "segmentation",
    "file_name",
    "width",
    "height",
    "name",
    "supercategory",
)
CHANGES = st.dictionaries(
    st.tuples(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 7), st.sampled_from(FIELDS)),
    st.one_of(VALUES, POLYGONS, CODES),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@BUDGET
@given(changes=CHANGES)
def test_a_coco_file_may_hold_anything(tmp_path_factory: pytest.TempPathFactory, changes: dict[Any, Any]) -> None:
    root = tmp_path_factory.mktemp("coco")
    file = coco(root)
    content = json.loads(file.read_text())
    for (part, index, field), value in changes.items():
        rows = content[part]
        rows[index % len(rows)][field] = value
    file.write_text(json.dumps(content))
    looked_at(root)


ROWS = st.lists(st.lists(st.one_of(st.floats(-0.1, 1.1), st.integers(-1, 3), SCALARS), max_size=20), max_size=6)


@pytest.mark.slow
@BUDGET
@given(rows=ROWS, names=st.lists(st.sampled_from(["a.txt", "A.TXT", "a.png.txt", "d.txt", "b.txt"]), max_size=3))
def test_label_files_may_hold_anything(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[Any]], names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("yolo")
    yolo(root)
    text = "\n".join(" ".join(map(str, row)) for row in rows)
    for name in names or ["a.txt"]:
        (root / "labels" / name).write_text(text, encoding="utf-8", errors="replace")
    looked_at(root)


@pytest.mark.slow
@BUDGET
@given(value=VALUES)
def test_a_checked_conversion_gives_its_type_or_none(value: Any) -> None:
    assert number(value) is None or type(number(value)) is float
    assert whole_number(value) is None or type(whole_number(value)) is int
    assert flag(value) in (None, True, False)
    assert identity(value) is None or type(identity(value)) in (int, str)
    assert numbers(value) is None or {type(item) for item in numbers(value) or ()} <= {int, float}
    assert polygons(value) is None or all(isinstance(part, list) for part in polygons(value) or ())


@pytest.mark.slow
@pytest.mark.parametrize("count", [1000, 100_000])
@pytest.mark.parametrize("name", ["coco", "voc", "cvat", "yolo"])
def test_many_bad_rows_are_read_in_seconds(tmp_path: Path, name: str, count: int) -> None:
    root = tmp_path / name
    root.mkdir()
    file = CORPUS[name](root)
    text = file.read_text()
    if name == "coco":
        content = json.loads(text)
        content["annotations"] += [{"id": n, "image_id": 1, "category_id": "?", "bbox": [1]} for n in range(count)]
        file.write_text(json.dumps(content))
    elif name == "voc":
        file.write_text(text.replace("</annotation>", "<object><name>dog</name></object>\n" * count + "</annotation>"))
    elif name == "cvat":
        file.write_text(text.replace("</image>", '<box label="dog" xtl="x"/>\n' * count + "</image>", 1))
    else:
        file.write_text(text + "0 0.5 0.5 0.2\n" * count)
    assert looked_at(root)
