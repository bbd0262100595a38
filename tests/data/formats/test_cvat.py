"""CVAT for images: its layouts, every kind of shape, and fields that are none."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from boxwright.data.formats.cvat import read_cvat, recognises_cvat
from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of, mask_of
from boxwright.ops.rotated import rotated_hull

META = "<meta><task><labels>{}</labels></task></meta>"
BOX = '<box label="dog" occluded="0" xtl="1" ytl="2.5" xbr="30" ybr="20" z_order="0"/>'


def save(root: Path, *images: str, labels: str = "", name: str = "annotations.xml") -> Path:
    for stem in ("a", "b"):
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (9, 9, len(stem))).save(root / "images" / f"{stem}.png")
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"<annotations>\n<version>1.1</version>{META.format(labels)}\n" + "\n".join(images) + "\n</annotations>"
    )
    return path


def image(name: str, *shapes: str, identity: object = 0, more: str = 'width="60" height="40"') -> str:
    return f'<image id="{identity}" name="{name}" {more}>\n' + "\n".join(shapes) + "\n</image>"


def test_boxes_in_the_order_of_the_labels(tmp_path: Path) -> None:
    labels = "<label><name>dog</name></label><label><name>cat</name></label>"
    labels += "<label><name>nose</name><parent>dog</parent></label>"
    path = save(tmp_path, image("a.png", BOX, identity=7), image("b.png", identity=8), labels=labels)
    for given in (path, tmp_path):
        assert recognises_cvat(given)
        data = read_cvat(given)
        assert (data.classes.names, data.classes.ids) == (("dog", "cat"), (1, 2))
        first, second = data.splits["train"].records
        assert (first.image_id, first.stated_hw, first.path) == (7, (40, 60), tmp_path / "images" / "a.png")
        assert [(item.box, item.label, item.where) for item in first.annotations] == [
            ((1, 2.5, 30, 20), 0, f"{path}:4")
        ]
        assert (second.annotations, second.rejected) == ((), 0)
    assert open_folder(tmp_path).format == "cvat"


def test_every_shape_with_an_area_is_an_object(tmp_path: Path) -> None:
    turned = '<box label="dog" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
    ellipse = '<ellipse label="dog" cx="20" cy="20" rx="5" ry="3"/>'
    polygon = '<polygon label="dog" points="1,1;11.5,1;11,9"/>'
    mask = '<mask label="dog" rle="1, 2, 3" left="4" top="5" width="3" height="2"/>'
    save(tmp_path, image("a.png", turned, ellipse, polygon, mask))
    items = read_cvat(tmp_path).splits["train"].records[0].annotations
    assert [item.box for item in items] == [
        pytest.approx((15, 5, 25, 25)), (15, 17, 25, 23), (1, 1, 11.5, 9), (4, 5, 7, 7)]  # fmt: skip
    assert items[2].segmentation == [[1, 1, 11.5, 1, 11, 9]]
    drawn = mask_of(items[3], (40, 60))
    assert (drawn.x, drawn.y, drawn.bitmap.tolist()) == (5, 5, [[True, True]])


def test_turned_shapes_are_rotated_boxes_too(tmp_path: Path) -> None:
    box = '<box label="dog" xtl="10" ytl="10" xbr="30" ybr="20" rotation="30"/>'
    ellipse = '<ellipse label="dog" cx="30" cy="20" rx="8" ry="3" rotation="300.5"/>'
    upright = '<box label="dog" xtl="1" ytl="2" xbr="9" ybr="8"/>'
    save(tmp_path, image("a.png", box, ellipse, upright))
    record = read_cvat(tmp_path).splits["train"].records[0]
    assert [item.rotated for item in record.annotations] == [
        pytest.approx((20, 15, 20, 10, -30)),  # CVAT turns clockwise, as seen
        pytest.approx((30, 20, 16, 6, 59.5)),
        None,
    ]
    ground_truth = ground_truth_of(record, (40, 60), rotated=True)
    assert ground_truth.rotated is not None
    assert ground_truth.rotated[2].tolist() == [5, 5, 8, 6, 0]
    hulls = rotated_hull(ground_truth.rotated)
    torch.testing.assert_close(hulls[[0, 2]], ground_truth.boxes[[0, 2]])
    inside = ground_truth.boxes[1]  # the box around an ellipse lies in that around its corners
    assert bool((inside[:2] > hulls[1, :2]).all() and (inside[2:] < hulls[1, 2:]).all())


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ('<polyline label="dog" points="1,1;2,2"/>', "only boxes, polygons, masks and ellipses"),
        ('<points label="dog" points="1,1"/>', "only boxes"),
        ('<box label="dog" xtl="1" ytl="2" xbr="x" ybr="4"/>', "xbr is 'x', which is not a number"),
        ('<box label="dog" xtl="1" ytl="2" xbr="3"/>', "it has no ybr"),
        ('<box label="" xtl="1" ytl="2" xbr="3" ybr="4"/>', "no label"),
        ('<polygon label="dog" points="1,1;2"/>', "points holds '2'"),
        ('<polygon label="dog" points="1,1;2,3"/>', "a polygon needs three"),
        ('<mask label="dog" rle="1,1" left="0" top="0" width="3" height="2"/>', "rle does not fill its frame"),
        ('<mask label="dog" rle="6" left="59" top="0" width="3" height="2"/>', "leaves the image of 60 x 40"),
        ('<mask label="dog" rle="1e9" left="0" top="0" width="1000000000" height="1"/>', "leaves the image"),
    ],
)
def test_a_shape_that_is_no_object_is_named_and_its_image_counted_as_not_known(
    tmp_path: Path, shape: str, reason: str
) -> None:
    path = save(tmp_path, image("a.png", shape), image("b.png", BOX, identity=1))
    train = read_cvat(tmp_path).splits["train"]
    (problem,) = train.problems
    assert (problem.where, problem.quarantined) == (f"{path}:4", True)
    assert reason in problem.message
    assert [(len(record.annotations), record.rejected) for record in train.records] == [(0, 1), (1, 0)]


def test_splits_are_those_of_the_subset_the_file_or_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "one", image("a.png", BOX, more='subset="Train"'), image("b.png", BOX, more='subset="Validation"'))
    save(tmp_path / "two", image("a.png", BOX), name="annotations/train.xml")
    save(tmp_path / "two", image("b.png", BOX), name="annotations/val.xml")
    save(tmp_path / "three", image("train/a.png", BOX), image("val/b.png", BOX))
    for name in ("one", "two", "three"):
        splits = read_cvat(tmp_path / name).splits
        assert [(split, [r.path.name for r in part.records]) for split, part in splits.items()] == [
            ("train", ["a.png"]),
            ("val", ["b.png"]),
        ]


def test_an_odd_size_or_id_is_said_and_costs_nothing(tmp_path: Path) -> None:
    save(tmp_path, image("a.png", BOX, identity="x", more='width="60px" height="40"'))
    train = read_cvat(tmp_path).splits["train"]
    (problem,) = train.problems
    assert problem.kind == "bad-field"
    assert "id is 'x', width is '60px'" in problem.message
    assert (train.records[0].image_id, train.records[0].stated_hw) == ("a.png", None)


def test_a_video_and_a_broken_file_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text('<annotations><track id="0" label="dog"><box frame="0"/></track></annotations>')
    with pytest.raises(ValueError, match=r'annotations\.xml: this is "CVAT for video".*export the task'):
        read_cvat(path)
    path.write_text("<annotations><image")
    with pytest.raises(ValueError, match=r"the first problem is .*annotations\.xml:1: not well-formed"):
        read_cvat(tmp_path)
