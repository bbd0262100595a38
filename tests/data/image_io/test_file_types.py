"""Only formats that are meant to be read are opened, by content and whatever a file is called; one list of suffixes."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, features

from boxwright.data.checks.images import look_at_image
from boxwright.data.formats.folder import open_folder
from boxwright.data.formats.listing import ImageFinder, is_image
from boxwright.data.image_io.decode import image_header, image_of_bytes, image_size, read_image
from boxwright.data.image_io.file_types import FORMATS, SUFFIXES, is_image_name
from boxwright.data.inputs import image_paths

LOOP = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n{ } loop\nshowpage\n%%EOF\n"


@pytest.fixture
def no_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where Ghostscript is installed, and a test that fails where it would be started."""

    def started(*_: object, **__: object) -> None:
        pytest.fail("a PostScript file was handed to Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.eps"])
@pytest.mark.parametrize("data", [LOOP, b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") * 2 + bytes(20) + LOOP])
def test_postscript_is_not_opened_whatever_it_is_called(
    tmp_path: Path, no_ghostscript: None, name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    for read in (read_image, image_size, image_header, lambda path: image_of_bytes(path.read_bytes(), str(path))):
        with pytest.raises(ValueError, match=r"not an image that can be read \(unknown format; JPEG, PNG, ") as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
    for decode in (False, True):
        assert "unknown format" in str(look_at_image(path, decode=decode).fault)


@pytest.mark.parametrize("form", ["ICO", "PCX", "TGA", "SGI", "DDS", "IM", "JPEG2000", "MSP", "SPIDER", "XBM"])
def test_other_formats_of_pillow_are_not_opened(tmp_path: Path, form: str) -> None:
    file = io.BytesIO()
    image = Image.new({"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(form, "RGB"), (32, 32))
    try:
        image.save(file, form)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {form}")
    Image.open(io.BytesIO(file.getvalue())).load()  # Pillow itself does
    with pytest.raises(ValueError, match="unknown format"):
        image_of_bytes(file.getvalue(), "a.png")


def test_every_format_of_the_list_is_read_under_each_of_its_suffixes(tmp_path: Path) -> None:
    expected = np.full((16, 24, 3), 200, np.uint8)
    forms = {".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".tif": "TIFF", ".pgm": "PPM"}
    for suffix in SUFFIXES:
        form = forms.get(suffix, suffix[1:].upper())
        Image.fromarray(expected).save(tmp_path / f"a{suffix}", form)
        assert form in FORMATS
        assert (read_image(tmp_path / f"a{suffix}").int() - 200).abs().max() <= 4
    assert {".jfif", ".jpg", ".png", ".webp"} <= set(SUFFIXES)
    assert (".avif" in SUFFIXES) == features.check("avif")
    assert len(image_paths(tmp_path)) == len(SUFFIXES)


def test_the_readers_of_annotations_know_the_same_suffixes(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        name = f"p{suffix}".upper()
        assert is_image(name)
        assert is_image_name(name)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).touch()
        assert ImageFinder([tmp_path / "images"]).find(name) == tmp_path / "images" / name
    assert not is_image("p.eps")


def test_jfif_images_of_a_yolo_folder_are_read_with_their_labels(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / split / "a.JFIF", "JPEG")
        (tmp_path / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    train = open_folder(tmp_path).splits["train"]
    assert [record.path.name for record in train.records] == ["a.JFIF"]
    assert len(train.records[0].annotations) == 1


def test_the_first_image_of_a_jpeg_that_holds_two_is_read(tmp_path: Path) -> None:
    """Phones write them (MPO); they are JPEG files by their first bytes."""
    one, two = Image.new("RGB", (16, 16), (250, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 250))
    one.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[two])
    assert torch.equal(read_image(tmp_path / "a.jpg")[0] > 200, torch.ones(16, 16, dtype=torch.bool))
