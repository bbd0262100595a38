"""Values of more than 8 bits: nothing becomes flat without a word, and a model sees at work what it was trained on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxwright.data.checks.preflight import preflight
from boxwright.data.image_io.decode import read_with_note
from boxwright.data.image_io.value_range import ValueRange, common_range, used_range
from boxwright.data.records import Annotation, LabelledFolder, Record, Split
from boxwright.structures import Classes

CLASSES = Classes.named(["a"])


def grey(low: int, high: int, seed: int = 0) -> np.ndarray:
    """A 16-bit image of 60 x 80 whose values lie between two, both of which it holds."""
    values = np.random.default_rng(seed).integers(low, high + 1, (60, 80)).astype(np.uint16)
    values[:8, :8], values[-8:, -8:] = low, high
    return values


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(values: np.ndarray, name: str = "a.png") -> Path:
        Image.fromarray(values).save(tmp_path / name)
        return tmp_path / name

    return save


def levels(path: Path, value_range: ValueRange) -> tuple[int, int, int]:
    """Lowest and highest level, and how many there are."""
    pixels = read_with_note(path, value_range=value_range).pixels
    return int(pixels.min()), int(pixels.max()), len(pixels.unique())


@pytest.mark.parametrize(("low", "high"), [(50_000, 50_900), (0, 4095), (0, 16383), (100, 355)])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_narrow_range_keeps_its_levels_by_default(
    saved: Callable[..., Path], low: int, high: int, suffix: str
) -> None:
    path = saved(grey(low, high), f"a.{suffix}")
    assert levels(path, "auto")[:2] == (0, 255)
    assert levels(path, "auto")[2] > 200
    assert levels(path, "auto") == levels(path, "image") == levels(path, (low, high))
    assert levels(path, "type")[2] <= 65
    assert read_with_note(path, value_range="auto").note is None
    assert "of 256 grey levels" in str(read_with_note(path, value_range="type").note)


def test_the_whole_range_is_scaled_as_ever(saved: Callable[..., Path]) -> None:
    path = saved(grey(257, 65535))
    expected = (grey(257, 65535) / 257.0).round().astype(np.uint8)
    for setting in ("auto", "type"):
        read = read_with_note(path, value_range=setting)
        assert (read.pixels[1].numpy() == expected).all()
        assert read.note is None


def test_two_numbers_are_0_and_255_whatever_the_image_holds(saved: Callable[..., Path]) -> None:
    path = saved(np.array([[900, 1000, 1500, 2000, 9000]], dtype=np.uint16))
    assert read_with_note(path, value_range=(1000, 2000)).pixels[0].tolist() == [[0, 0, 128, 255, 255]]
    far = saved(grey(50_000, 50_900), "far.png")
    assert "become 1 of 256 grey levels (1000 to 2000" in str(read_with_note(far, value_range=(1000, 2000)).note)


def test_a_dead_pixel_does_not_hide_that_the_rest_is_narrow(saved: Callable[..., Path]) -> None:
    values = grey(50_000, 50_900)
    values[30, 30], values[31, 40] = 0, 65535
    assert levels(saved(values), "auto")[2] > 200


def test_degrees_below_zero_and_above_are_seen(saved: Callable[..., Path]) -> None:
    values = np.linspace(-20, 12, 4800, dtype=np.float32).reshape(60, 80)
    values[0, 0] = np.nan
    path = saved(values, "a.tiff")
    assert levels(path, "auto")[2] > 200
    assert "become" in str(read_with_note(path, value_range="type").note)


def test_an_image_of_one_value_has_nothing_to_lose(saved: Callable[..., Path]) -> None:
    path = saved(np.full((9, 9), 30_000, np.uint16))
    for setting in ("auto", "type", "image"):
        assert levels(path, setting) == (117, 117, 1)
        assert read_with_note(path, value_range=setting).note is None


def test_colours_of_16_bits_that_become_flat_are_said(tmp_path: Path) -> None:
    from boxwright.data.image_io.decode import _flat_colour

    assert "16-bit colours become 16 of 256 levels" in str(_flat_colour(np.arange(16, dtype=np.uint8)))
    assert _flat_colour(np.arange(200, dtype=np.uint8)) is None


def test_strips_give_what_the_whole_gives(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(grey(50_000, 50_900))
    whole = read_with_note(path).pixels
    monkeypatch.setattr("boxwright.data.image_io.decode.STRIP", 330)
    assert (read_with_note(path).pixels == whole).all()


def data_of(root: Path, **splits: list[np.ndarray]) -> LabelledFolder:
    made = {}
    for name, images in splits.items():
        records = []
        for number, values in enumerate(images):
            path = root / f"{name}{number}.png"
            Image.fromarray(values).save(path)
            box = Annotation((2, 2, 20, 20), 0, f"{path.stem}.xml:5")
            records.append(Record(path, path.stem, None, (box,), f"{path.stem}.xml"))
        made[name] = Split(name, tuple(records), CLASSES)
    return LabelledFolder(root, "voc", CLASSES, made)


def test_a_data_set_has_one_range_which_that_of_its_training_images_is(tmp_path: Path) -> None:
    data = data_of(tmp_path, train=[grey(3000, 3900, 1), grey(3100, 4000, 2)], val=[grey(2000, 5000, 3)])
    report = preflight(data)
    assert report.value_range == (3000, 4000)
    (note,) = [finding for finding in report.findings if finding.kind == "narrow-values"]
    assert (note.severity, note.where) == ("note", str(tmp_path / "train0.png"))
    assert "3 images of more than 8 bits use a narrow part of their range, such as 3000 to 3900 of 0 to 65535" in (
        note.message
    )
    assert json.loads(json.dumps(report.as_dict()))["counts"]["narrow-values"] == 1


def test_every_image_that_becomes_flat_is_a_finding(tmp_path: Path) -> None:
    report = preflight(data_of(tmp_path, train=[grey(3000, 3900, 1), grey(0, 65535, 2)]), value_range="type")
    assert report.value_range == "type"
    (finding,) = [finding for finding in report.findings if finding.kind == "flat-image"]
    assert (finding.severity, finding.where, finding.quarantined) == ("warning", str(tmp_path / "train0.png"), False)
    assert "set data.value_range to image, or to [3000,3900]" in finding.message
    assert len(report.dataset.splits["train"]) == 2


def test_images_of_8_bits_say_nothing_about_the_range(tmp_path: Path) -> None:
    flat = np.full((60, 80), 9, np.uint8)
    report = preflight(data_of(tmp_path, train=[flat]))
    assert report.value_range == "auto"
    assert not {"flat-image", "narrow-values"} & set(report.counts())


def test_a_common_range_is_of_the_type_unless_most_images_are_narrow() -> None:
    wide, narrow = (used_range([grey(low, high)], 4800) for low, high in ((0, 60_000), (50_000, 50_900)))
    assert common_range([]) == "auto"
    assert common_range([wide, narrow]) == "type"
    assert common_range([narrow, narrow, wide]) == (0, 60_000)
    assert common_range([narrow]) == (50_000, 50_900)
