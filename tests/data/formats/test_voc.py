"""Pascal VOC: layouts, missing fields, split lists, and XML that is refused."""

import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwright.data.formats.voc import read_voc, recognises_voc


def save_image(path: Path, width: int = 60, height: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (10, 20, 30)).save(path)
    return path


def xml_object(name: str, box: tuple[object, ...] = (1, 2, 30, 20), extra: str = "") -> str:
    corners = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object>\n<name>{name}</name>{extra}\n<bndbox>{corners}</bndbox></object>\n"


def save_xml(path: Path, *objects: str, head: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>\n{head}\n{''.join(objects)}</annotation>", encoding="utf-8")
    return path


def save_list(root: Path, split: str, *lines: str) -> None:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for stem, name in (("a", "dog"), ("b", "cat"), ("c", "dog")):
        save_image(tmp_path / "JPEGImages" / f"{stem}.jpg")
        save_xml(tmp_path / "Annotations" / f"{stem}.xml", xml_object(name), head=f"<filename>{stem}.jpg</filename>")
    save_list(tmp_path, "train", "a", "b")
    save_list(tmp_path, "val", "c")
    return tmp_path


def test_standard_layout(voc: Path) -> None:
    assert recognises_voc(voc)
    data = read_voc(voc)
    assert data.classes.names == ("cat", "dog")
    assert data.classes.ids == (1, 2)
    assert {name: [r.image_id for r in split.records] for name, split in data.splits.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
    }
    record = data.splits["train"].records[0]
    assert record.path == voc / "JPEGImages" / "a.jpg"
    (item,) = record.annotations
    assert item.box == (1.0, 2.0, 30.0, 20.0)  # as it stands, no shift by one
    assert item.label == 1
    assert item.where == f"{voc / 'Annotations' / 'a.xml'}:3"


def test_below_a_devkit_folder(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("kit")
    (root / "VOCdevkit").mkdir()
    voc.rename(root / "VOCdevkit" / "VOC2007")
    for path in (root, root / "VOCdevkit", root / "VOCdevkit" / "VOC2007"):
        assert [len(split) for split in read_voc(path).splits.values()] == [2, 1]


def test_two_years_are_joined_and_ids_stay_unique(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        save_image(tmp_path / year / "JPEGImages" / "a.jpg")
        save_xml(tmp_path / year / "Annotations" / "a.xml", xml_object("dog"))
        save_list(tmp_path / year, "train", "a")
    data = read_voc(tmp_path)
    assert [record.image_id for record in data.splits["train"].records] == ["VOC2007/a", "VOC2012/a"]
    assert data.notes == ("several VOC folders are read together: VOC2007, VOC2012",)


@pytest.mark.parametrize("images", ["", "images", "JPEGImages"])
@pytest.mark.parametrize("annotations", ["", "annotations", "Annotations"])
def test_without_split_lists(tmp_path: Path, images: str, annotations: str) -> None:
    save_image(tmp_path / images / "a.PNG")
    save_xml(tmp_path / annotations / "a.xml", xml_object("dog"))
    data = read_voc(tmp_path)
    assert list(data.splits) == ["train"]
    assert data.splits["train"].records[0].path == tmp_path / images / "a.PNG"


def test_split_folders_with_xml_beside_images(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        save_image(tmp_path / split / f"{split}1.jpg")
        save_xml(tmp_path / split / f"{split}1.xml", xml_object("dog"))
    assert list(read_voc(tmp_path).splits) == ["train", "val", "test"]


def test_split_folders_below_annotations_and_images(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save_image(tmp_path / "images" / split / "a.jpg")
        save_xml(tmp_path / "annotations" / split / "a.xml", xml_object("dog"))
    data = read_voc(tmp_path)
    assert data.splits["val"].records[0].path == tmp_path / "images" / "val" / "a.jpg"


def test_images_without_xml_are_left_out_and_said(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    save_image(tmp_path / "b.jpg")
    save_xml(tmp_path / "a.xml", xml_object("dog"))
    train = read_voc(tmp_path).splits["train"]
    assert len(train) == 1
    assert [problem.kind for problem in train.problems] == ["image-without-annotation"]
    assert "b.jpg" in train.problems[0].message


def test_missing_and_odd_fields(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    head = "<size><width></width><depth/></size><source><annotation>x</annotation></source>"
    extra = "<difficult>1</difficult><part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>"
    attribute = "<attributes><attribute><name>track</name><value>0</value></attribute></attributes>"
    objects = [xml_object("dog", (0.5, 1.25, "3e1", 20.75), extra), xml_object("cat", extra=attribute)]
    save_xml(tmp_path / "a.xml", *objects, head=head)
    (record,) = read_voc(tmp_path).splits["train"].records
    assert record.stated_hw is None
    assert [(item.box, item.ignore) for item in record.annotations] == [
        ((0.5, 1.25, 30.0, 20.75), True),
        ((1.0, 2.0, 30.0, 20.0), False),
    ]


def test_bad_objects_become_problems_with_their_line(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    save_xml(tmp_path / "a.xml", xml_object("dog"), xml_object(""), xml_object("dog", ("x", 1, 2, 3)),
             "<object><name>dog</name></object>")  # fmt: skip
    train = read_voc(tmp_path).splits["train"]
    assert [(p.kind, p.where, p.quarantined) for p in train.problems] == [
        ("missing-class", f"{tmp_path / 'a.xml'}:6", True),
        ("bad-box", f"{tmp_path / 'a.xml'}:9", True),
        ("bad-box", f"{tmp_path / 'a.xml'}:12", True),
    ]
    assert len(train.records[0].annotations) == 1


def test_a_class_that_was_not_given_is_a_problem(voc: Path) -> None:
    data = read_voc(voc, ["dog", "bird"])
    assert data.classes.names == ("dog", "bird")
    assert [problem.kind for problem in data.splits["train"].problems] == ["unknown-class"]
    assert data.splits["train"].records[1].annotations == ()


def test_split_lines_with_flags_suffixes_and_repeats(voc: Path) -> None:
    save_list(voc, "train", "a  1", "b -1", "", "c.jpg", "a", "nowhere")
    save_list(voc, "dog_train", "a 1", "b -1")
    data = read_voc(voc)
    assert list(data.splits) == ["train", "val"]
    train = data.splits["train"]
    assert [record.image_id for record in train.records] == ["a", "c"]
    assert [(p.kind, p.where.rsplit(":", 1)[1]) for p in train.problems] == [
        ("repeated-line", "5"),
        ("missing-annotation", "6"),
    ]


def test_names_with_spaces(tmp_path: Path) -> None:
    save_image(tmp_path / "JPEGImages" / "my dog 1.jpg")
    save_xml(tmp_path / "Annotations" / "my dog 1.xml", xml_object("dog"))
    save_list(tmp_path, "train", "my dog 1")
    assert read_voc(tmp_path).splits["train"].records[0].image_id == "my dog 1"


def test_the_image_named_like_the_xml_goes_before_a_wrong_filename(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        save_image(tmp_path / f"{stem}.jpg")
        save_xml(tmp_path / f"{stem}.xml", xml_object("dog"), head="<filename>a.jpg</filename>")
    save_image(tmp_path / "real.png")
    save_xml(tmp_path / "c.xml", xml_object("dog"), head=r"<filename>C:\data\REAL.png</filename>")
    records = read_voc(tmp_path).splits["train"].records
    assert [record.path.name for record in records] == ["a.jpg", "b.jpg", "real.png"]


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;">]>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://example.org/a.dtd">',
    ],
)
def test_a_file_with_entities_is_refused_with_its_line_and_the_others_are_read(voc: Path, declaration: str) -> None:
    path = voc / "Annotations" / "a.xml"
    path.write_text(f'<?xml version="1.0"?>\n{declaration}\n<annotation><filename>&x;</filename></annotation>')
    train = read_voc(voc).splits["train"]
    (problem,) = train.problems
    assert (problem.kind, problem.where) == ("unreadable-annotation", f"{path}:2")
    assert "the XML declares a document type or entities" in problem.message
    assert [record.image_id for record in train.records] == ["b"]


@pytest.mark.parametrize("text", ["", "<annotation><object>", "no xml at all", '<?xml encoding="klingon"?><a/>'])
def test_broken_xml_leaves_out_its_image_only(voc: Path, text: str) -> None:
    (voc / "Annotations" / "a.xml").write_text(text)
    train = read_voc(voc).splits["train"]
    assert [record.image_id for record in train.records] == ["b"]
    (problem,) = train.problems
    assert problem.kind == "unreadable-annotation"
    assert problem.severity == "error"
    assert "a.xml" in problem.where


def test_no_class_name_anywhere_is_one_sentence(tmp_path: Path) -> None:
    save_xml(tmp_path / "a.xml")
    with pytest.raises(ValueError, match="no XML file of a split holds an object with a class name"):
        read_voc(tmp_path)


@settings(max_examples=20, deadline=None)
@given(names=st.lists(st.text("abcxyz-_ 09", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=6))
def test_names_go_in_and_come_out(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    root = tmp_path_factory.mktemp("voc")
    save_xml(root / "a.xml", *(xml_object(name) for name in names))
    data = read_voc(root)
    read = [data.classes.names[item.label] for item in data.splits["train"].records[0].annotations]
    assert read == names
    assert data.classes.ids == tuple(range(1, len(set(names)) + 1))
    assert list(data.classes.names) == sorted(set(names))


NAMES = st.lists(st.text("abcxyz-_ 09", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=6, unique=True)


@settings(max_examples=20, deadline=None)
@given(names=NAMES, unused=NAMES, seed=st.randoms(use_true_random=False))
def test_a_given_list_keeps_its_order_and_its_unused_names(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], unused: list[str], seed: Random
) -> None:
    root = tmp_path_factory.mktemp("voc")
    save_xml(root / "a.xml", *(xml_object(name) for name in names))
    given_names = list(dict.fromkeys([*unused, *names]))
    seed.shuffle(given_names)
    data = read_voc(root, given_names)
    assert list(data.classes.names) == given_names
    assert [data.classes.names[item.label] for item in data.splits["train"].records[0].annotations] == names


@pytest.mark.parametrize("annotations", ["annots", "ann", "label", "my boxes/train"])
@pytest.mark.parametrize("images", ["images", "photos", "photos/train", ""])
def test_folders_of_any_name_are_found_by_what_is_in_them(tmp_path: Path, annotations: str, images: str) -> None:
    save_image(tmp_path / images / "a.jpg")
    save_xml(tmp_path / annotations / "a.xml", xml_object("dog"))
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "model.xml").write_text("<net><layers/></net>")
    assert recognises_voc(tmp_path)
    (record,) = read_voc(tmp_path).splits["train"].records
    assert record.path == tmp_path / images / "a.jpg"


def test_xml_of_another_kind_is_not_taken_for_annotations(tmp_path: Path) -> None:
    for name in ("model.xml", "labels/model.xml", "other/model.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('<?xml version="1.0"?><net name="x"><layers/></net>')
    assert not recognises_voc(tmp_path)


@pytest.mark.parametrize("encoding", ["gb2312", "Shift_JIS", "Big5", "euc-kr"])
def test_one_file_in_a_multi_byte_encoding_is_read_like_the_others(voc: Path, encoding: str) -> None:
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?><annotation>{xml_object("犬" if encoding != "euc-kr" else "개")}'
    )
    (voc / "Annotations" / "a.xml").write_bytes(f"{text}</annotation>".encode(encoding))
    train = read_voc(voc).splits["train"]
    assert train.problems == ()
    assert [len(record.annotations) for record in train.records] == [1, 1]
    assert "犬" in train.classes.names or "개" in train.classes.names


def test_no_single_file_ends_the_reading(voc: Path) -> None:
    """A pipe, a dangling link, no encoding at all, endless nesting: the other files are read."""
    folder = voc / "Annotations"
    for stem in ("d", "e", "f", "g"):
        save_image(voc / "JPEGImages" / f"{stem}.jpg")
    save_list(voc, "train", "a", "b", "d", "e", "f", "g")
    os.mkfifo(folder / "d.xml")
    (folder / "e.xml").symlink_to(voc / "nowhere")
    (folder / "f.xml").write_bytes(b'<?xml version="1.0" encoding="gb2312"?><annotation>\xff\xff</annotation>')
    (folder / "g.xml").write_text("<annotation>" * 100_000)
    train = read_voc(voc).splits["train"]
    assert [record.image_id for record in train.records] == ["a", "b"]
    assert [p.where.rsplit("/", 1)[1] for p in train.problems] == ["d.xml:1", "e.xml:1", "f.xml:1", "g.xml:1"]
    assert {p.kind for p in train.problems} == {"unreadable-annotation"}


@pytest.mark.parametrize(
    ("field", "ignored"), [("0", False), ("0.0", False), ("False", False), ("", False), ("1", True), ("true", True)]
)
def test_difficult_is_read_by_its_meaning(tmp_path: Path, field: str, ignored: bool) -> None:
    save_xml(tmp_path / "a.xml", xml_object("dog", extra=f"<difficult>{field}</difficult>"))
    (item,) = read_voc(tmp_path).splits["train"].records[0].annotations
    assert item.ignore is ignored


@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (xml_object("dog", extra="<difficult>maybe</difficult>"), "<difficult> is 'maybe', expected 0 or 1"),
        (xml_object("dog", ("1,5", 1, 2, 3)), "<xmin> is '1,5', which is not a number"),
        (xml_object("dog", (1, 1, "2_0", 3)), "<xmax> is '2_0', which is not a number"),
    ],
)
def test_a_field_that_means_nothing_is_named_with_its_line(tmp_path: Path, thing: str, reason: str) -> None:
    path = save_xml(tmp_path / "a.xml", xml_object("cat"), thing)
    train = read_voc(tmp_path).splits["train"]
    (problem,) = train.problems
    assert (problem.where, problem.quarantined) == (f"{path}:6", True)
    assert reason in problem.message
    assert [(len(record.annotations), record.rejected) for record in train.records] == [(1, 1)]


def test_a_size_that_is_no_number_is_said_and_costs_nothing(tmp_path: Path) -> None:
    save_xml(tmp_path / "a.xml", xml_object("dog"), head="<size><width>60px</width><height>40</height></size>")
    train = read_voc(tmp_path).splits["train"]
    assert [(p.kind, "<width> is '60px'" in p.message) for p in train.problems] == [("bad-field", True)]
    assert (train.records[0].stated_hw, len(train.records[0].annotations)) == (None, 1)
