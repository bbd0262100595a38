"""Masks of Pascal VOC folders: an indexed image whose pixels name their object."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.checks.preflight import preflight
from boxwright.data.formats.numbered_pixels import ObjectPixels
from boxwright.data.formats.voc import read_voc
from boxwright.data.formats.voc_masks import write_object_pixels
from boxwright.data.ground_truth import ground_truth_of, mask_of
from boxwright.structures import CroppedMask

HW = (40, 60)


def square(x: int, y: int, side: int = 10) -> CroppedMask:
    return CroppedMask(x, y, torch.ones(side, side, dtype=torch.bool))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three objects, the second of a class of its own; image b has no masks."""
    for folder in ("JPEGImages", "Annotations", "SegmentationObject"):
        (tmp_path / folder).mkdir()
    for stem in "ab":
        Image.new("RGB", (HW[1], HW[0]), (9, 9, 9)).save(tmp_path / "JPEGImages" / f"{stem}.jpg")
        objects = "".join(
            f"\n<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>5</ymin><xmax>{x + 10}</xmax><ymax>15</ymax>"
            "</bndbox></object>"
            for name, x in (("dog", 2), ("cat", 20), ("dog", 40))
        )
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")
    masks = [square(2, 5), square(20, 5), square(40, 5)]
    write_object_pixels(tmp_path / "SegmentationObject" / "a.png", masks, HW)
    return tmp_path


def test_pixel_n_is_the_nth_object_of_the_file(voc: Path) -> None:
    first, second = read_voc(voc).splits["train"].records
    ground_truth = ground_truth_of(first, HW, masks=True)
    assert ground_truth.masks is not None
    assert [(mask.x, mask.y, int(mask.bitmap.sum())) for mask in ground_truth.masks] == [
        (2, 5, 100),
        (20, 5, 100),
        (40, 5, 100),
    ]
    assert [item.segmentation for item in second.annotations] == [None] * 3


def test_an_object_that_is_left_out_still_counts(voc: Path) -> None:
    record = read_voc(voc, ["dog"]).splits["train"].records[0]
    assert [mask_of(item, HW).x for item in record.annotations] == [2, 40]


def test_the_border_of_nobody_and_an_object_without_pixels(voc: Path) -> None:
    file = voc / "SegmentationObject" / "a.png"
    plane = np.array(Image.open(file))
    plane[5, 2:12] = 255
    plane[plane == 3] = 0
    image = Image.fromarray(plane).convert("P")
    image.save(file)
    checked = preflight(read_voc(voc), check_masks=True, need_masks=True)
    kinds = [problem.kind for problem in checked.findings]
    assert kinds.count("empty-mask") == 1
    assert kinds.count("missing-mask") == 3  # those of image b
    first = checked.dataset.splits["train"].records[0]
    left_out = [item for item in read_voc(voc).splits["train"].records[0].annotations if not mask_of(item, HW).known]
    (bare,) = (item for item in first.annotations if item.where == left_out[0].where)
    assert bare.segmentation is None
    assert int(mask_of(first.annotations[0], HW).bitmap.sum()) == 90


@pytest.mark.parametrize(("content", "sentence"), [
    (Image.new("RGB", (60, 40)), "an image of mode RGB"), (Image.new("1", (60, 40)), "an image of mode 1"),
    (Image.new("L", (50, 40)), "is 40 x 50, the image 40 x 60"),
    (None, "not an image that can be read"),
])  # fmt: skip
def test_a_damaged_one_is_named(voc: Path, content: Image.Image | None, sentence: str) -> None:
    file = voc / "SegmentationObject" / "a.png"
    file.write_bytes(b"no image") if content is None else content.save(file)
    record = read_voc(voc).splits["train"].records[0]
    with pytest.raises(ValueError, match=r"a\.xml:2: the mask cannot be decoded .*" + sentence):
        mask_of(record.annotations[0], HW)
    checked = preflight(read_voc(voc), check_masks=True, need_masks=True)
    assert [problem.kind for problem in checked.findings].count("bad-mask") == 3
    assert len(checked.dataset.splits["train"].records[0].annotations) == 3  # with their boxes


def test_it_is_written_in_the_colours_of_voc(tmp_path: Path) -> None:
    write_object_pixels(
        tmp_path / "a.png", [square(0, 0), square(5, 5), CroppedMask(0, 0, torch.zeros(1, 1).bool())], HW
    )
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # type: ignore[index]
        colours = np.array(image.convert("RGB"))
    assert colours[0, 0].tolist() == [128, 0, 0]
    assert colours[7, 7].tolist() == [0, 128, 0]
    with pytest.raises(ValueError, match="300 objects, and an indexed image holds 254 masks"):
        write_object_pixels(tmp_path / "b.png", [square(0, 0)] * 300, HW)
    assert not (tmp_path / "b.png").exists()


def test_a_mask_that_was_corrected_is_read_again(voc: Path) -> None:
    file, record = voc / "SegmentationObject" / "a.png", read_voc(voc).splits["train"].records[0]
    assert mask_of(record.annotations[0], HW).x == 2
    write_object_pixels(file, [square(3, 5)], HW)
    os.utime(file, ns=(1, 1))
    assert mask_of(record.annotations[0], HW).x == 3
    file.unlink()
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        mask_of(record.annotations[0], HW)


def test_an_enormous_one_is_refused_and_not_opened(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxwright.data.formats.numbered_pixels.MAX_PIXELS", 2399)
    record = read_voc(voc).splits["train"].records[0]
    with pytest.raises(ValueError, match="60 x 40 pixels are more than the limit of 2399"):
        mask_of(record.annotations[0], HW)


def test_the_255th_object_is_not_the_border(voc: Path) -> None:
    plane = np.full(HW, 255, dtype=np.uint8)
    file = voc / "SegmentationObject" / "a.png"
    Image.fromarray(plane).save(file)
    assert not ObjectPixels(file, 255).mask(HW).bitmap.any()
    Image.fromarray(plane.astype(np.uint16)).save(file)  # of 16 bits: any number is an object's
    assert ObjectPixels(file, 255).mask(HW).bitmap.shape == HW


def test_a_difficult_object_without_pixels_is_as_the_standard_has_it(voc: Path) -> None:
    file = voc / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("<name>cat</name>", "<name>cat</name><difficult>1</difficult>"))
    write_object_pixels(voc / "SegmentationObject" / "a.png", [square(2, 5), square(0, 0, 0), square(40, 5)], HW)
    checked = preflight(read_voc(voc), check_masks=True)
    assert "empty-mask" not in checked.counts()
    assert checked.dataset.splits["train"].records[0].annotations[1].segmentation is None


def test_masks_in_folders_of_splits_are_found(voc: Path) -> None:
    for name in ("JPEGImages", "Annotations", "SegmentationObject"):
        files = list((voc / name).iterdir())
        (voc / name / "train").mkdir()
        for file in files:
            file.rename(voc / name / "train" / file.name)
    assert mask_of(read_voc(voc).splits["train"].records[0].annotations[1], HW).x == 20


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_images_of_few_bits_hold_numbers_too(voc: Path, bits: int) -> None:
    """Written by hand: Pillow writes grey with 8 bits or 16."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = 24, 32
    row = bytes([0]) + bytes([0b01011010 if bits == 2 else 0x12] * (width * bits // 8))  # a filter byte, then pixels
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path = voc / "few.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * height))
        + chunk(b"IEND", b"")
    )
    for number in (1, 2):
        mask = ObjectPixels(path, number).mask((height, width))
        assert int(mask.bitmap.sum()) == height * width // 2, number
