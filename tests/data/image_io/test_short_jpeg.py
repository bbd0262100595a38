"""A JPEG that ends too early is read where little is missing, which is said, and refused where much is."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from boxwright.data.checks.images import look_at_image
from boxwright.data.image_io.decode import bytes_with_note, image_of_bytes, read_image
from boxwright.data.image_io.short_jpeg import MOST_MISSING


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    """A JPEG file of 320 x 240 with detail everywhere."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 180, (15, 20, 3)), np.ones((16, 16, 1)))
    image = Image.fromarray((blocks + rng.integers(0, 60, blocks.shape)).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


KINDS = {
    "baseline": jpeg(),
    "full colour": jpeg(subsampling=0, quality=95),
    "grey": jpeg("L"),
    "cmyk": jpeg("CMYK"),
    "progressive": jpeg(progressive=True),
    "restart markers": jpeg(restart_marker_rows=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [1, 2, 20, 200])
def test_a_few_bytes_short_is_read_and_said(kind: str, missing: int) -> None:
    whole = image_of_bytes(KINDS[kind], "a.jpg")
    read = bytes_with_note(KINDS[kind][:-missing], "a.jpg")
    assert "the JPEG is cut short" in str(read.note)
    assert "missing at its end" in str(read.note)
    assert ((read.pixels.int() - whole.int()).abs().amax(0) > 40).float().mean() < 0.02
    assert bytes_with_note(KINDS[kind], "a.jpg").note is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.9, 0.97])
def test_an_image_of_which_a_large_part_is_missing_stays_refused(kind: str, share: float) -> None:
    data = KINDS[kind]
    with pytest.raises(ValueError, match=r"^a\.jpg: (the image is damaged or cut short|not an image that can be)"):
        image_of_bytes(data[: int(len(data) * (1 - share))], "a.jpg")


def test_the_share_that_may_be_missing_is_a_tenth_of_the_image() -> None:
    data = KINDS["baseline"]
    header = data.rindex(b"\xff\xda")
    for share, good in ((0.5 * MOST_MISSING, True), (0.8 * MOST_MISSING, True), (1.3 * MOST_MISSING, False)):
        cut = data[: len(data) - int((len(data) - header) * share)]
        if good:
            note = str(bytes_with_note(cut, "a.jpg").note)
            said = float(note.split("cut short: ")[1].split("%")[0]) / 100
            assert said == pytest.approx(share, abs=0.02)
        else:
            with pytest.raises(ValueError, match="% of the JPEG is missing at its end, more than 10%"):
                image_of_bytes(cut, "a.jpg")


def test_an_image_whose_last_row_is_half_there_is_read_though_it_is_small() -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (256, 48, 3), dtype=np.uint8)).save(file, "JPEG")
    read = bytes_with_note(file.getvalue()[:-40], "a.jpg")
    assert read.pixels.shape == (3, 256, 48)
    assert read.note is not None


def test_preflight_keeps_it_and_warns(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(KINDS["baseline"][:-20])
    state = look_at_image(path)
    assert state.fault is None
    assert state.hw == (240, 320)
    assert "cut short" in str(state.note)
    path.write_bytes(KINDS["baseline"][: len(KINDS["baseline"]) // 2])
    assert "damaged or cut short" in str(look_at_image(path).fault)


def test_other_formats_cut_short_stay_refused_and_pillow_is_left_as_it_was(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 48, 3), dtype=np.uint8)).save(file, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(file.getvalue()[:-2000])
    with pytest.raises(ValueError, match="damaged or cut short"):
        read_image(path)
    image_of_bytes(KINDS["baseline"][:-20], "a.jpg")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
