"""Every kind of image file becomes upright RGB, or one sentence that names the file."""

import io
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data import inputs
from boxwright.data.image_io.decode import image_header, image_size, read_image
from boxwright.data.inputs import image_threads, prepared_ahead
from boxwright.ops.image import ResizeRule, fit_image, resize_plan


def pattern(width: int = 7, height: int = 5) -> Image.Image:
    values = np.arange(height * width * 3).reshape(height, width, 3) * 2
    return Image.fromarray(values.astype(np.uint8))


def rgb(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_rgb_is_exact(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pattern().save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()  # as it is resized fastest
    for size in (5, 4):
        plan = resize_plan((5, 7), ResizeRule("short_side", size=size))
        assert fit_image(image, plan).is_contiguous()
        assert torch.equal(fit_image(image, plan), fit_image(image.contiguous(), plan))
    assert torch.equal(image, rgb(pattern()))
    assert image_size(str(path)) == (5, 7)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The stored image is the upright one undone, so that reading gives the upright one back."""
    upright = Image.new("RGB", (48, 32))
    upright.paste((255, 0, 0), (0, 0, 24, 16))
    upright.paste((0, 255, 0), (24, 0, 48, 16))
    flip, quarter = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose
    undo = {
        2: [flip],
        3: [quarter.ROTATE_180],
        4: [quarter.FLIP_TOP_BOTTOM],
        5: [quarter.TRANSPOSE],
        6: [quarter.ROTATE_90],
        7: [quarter.TRANSVERSE],
        8: [quarter.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif)
    image = read_image(path)
    assert image_size(path) == tuple(image.shape[1:]) == (32, 48)
    assert image_header(path).turned is (orientation >= 5)
    assert (image[0, 4:12, 4:20] > 180).all()
    assert (image[1, 4:12, 28:44] > 180).all()
    assert (image[:, 20:, 4:] < 90).all()


def test_grey_palette_and_one_bit(tmp_path: Path) -> None:
    for mode in ("L", "1", "P"):
        image = pattern().convert(mode)
        image.save(tmp_path / f"{mode}.png")
        assert torch.equal(read_image(tmp_path / f"{mode}.png"), rgb(image))


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (3, 4, 6)
    assert image[0].min() > 200
    assert image[1].max() < 60


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_composited_over_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 2, 4))
    if mode == "P":
        flat = Image.new("P", (4, 4), 1)
        flat.putpalette([0, 0, 0, 9, 9, 9])
        flat.paste(0, (0, 0, 2, 4))
        flat.save(path, transparency=1)
    else:
        clear.convert(mode).save(path)
    image = read_image(path)
    assert (image[:, :, :2] == 0).all()
    assert (image[:, :, 2:] == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 257 * 100], [65535, 128, 129]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image[0].tolist() == [[0, 1, 100], [255, 0, 1]]
    assert torch.equal(image[0], image[2])


def test_wide_integers_and_floats(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 2**31 - 1, -5]], dtype=np.int32)).save(tmp_path / "i.tiff")
    assert read_image(tmp_path / "i.tiff")[0].tolist() == [[0, 255, 0]]
    Image.fromarray(np.array([[0, 0.5, 1, np.nan]], dtype=np.float32)).save(tmp_path / "f.tiff")
    assert read_image(tmp_path / "f.tiff")[0].tolist() == [[0, 128, 255, 0]]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    image = read_image(path)
    assert image[0].min() > 240
    assert image[2].max() < 20


def one_sentence(path: Path, **options: int) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"image|pixels|empty") as caught:
            read_image(path, **options)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert "0 bytes" in one_sentence(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"this is text")
    assert "unknown format" in one_sentence(tmp_path / "b.jpg")
    assert "folder" in one_sentence(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such image"):
        read_image(tmp_path / "none.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "gif", "tiff"])
def test_truncated_at_any_point(tmp_path: Path, suffix: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    path = tmp_path / f"a.{suffix}"
    for part in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * part)])
        one_sentence(path)


def test_enormous_images_are_refused_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert "20000 x 20000 pixels are more than the limit" in one_sentence(path)
    with pytest.raises(ValueError, match="limit of 10;"):
        image_size(path, max_pixels=10)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(path, max_pixels=10**9) == (20_000, 20_000)
    assert limit == Image.MAX_IMAGE_PIXELS  # Pillow's own limit is as it was


def test_threads_for_images_compute_on_one_core_and_nobody_else_does() -> None:
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with image_threads() as pool:
            assert set(pool.map(lambda _: (time.sleep(0.01), torch.get_num_threads())[1], range(8))) == {1}
            with ThreadPoolExecutor(1) as other:
                assert other.submit(torch.get_num_threads).result() == 3
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(usual)


def test_images_are_prepared_on_one_core_each(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, seen = torch.get_num_threads(), []
    fitted = inputs._fitted
    monkeypatch.setattr(inputs, "_fitted", lambda *given: seen.append(torch.get_num_threads()) or fitted(*given))
    try:
        torch.set_num_threads(3)
        source = iter([torch.zeros(3, 8, 8, dtype=torch.uint8)] * 5)
        assert [len(part) for _, part in prepared_ahead(source, 2, ResizeRule(), None, keep=False)] == [2, 2, 1]
    finally:
        torch.set_num_threads(usual)
    assert seen == [1] * 5
