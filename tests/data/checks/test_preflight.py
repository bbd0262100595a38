"""Every fault that preflight promises to find, and that it finds nothing else."""

import io
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from boxwright.data.checks.preflight import PreflightReport, preflight
from boxwright.data.checks.report_text import print_report
from boxwright.data.formats.folder import open_folder
from boxwright.data.records import Annotation, LabelledFolder, Problem, Record, Split
from boxwright.ops.image import ResizeRule
from boxwright.structures import Classes

SHARED = Path(__file__).resolve().parents[3] / "../shared/data"
CLASSES = Classes.named(["cat", "dog"], first_id=1)
Box = tuple[float, float, float, float]
GOOD: Box = (1, 1, 9, 9)


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared datasets do not lie beside this checkout")
    return SHARED


class Maker:
    """Builds records with images of different content, 40 pixels wide and 20 high."""

    def __init__(self, root: Path) -> None:
        self.root, self.count = root, 0

    def record(
        self, *boxes: Box, name: str = "", stated: tuple[int, int] | None = None, orientation: int = 1
    ) -> Record:
        self.count += 1
        path = self.root / (name or f"p{self.count}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        noise = np.random.default_rng(self.count).integers(0, 255, (20, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, exif=exif)
        items = tuple(Annotation(box, n % 2, f"{path.stem}.xml:{n + 5}") for n, box in enumerate(boxes))
        return Record(path, path.stem, stated, items, f"{path.stem}.xml")

    def data(self, data_format: str = "voc", **splits: list[Record]) -> LabelledFolder:
        made = {name: Split(name, tuple(records), CLASSES) for name, records in splits.items()}
        return LabelledFolder(self.root, data_format, CLASSES, made)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def kinds(report: PreflightReport) -> list[str]:
    return [finding.kind for finding in report.findings]


def kept(report: PreflightReport, split: str = "train") -> list[list[Box]]:
    return [[item.box for item in record.annotations] for record in report.dataset.splits[split].records]


def test_nothing_is_found_in_good_data(make: Maker) -> None:
    data = make.data(train=[make.record(GOOD, GOOD, stated=(20, 40))], val=[make.record(GOOD, (0, 0, 40, 20))])
    report = preflight(data)
    assert report.findings == ()
    assert kept(report) == [[GOOD, GOOD]]


@pytest.mark.parametrize(
    ("box", "kind", "severity"),
    [
        ((5, 5, 5, 9), "zero-area-box", "warning"),
        ((5, 9, 8, 9), "zero-area-box", "warning"),
        ((9, 5, 3, 9), "reversed-box", "error"),
        ((5, 9, 8, 3), "reversed-box", "error"),
        ((math.nan, 5, 8, 9), "non-finite-box", "error"),
        ((1, 5, math.inf, 9), "non-finite-box", "error"),
        ((41, 5, 50, 9), "outside-box", "warning"),
        ((5, -9, 8, -1), "outside-box", "warning"),
        ((40, 5, 50, 9), "outside-box", "warning"),
    ],
)
def test_a_bad_box_is_left_out_alone(make: Maker, box: Box, kind: str, severity: str) -> None:
    report = preflight(make.data(train=[make.record(GOOD, GOOD, box)]))
    (finding,) = report.findings
    assert (finding.kind, finding.severity, finding.quarantined) == (kind, severity, True)
    assert finding.where == "p1.xml:7"
    assert str(finding.box) == str(box)
    assert kept(report) == [[GOOD, GOOD]]


def test_a_box_partly_outside_is_clipped(make: Maker) -> None:
    report = preflight(make.data(train=[make.record((-0.5, 0, 40.9, 20), (30, 5, 48, 25))]))
    (finding,) = report.findings
    assert (finding.kind, finding.severity, finding.quarantined) == ("box-beyond-image", "note", False)
    assert "reaches 8 pixels beyond its image of 40 x 20" in finding.message
    assert kept(report) == [[(0, 0, 40, 20), (30, 5, 40, 20)]]


def test_an_object_labelled_twice(make: Maker) -> None:
    first = make.record(GOOD, GOOD, GOOD)
    report = preflight(make.data(train=[first]))
    assert [(f.kind, f.where) for f in report.findings] == [("duplicate-object", "p1.xml:7")]
    assert "duplicate of p1.xml:5" in report.findings[0].message


def test_missing_damaged_and_cut_images_are_left_out(make: Maker) -> None:
    gone, broken, cut, tail = (make.record(GOOD, GOOD) for _ in range(4))
    gone.path.unlink()
    broken.path.write_bytes(b"no image")
    cut.path.write_bytes(cut.path.read_bytes()[:-100])
    tail.path.write_bytes(tail.path.read_bytes() + bytes(500))
    report = preflight(make.data(train=[gone, broken, cut, tail, make.record(GOOD, GOOD)]))
    assert kinds(report) == ["missing-image", "unreadable-image", "unreadable-image"]
    assert [finding.where for finding in report.findings] == ["p1.xml", str(broken.path), str(cut.path)]
    assert all(finding.severity == "error" for finding in report.findings)
    assert report.dataset.splits["train"].records[0].path == tail.path
    assert len(report.dataset.splits["train"]) == 2


def test_damage_inside_is_found_by_decoding(make: Maker) -> None:
    path = make.root / "a.png"
    record = replace(make.record(GOOD, GOOD), path=path)
    noise = np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    assert kinds(preflight(make.data(train=[record]))) == []
    report = preflight(make.data(train=[record]), check_pixels=True)
    assert kinds(report)[:2] == ["unreadable-image", "no-image-left"]


def test_sizes_that_disagree(make: Maker) -> None:
    records = [
        make.record(GOOD, GOOD, stated=(20, 40)),
        make.record(GOOD, GOOD, stated=(20, 41)),
        make.record(GOOD, GOOD, stated=(20, 40), orientation=6),
        make.record(GOOD, GOOD, stated=(40, 20), orientation=6),
    ]
    report = preflight(make.data(train=records))
    assert [(f.kind, f.where) for f in report.findings] == [
        ("size-mismatch", "p2.xml"),
        ("size-mismatch-exif", "p3.xml"),
    ]
    assert "gives 41 x 20 pixels" in report.findings[0].message
    assert "EXIF rotation" in report.findings[1].message
    cleaned = report.dataset.splits["train"].records
    assert [record.stated_hw for record in cleaned] == [(20, 40), (20, 40), (40, 20), (40, 20)]


def test_the_same_image_twice(make: Maker) -> None:
    first, copy, other = make.record(GOOD, GOOD), make.record(GOOD, GOOD), make.record(GOOD, GOOD)
    copy.path.write_bytes(first.path.read_bytes())
    within = preflight(make.data(train=[first, copy, other]))
    assert [(f.kind, f.where) for f in within.findings] == [("duplicate-image", str(first.path))]
    assert copy.path.name in within.findings[0].message
    across = preflight(make.data(train=[first, other], test=[copy]))
    assert [(f.kind, f.where) for f in across.findings] == [("image-in-two-splits", str(first.path))]
    listed = preflight(make.data(train=[first, other], test=[other]))
    assert [(f.kind, f.where) for f in listed.findings] == [("image-in-two-splits", str(other.path))]


def test_trainval_may_repeat_train_and_val_and_says_nothing_twice(make: Maker) -> None:
    bad, good = make.record(GOOD, GOOD, (3, 3, 3, 3)), make.record(GOOD, GOOD)
    report = preflight(make.data(train=[bad], val=[good], trainval=[bad, good]))
    assert kinds(report) == ["zero-area-box"]


def test_names_that_repeat_across_splits_are_one_note(make: Maker) -> None:
    train = [make.record(GOOD, GOOD, name=f"train/{n}.jpg") for n in range(3)]
    test = [make.record(GOOD, GOOD, name=f"test/{n}.jpg") for n in range(1, 4)]
    (finding,) = preflight(make.data(train=train, test=test)).findings
    assert (finding.kind, finding.severity) == ("same-name-in-two-splits", "note")
    assert "2 file names" in finding.message


def test_empty_images_and_absent_classes(make: Maker) -> None:
    empty, robbed, cat = make.record(), make.record((3, 3, 3, 3)), make.record(GOOD)
    report = preflight(make.data(train=[empty, robbed, cat], val=[make.record(GOOD, GOOD)]))
    assert [(f.kind, f.severity) for f in report.findings] == [
        ("zero-area-box", "warning"),
        ("no-usable-object", "warning"),
        ("class-missing-in-split", "warning"),
        ("empty-image", "note"),
    ]
    assert report.findings[2].message == "train has no object of dog"
    assert report.statistics["train"].empty == 1
    assert report.statistics["train"].per_class == {"cat": 1, "dog": 0}
    assert "class-without-objects" in kinds(preflight(make.data(train=[cat])))


def test_class_names_that_differ_in_case_only(make: Maker) -> None:
    data = make.data(train=[make.record(GOOD, GOOD)])
    alike = Classes.named(["Dog", "dog"])
    data = replace(data, classes=alike, splits={"train": replace(data.splits["train"], classes=alike)})
    assert kinds(preflight(data)) == ["similar-class-names"]


def test_boxes_that_are_all_fractions(make: Maker) -> None:
    data = make.data(train=[make.record((0.1, 0.1, 0.5, 0.5), (0.2, 0.2, 1, 1), (0, 0.2, 0.5, 0.9))])
    assert kinds(preflight(data)) == ["boxes-look-normalised"]


def test_boxes_that_are_corner_and_size(make: Maker) -> None:
    boxes: list[Box] = [(20 + n, 10, 8, 6) for n in range(5)]
    report = preflight(make.data(train=[make.record(GOOD, GOOD, *boxes)]))
    assert kinds(report) == ["boxes-look-like-xywh"] + ["reversed-box"] * 5


def test_coco_boxes_that_are_two_corners(make: Maker) -> None:
    corners: list[Box] = [(10 + n, 5, 35, 19) for n in range(5)]
    boxes = [(x1, y1, x1 + x2, y1 + y2) for x1, y1, x2, y2 in corners]
    report = preflight(make.data("coco", train=[make.record(*boxes)]))
    assert kinds(report)[0] == "boxes-look-like-xyxy"


def test_sizes_by_level(make: Maker) -> None:
    data = make.data(train=[make.record((0, 0, 8, 4), (0, 0, 16, 8), (0, 0, 4, 20))])
    ranges = [(0.0, 4.0), (4.0, 8.0), (8.0, math.inf)]
    assert preflight(data, level_ranges=ranges).statistics["train"].per_level == (0, 1, 2)
    halved = preflight(data, level_ranges=ranges, resize=ResizeRule("fixed", height=10, width=20))
    assert halved.statistics["train"].per_level == (1, 2, 0)
    assert halved.statistics["train"].side_px == pytest.approx((32**0.5, 80**0.5, 128**0.5))


def test_damaged_masks_are_found_when_asked(make: Maker) -> None:
    record = make.record(GOOD, GOOD)
    bad = replace(record.annotations[0], segmentation={"size": [20, 40], "counts": [3]})
    data = make.data(train=[replace(record, annotations=(bad, record.annotations[1]))])
    assert preflight(data).findings == ()
    report = preflight(data, check_masks=True)
    assert kinds(report)[0] == "bad-mask"
    assert kept(report) == [[GOOD, GOOD]]  # without its box it would be learnt as background
    assert report.dataset.splits["train"].records[0].annotations[0].segmentation is None


BOXES: list[Box] = [(1, 1, 9, 9), (20, 2, 38, 18)]


@pytest.mark.parametrize("part", [[3, 3, 4, 4], [3, 3], []])
def test_a_part_of_a_mask_without_area_costs_nothing_but_itself(make: Maker, part: list[float]) -> None:
    record = make.record(BOXES[0])
    mask = [[1, 1, 9, 1, 9, 9, 1, 9], part]
    items = (replace(record.annotations[0], segmentation=mask),)
    report = preflight(make.data(train=[replace(record, annotations=items)]), need_masks=True, check_masks=True)
    assert not {"bad-mask", "empty-mask", "mask-off-box"} & set(report.counts())
    assert report.dataset.splits["train"].records[0].annotations[0].segmentation == mask


@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        ({"size": [20, 40], "counts": [3]}, "bad-mask", "run-length code of 3 pixels for an image of 20 x 40"),
        ({"size": [40, 20], "counts": [800]}, "bad-mask", "it is 40 x 20, the image 20 x 40"),
        ([[1, 1, 9, 9]], "bad-mask", "a polygon needs at least three x, y pairs, got 4 numbers"),
        ([[1, 1, 9, 10**400, 9, 9]], "bad-mask", "int too large to convert to float"),
        ({"size": [20, 40], "counts": [800]}, "empty-mask", "covers no pixel"),
        ([[60, 60, 70, 60, 70, 70]], "empty-mask", "covers no pixel"),
        ([[1, 1, 5, 5, 9, 9], [3, 3, 3, 3, 3, 3]], "empty-mask", "covers no pixel"),  # a line, and a point
        ([[30, 10, 38, 10, 38, 18, 30, 18]], "mask-off-box", "lies elsewhere than its box (x 30 to 38, y 10 to 18)"),
        (None, "missing-mask", "the cat has no mask: only its box is used in training"),
    ],
)
def test_a_mask_that_cannot_be_used_costs_its_object_nothing_else(
    make: Maker, mask: object, kind: str, message: str
) -> None:
    record = make.record(*BOXES)
    good = replace(record.annotations[1], segmentation=[[20, 2, 38, 2, 38, 18]])
    items = (replace(record.annotations[0], segmentation=mask), good)
    report = preflight(make.data(train=[replace(record, annotations=items)]), need_masks=True)
    (finding,) = [finding for finding in report.findings if finding.kind == kind]
    assert finding.where == items[0].where
    assert message in finding.message
    assert not finding.quarantined
    kept_items = report.dataset.splits["train"].records[0].annotations
    assert [item.box for item in kept_items] == BOXES
    # an empty mask stays one: nothing to learn from, and evaluation counts it as missed
    left = mask if kind == "empty-mask" else None
    assert [item.segmentation for item in kept_items] == [left, good.segmentation]


def test_a_mask_whose_outline_crosses_itself_is_one(make: Maker) -> None:
    record = make.record(BOXES[0])
    item = replace(record.annotations[0], segmentation=[[1, 1, 9, 9, 9, 1, 1, 9]])  # its two halves turn oppositely
    report = preflight(make.data(train=[replace(record, annotations=(item,))]), need_masks=True)
    assert "empty-mask" not in kinds(report)
    assert report.dataset.splits["train"].records[0].annotations[0].segmentation == item.segmentation


def test_a_mask_that_leaves_its_image_is_told_and_clipped(make: Maker) -> None:
    record = make.record((20, 2, 40, 20))
    item = replace(record.annotations[0], segmentation=[[20, 2, 50, 2, 50, 30, 20, 30]])
    report = preflight(make.data(train=[replace(record, annotations=(item,))]), need_masks=True)
    (finding,) = report.serious
    assert finding.kind == "mask-beyond-image"
    assert "reaches 10 pixels beyond its image of 40 x 20" in finding.message
    assert report.dataset.splits["train"].records[0].annotations[0].segmentation == item.segmentation


def test_masks_are_missed_only_where_they_are_needed(make: Maker) -> None:
    record = make.record(GOOD, (20, 2, 38, 18))
    crowd = replace(record.annotations[1], ignore=True)
    data = make.data(train=[replace(record, annotations=(record.annotations[0], crowd))])
    assert "missing-mask" not in kinds(preflight(data, check_masks=True))
    assert kinds(preflight(data, need_masks=True)).count("missing-mask") == 1  # an ignored region needs none


def test_ignored_regions_are_counted_apart(make: Maker) -> None:
    record = make.record(GOOD, GOOD)
    items = (record.annotations[0], replace(record.annotations[1], ignore=True))
    report = preflight(make.data(train=[replace(record, annotations=items)]))
    assert (report.statistics["train"].objects, report.statistics["train"].ignored) == (1, 1)


def test_the_report_is_plain_json(make: Maker) -> None:
    report = preflight(make.data(train=[make.record(GOOD, (math.nan, 1, 2, math.inf))]), level_ranges=[(0, math.inf)])
    text = json.dumps(report.as_dict(), allow_nan=False)
    loaded = json.loads(text)
    assert loaded["findings"][0]["box"] == ["nan", 1, 2, "inf"]
    assert loaded["classes"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert loaded["splits"]["train"]["images"] == 1
    assert sum(loaded["counts"].values()) == len(report.findings)


def test_bccd_has_exactly_two_zero_area_boxes(shared: Path) -> None:
    report = preflight(open_folder(shared / "bccd"))
    assert [(f.kind, Path(f.where).name, f.box) for f in report.findings] == [
        ("zero-area-box", "BloodImage_00338.xml:158", (504, 337, 504, 337)),
        ("zero-area-box", "BloodImage_00343.xml:50", (181, 329, 181, 329)),
    ]
    assert report.statistics["trainval"].objects + report.statistics["test"].objects == 4886


def test_fod_has_a_repeated_line_and_two_images_in_both_splits(shared: Path) -> None:
    report = preflight(open_folder(shared / "fod"))
    assert {(f.kind, Path(f.where).name) for f in report.serious} == {
        ("repeated-line", "train.txt:1470"),
        ("repeated-line", "train.txt:1471"),
        ("image-in-two-splits", "014567.jpg"),
        ("image-in-two-splits", "016653.jpg"),
    }


def test_an_image_whose_only_object_was_rejected_is_not_learnt_as_background(make: Maker) -> None:
    """By preflight (a box of no area, one outside) or by the reader (`rejected`); one good object keeps its image."""
    bad, outside = make.record((3, 3, 3, 3)), make.record((60, 1, 70, 9))
    unread, half, empty = replace(make.record(), rejected=1), replace(make.record(GOOD), rejected=1), make.record()
    report = preflight(make.data(train=[bad, outside, unread, half, empty, make.record(GOOD, GOOD)]))
    assert [record.path for record in report.dataset.splits["train"].records][:2] == [half.path, empty.path]
    assert len(report.dataset.splits["train"]) == 3
    told = [finding for finding in report.findings if finding.kind == "no-usable-object"]
    assert [finding.where for finding in told] == [str(record.path) for record in (bad, outside, unread)]
    assert all(finding.quarantined and "left out" in finding.message for finding in told)


@pytest.mark.parametrize(
    ("row", "labels"), [("0 0.5 0.5 2 2", "p.txt"), ("7 0.5 0.5 0.1 0.1", "p.txt"), ("0 0.5 0.5 0.1 0.1 0.9", "p.txt")]
)
def test_a_yolo_image_whose_only_row_was_rejected_is_left_out(tmp_path: Path, row: str, labels: str) -> None:
    for stem, text in (("p", row), ("q", "0 0.5 0.5 0.2 0.2"), ("r", "")):
        Image.new("RGB", (40, 20)).save(tmp_path / f"{stem}.png")
        (tmp_path / f"{stem}.txt").write_text(text)
    (tmp_path / "classes.txt").write_text("dog\n")
    report = preflight(open_folder(tmp_path))
    kept_stems = {record.path.stem for part in report.dataset.splits.values() for record in part.records}
    assert kept_stems == {"q", "r"}
    assert "no-usable-object" in kinds(report)


def test_a_polygon_that_cannot_be_drawn_is_found_before_training(make: Maker) -> None:
    zigzag = [float(v) for n in range(50_000) for v in (40 * (n % 2), n % 20)]
    record = make.record(GOOD, GOOD)
    items = (replace(record.annotations[0], segmentation=[zigzag]), record.annotations[1])
    report = preflight(make.data(train=[replace(record, annotations=items)]), check_masks=True)
    (finding,) = [finding for finding in report.findings if finding.kind == "bad-mask"]
    assert "has an outline of 2000000 pixels" in finding.message
    assert report.dataset.splits["train"].records[0].annotations[0].segmentation is None


def test_a_hundred_thousand_bad_rows_are_a_summary_within_seconds(tmp_path: Path) -> None:
    """And many equal images and classes: nothing here grows with the square."""
    Image.new("RGB", (40, 20)).save(tmp_path / "p.png")
    (tmp_path / "p.txt").write_text("0 0.5 0.5 0.2 0.2\n" + "x 0.5 0.5 0.2 0.2\n" * 100_000)
    for number in range(300):
        Image.new("RGB", (40, 20), (9, 9, 9)).save(tmp_path / f"same{number}.png")
    begun = time.monotonic()
    report = preflight(open_folder(tmp_path))
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    assert time.monotonic() - begun < 15
    assert len(report.findings) > 100_000
    text = out.getvalue()
    assert "p.txt:2: 'x' is not a number" in text
    assert "... and 99990 more; --all shows them" in text
    assert len(text) < 30_000


def test_printing_is_linear_in_the_findings(make: Maker) -> None:
    report = preflight(make.data(train=[make.record(GOOD, GOOD)]))
    found = tuple(Problem(f"kind-{n % 50}", f"/x/{n}.jpg", "damaged", severity="error") for n in range(100_000))
    for shown in (10, None):
        begun = time.monotonic()
        print_report(replace(report, findings=found), Console(file=io.StringIO(), width=200), shown)
        assert time.monotonic() - begun < 15


def test_many_classes_are_cut_and_said(make: Maker) -> None:
    classes = Classes.named([f"c{n}" for n in range(5000)])
    data = make.data(train=[make.record(GOOD, GOOD)])
    data = replace(data, classes=classes, splits={"train": replace(data.splits["train"], classes=classes)})
    out = io.StringIO()
    print_report(preflight(data), Console(file=out, width=200))
    assert "and 4800 classes more; --all shows them" in out.getvalue()
    assert "no split has an object of c2, c3" in out.getvalue()
    assert len(out.getvalue()) < 20_000
