"""report.html: every mistake is of one kind, names stay data, colours can be read, advice follows from findings."""

import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.evaluation.detect_split import EvaluationInputs
from boxwright.evaluation.page.advice import advice
from boxwright.evaluation.page.charts import Line, line_chart, ticks
from boxwright.evaluation.page.comparing import standings
from boxwright.evaluation.page.data_section import data_section, ground_truth_marks
from boxwright.evaluation.page.drawn import marked_image, small_image
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.mistakes import KINDS, find_mistakes
from boxwright.evaluation.page.page import report_page
from boxwright.evaluation.summary import evaluate_detections
from boxwright.ops.rotated import rotated_hull
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth, Skeleton
from boxwright.visualize.drawing import draw

HOSTILE = ["<script>alert(1)</script>", '"><img src=http://a.b/c onerror=x>', "two\nlines", "\ud800", "]]>&amp;", " "]
TWO = Classes.named(["cat", "dog"])


def detections(rows, classes=TWO, size_hw=(100, 100)):
    """Detections of rows (box, label, score)."""
    boxes = torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([row[2] for row in rows], dtype=torch.float32)
    return Detections(boxes, scores, torch.tensor([row[1] for row in rows], dtype=torch.int64), size_hw, classes)


def facts_of(found, wanted, classes=TWO, name="run", rows=(), check=None, paths=None):
    paths = paths or [Path(f"{number}.jpg") for number in range(len(found))]
    ids, areas = list(range(len(found))), [[None] * len(one) for one in wanted]
    inputs = EvaluationInputs(found, wanted, classes, ids, paths, areas)
    return RunFacts(
        name, "fcos", "data", "train", "val", inputs, evaluate_detections(found, wanted, classes), rows, check,
        lambda path: torch.zeros(3, 100, 100, dtype=torch.uint8),
    )  # fmt: skip


def one_of_each():
    wanted = [
        GroundTruth.of([[0, 0, 20, 20], [30, 0, 50, 20], [60, 0, 80, 20]], [0, 0, 1]),
        GroundTruth.of([[0, 0, 20, 20], [50, 50, 90, 90]], [0, 0], [False, True]),
    ]
    found = [
        detections([
            ([0, 0, 20, 20], 0, 0.9),  # right
            ([1, 0, 20, 20], 0, 0.8),  # duplicate
            ([40, 0, 60, 20], 0, 0.7),  # badly placed: a third of both
            ([60, 0, 80, 20], 0, 0.6),  # wrong class
            ([0, 60, 20, 80], 1, 0.5),  # on background
            ([0, 0, 20, 20], 1, 0.1),  # below the threshold
        ]),
        detections([([52, 52, 88, 88], 0, 0.9)]),  # an ignored region: neither right nor wrong
    ]  # fmt: skip
    return found, wanted


def test_every_detection_and_object_is_of_one_kind():
    mistakes = find_mistakes(*one_of_each(), 2, score=0.3)
    assert mistakes.of_detection == ("", "duplicate", "badly placed", "wrong class", "false", "")
    assert mistakes.of_object == ("", "badly placed", "wrong class", "missed", "")
    assert mistakes.partner.tolist() == [0, 0, 1, 2, -1, -1]
    assert mistakes.counts() == dict.fromkeys(KINDS, 1)
    assert mistakes.worst_images("missed", 5) == [1]
    assert mistakes.worst_images("false", 5) == [0]


def test_nothing_found_means_that_everything_is_missed_and_nothing_labelled_that_everything_is_false():
    found, wanted = one_of_each()
    nothing = find_mistakes([detections([])] * 2, wanted, 2, score=0.3)
    assert nothing.counts() == {**dict.fromkeys(KINDS, 0), "missed": 4}
    assert nothing.worst_images("missed", 1) == [0]  # three of the four
    background = find_mistakes(found, [GroundTruth.of([], [])] * 2, 2, score=0.3)
    assert background.counts() == {**dict.fromkeys(KINDS, 0), "false": 6}
    assert background.worst_images("false", 5) == [0, 1]


class Page(HTMLParser):
    """Tags, and what of them a screen reader needs."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.links = set(), [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key in ("src", "href") and value]
        if tag == "th":
            assert given.get("scope") in ("row", "col")
        if tag == "svg":
            assert given.get("aria-hidden") == "true" or given.get("aria-label")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key in ("src", "href") and value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("several", [False, True])
def test_a_page_of_hostile_names_is_well_formed_and_reaches_for_nothing(several):
    classes = Classes.named(HOSTILE)
    boxes = [[15.0 * k, 5.0, 15.0 * k + 12, 30.0] for k in range(len(HOSTILE))]
    wanted = [GroundTruth.of(boxes, list(range(len(HOSTILE))))] * 2
    found = [detections([(box, (k + 1) % 6, 0.5) for k, box in enumerate(boxes)], classes)] * 2
    paths = [Path(f"{HOSTILE[0].replace('/', '')}.jpg"), Path(f"{HOSTILE[3]}&.jpg")]
    finding = {"kind": "<b>", "where": HOSTILE[1], "message": HOSTILE[0], "severity": "error"}
    split = {"images": 2, "empty": 0, "objects": 12, "ignored": 0, "per_class": dict.fromkeys(HOSTILE, 2),
             "side_px": None, "smallest_hw": None, "largest_hw": None}  # fmt: skip
    check = {"root": HOSTILE[1], "format": "voc", "splits": {HOSTILE[0]: split}, "findings": [finding] * 7}
    runs = [facts_of(found, wanted, classes, name, [{"step": 2, "val/AP": 0.1}], check, paths) for name in HOSTILE[:2]]
    html = report_page(runs if several else runs[:1])
    html.encode()  # no half character is left
    page = Page(html)
    assert not page.open
    assert not {"script", "img", "link", "iframe"} & page.tags
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert "default-src 'none'" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_an_image_with_several_kinds_of_mistakes_is_read_once():
    found, wanted = one_of_each()
    read = []
    facts = facts_of(found, wanted)
    object.__setattr__(facts, "read", lambda path: (read.append(path), torch.zeros(3, 80, 120, dtype=torch.uint8))[1])
    html = report_page([facts])
    assert sorted(read) == sorted(set(read))
    assert html.count('viewBox="0 0 120 80"') > len(read)


def test_a_run_that_found_nothing_of_nothing_has_a_page():
    html = report_page([facts_of([detections([])], [GroundTruth.of([], [])])])
    assert not Page(html).open
    assert "No mistakes at this score" in html
    assert "Nothing to draw" in html


def test_equal_runs_differ_by_nothing_and_a_better_one_is_told():
    generator = np.random.default_rng(0)
    wanted, good, bad = [], [], []
    for number in range(40):
        x, y = generator.integers(0, 60, 2).tolist()
        wanted.append(GroundTruth.of([[x, y, x + 20, y + 20]], [number % 2]))
        good.append(detections([([x, y, x + 20, y + 20], number % 2, 0.9)]))
        bad.append(good[-1] if number % 4 == 0 else detections([([x, y, x + 20, y + 20], 1 - number % 2, 0.8)]))
    runs = [facts_of(found, wanted, name=name) for found, name in ((bad, "a"), (bad, "b"), (good, "c"))]
    first, same, better = standings(runs)
    assert first.difference is None
    assert (same.difference, same.difference_around) == (0.0, (0.0, 0.0))
    assert 0 < better.difference_around[0] <= better.difference
    assert better.difference == pytest.approx(better.ap - first.ap)
    html = report_page(runs)
    assert 'c is <span class="better">better</span> than the first' in html
    assert "b: these images cannot tell it from the first" in html


def test_runs_on_other_images_or_classes_are_not_put_side_by_side():
    found, wanted = one_of_each()
    first = facts_of(found, wanted, name="a")
    with pytest.raises(ValueError, match=r"a was evaluated on 2 images of data \(val\), b on 2 of data"):
        report_page([first, facts_of(found, wanted, name="b", paths=[Path("x.jpg"), Path("y.jpg")])])
    other = Classes.named(["cat", "cow"])
    with pytest.raises(ValueError, match="a has the classes cat, dog, b has cat, cow: only runs with the same classes"):
        report_page([first, facts_of([detections([], other)] * 2, wanted, other, "b")])


def test_advice_follows_from_the_findings():
    found, wanted = one_of_each()
    findings = [
        {"kind": "image-in-two-splits", "where": "a.jpg", "message": "twice", "severity": "warning"},
        {"kind": "zero-area-box", "where": "a.xml:3", "message": "the box is empty", "severity": "error"},
    ]
    check = {"splits": {"train": {"per_class": {"cat": 500, "dog": 3}}}, "findings": findings}
    rows = [{"step": step, "val/loss": loss, "val/AP": 0.5} for step, loss in ((1, 2.0), (2, 1.0), (3, 1.5), (4, 2.0))]
    said = " ".join(f"{one.do}: {one.because}" for one in advice(facts_of(found, wanted, rows=rows, check=check)))
    for words in ("1 image of one split", "the first: the box is empty", "training objects: dog (3)",
                  "least at step 2 and rose by 100%"):  # fmt: skip
        assert words in said
    calm = advice(facts_of(*perfect()))
    assert [one.do for one in calm] == ["Evaluate once on images that no choice was made by"]


def perfect():
    wanted = [GroundTruth.of([[0, 0, 50, 50]], [0])] * 4
    return [detections([([0, 0, 50, 50], 0, 0.9)])] * 4, wanted


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 1e-9), (0, 90000), (-3, 7), (0.1234, 0.1235), (5, 5 + 1e-9)])
def test_ticks_are_few_and_within(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 11
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_a_line_breaks_where_a_value_is_missing():
    chart = line_chart([Line("a", [0, 1, 2, 3], [1, None, 2, 3])], label="x", across="x", up="y")
    path = re.search(r'<path class="line ink" d="(M[^"]+)"/>', chart)
    assert path is not None
    assert re.sub(r"[\d. ]+", "", path[1]) == "MML"


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa_and_lines_that_of_graphics(scheme):
    style = files("boxwright.evaluation.page").joinpath("page.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", block))
    for name in ("ink", "quiet", "accent", "good", "bad", "warn"):
        for ground in ("paper", "panel"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for number in range(1, 9):
        assert contrast(colours[f"c{number}"], colours["paper"]) >= 3, number


def test_rotated_boxes_are_drawn_turned_and_upright_ones_are_not() -> None:
    """SVG turns clockwise, so that 30 degrees counter-clockwise are -30 there."""
    rotated = torch.tensor([[20.0, 10, 16, 4, 30]])
    turned = GroundTruth.of(rotated_hull(rotated).tolist(), [0], rotated=rotated)
    (mark,) = ground_truth_marks(turned, ["ship"])
    image = small_image(torch.zeros(3, 24, 40, dtype=torch.uint8))
    drawn = marked_image(image, [mark], "a ship")
    place = 'x="12.0" y="8.0" width="16.0" height="4.0" transform="rotate(-30.0 20.0 10.0)"'
    assert f'<rect class="object" {place}/>' in drawn
    (mark,) = ground_truth_marks(GroundTruth.of([[1.0, 2, 9, 8]], [0]), ["ship"])
    upright = marked_image(image, [mark], "a ship")
    assert '<rect class="object" x="1.0" y="2.0" width="8.0" height="6.0"/>' in upright


def test_the_gallery_of_mistakes_draws_rotated_boxes() -> None:
    wanted, across = torch.tensor([[50.0, 40, 40, 10, 30]]), torch.tensor([[50.0, 40, 40, 10, -60]])
    classes = Classes.named(["ship"])
    truth = GroundTruth.of(rotated_hull(wanted).tolist(), [0], rotated=wanted)
    found = Detections(
        rotated_hull(across), torch.tensor([0.9]), torch.tensor([0]), (100, 100), classes, rotated=across
    )  # fmt: skip
    page = report_page([facts_of([found], [truth], classes)])
    place = 'x="30.0" y="35.0" width="40.0" height="10.0"'
    assert f'<rect class="object" {place} transform="rotate(-30.0 50.0 40.0)"/>' in page
    assert f'<rect class="wrong" {place} transform="rotate(60.0 50.0 40.0)"/>' in page


def test_sample_images_show_masks_keypoints_and_labels_of_pixels() -> None:
    """Boxes are vectors over a small JPEG; what lies in pixels is drawn into it, so that colours differ from black."""
    bitmap = torch.ones(40, 40, dtype=torch.bool)
    further = {
        "masks": [CroppedMask(10, 10, bitmap)],
        "keypoints": [[[30.0, 30, 2]]],
        "semantic": torch.ones(100, 100, dtype=torch.uint8),
    }
    classes = Classes(("cat",), (1,), Skeleton(("nose",)), stuff=("sky",))
    for kind, value in further.items():
        wanted = [GroundTruth.of([[10, 10, 50, 50]], [0], **{kind: value})]
        section = data_section(facts_of([detections([], classes)], wanted, classes), 1)
        (coded,) = re.findall(r'<img class="image" src="data:image/jpeg;base64,([^"]+)"', section)
        pixels = np.asarray(Image.open(BytesIO(b64decode(coded)))).astype(int)
        assert pixels.shape == (500, 500, 3)
        y, x = (150, 150) if kind == "keypoints" else (400, 400) if kind == "semantic" else (200, 200)
        assert pixels[y - 2 : y + 2, x - 2 : x + 2].max() > 60, kind
    plain = data_section(facts_of([detections([], classes)], [GroundTruth.of([[10, 10, 50, 50]], [0])], classes), 1)
    assert '<rect class="object"' in plain
    nothing = GroundTruth.of(torch.zeros(0, 4), [], semantic=torch.zeros(100, 100, dtype=torch.uint8))
    pixels_only = Classes((), (), stuff=("sky", "road"))
    of_pixels = data_section(facts_of([detections([], pixels_only)], [nothing], TWO), 1)
    assert '<img class="image"' in of_pixels


def test_sample_images_that_are_large_are_drawn_as_small_as_they_are_shown(monkeypatch):
    """Else labels and lines are shrunk with the image, to letters of a few pixels."""
    drawn = []

    def keep(image, *args, **settings):
        drawn.append(draw(image, *args, **settings))
        return drawn[-1]

    monkeypatch.setattr("boxwright.evaluation.page.data_section.draw", keep)
    wanted = GroundTruth.of([[100, 100, 500, 500]], [0], semantic=torch.ones(800, 1400, dtype=torch.uint8))
    classes = Classes(("cat",), (1,), stuff=("sky",))
    facts = facts_of([detections([], classes)], [GroundTruth.empty()], classes)
    facts = replace(facts, inputs=replace(facts.inputs, ground_truths=[wanted]),
                    read=lambda path: torch.zeros(3, 800, 1400, dtype=torch.uint8))  # fmt: skip
    data_section(facts, 1)
    assert [one.size for one in drawn] == [(560, 320)]
