"""`boxwright predict` on odd folders, large images and images of many bits: a result is that of the file it stands for.

Every image is listed once, and from there on stands for itself, whatever lies there.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from boxwright.data.inputs import image_paths, images_of
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe
from boxwright.structures import Classes

TINY = ["model.fpn.channels=16", "model.head.stem_channels=[]", "data.resize.size=64"]


def tiny_checkpoint(path, *settings):
    """A small detector with random weights that reports everything."""
    torch.manual_seed(0)
    recipe = load_recipe("fcos-small", [*TINY, *settings])
    model = recipe.build_model(2)
    save_checkpoint(Checkpoint(recipe, Classes(("cat", "dog"), (4, 9)), model.state_dict(), 0.0), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pt")


def noise(path, height, width, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def odd(tmp_path):
    """A folder with three images, and between them whatever else may be called like one."""
    folder = tmp_path / "images"
    noise(folder / "a.png", 60, 40)
    noise(folder / "e.png", 8, 8, 1)
    noise(folder / "k.png", 30, 90, 2)
    noise(folder / "b.png" / "x.png", 50, 50, 3)
    noise(folder / "b.png" / "y.png", 70, 50, 4)
    noise(folder / "c.jpg" / "only.png", 50, 50, 5)
    (folder / "d.jpeg").mkdir()
    (folder / "l.png").symlink_to(folder / "b.png")
    return folder


def assert_each_is_its_own(found, checkpoint, folder, names):
    """The results of a run are those of each image alone."""
    assert list(found) == [str(folder / name) for name in names]
    detector = Detector.load(checkpoint, "cpu", precision="fp32")
    for path, rows in found.items():
        (alone,) = detector.predict(path, batch=1)
        assert len(rows) == len(alone) > 0
        assert np.allclose([row["box"] for row in rows][:3], alone.boxes[:3], atol=1.0)


def run(boxwright, checkpoint, *sources, out="o", words=()):
    ended = boxwright("predict", checkpoint, *sources, "--out", out, "--json", "--coco", "--precision", "fp32", *words)
    file = Path(out) / "detections.json"
    return ended, json.loads(file.read_text()) if file.exists() else {}


def test_folders_called_like_images_are_no_images(boxwright, checkpoint, odd):
    ended, found = run(boxwright, checkpoint, odd, words=["--batch", 1])
    assert ended.code == 0, ended.err
    assert "in 3 images" in ended.err
    assert_each_is_its_own(found, checkpoint, odd, ["a.png", "e.png", "k.png"])
    assert sorted(path.name for path in Path("o").glob("*.jpg")) == ["a.jpg", "e.jpg", "k.jpg"]
    for path in Path("o").glob("*.jpg"):
        with Image.open(path) as drawn, Image.open(odd / f"{path.stem}.png") as own:
            assert drawn.size == own.size
    assert {row["image_id"] for row in json.loads(Path("o/detections.coco.json").read_text())} == {"a", "e", "k"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("pattern", [False, True])
def test_links_to_nothing_and_special_files_are_named_and_the_others_done(boxwright, checkpoint, odd, pattern):
    (odd / "b2.png").symlink_to(odd / "gone.png")
    (odd / "f.png").symlink_to(odd / "f.png")
    os.mkfifo(odd / "g.png")
    (odd / "h.png").write_bytes(b"")
    source = odd / "*.png" if pattern else odd
    ended, found = run(boxwright, checkpoint, source, words=["--batch", 1])
    assert ended.code == 2
    assert_each_is_its_own(found, checkpoint, odd, ["a.png", "e.png", "k.png"])
    said = [line for line in ended.err.splitlines() if line.startswith("boxwright: ")]
    assert len(said) == 4
    for name, reason in (
        ("b2", "a link to a file that is not there"),
        ("f", ""),
        ("g", "a device or a pipe"),
        ("h", "0"),
    ):
        assert any(line.startswith(f"boxwright: {odd / name}.png: ") and reason in line for line in said), name


def test_a_folder_that_appears_in_the_place_of_a_listed_image_changes_only_its_own_entry(checkpoint, odd):
    detector = Detector.load(checkpoint, "cpu")
    paths = image_paths(odd)
    (odd / "e.png").unlink()
    noise(odd / "e.png" / "x.png", 50, 50)
    noise(odd / "e.png" / "y.png", 50, 50)
    first, second, third = detector.try_stream(paths, listed=True)
    assert isinstance(second, ValueError)
    assert "this is a folder" in str(second)
    assert (first[0].path, third[0].path) == (str(odd / "a.png"), str(odd / "k.png"))


def test_among_several_what_is_no_image_has_its_error_in_its_place(checkpoint, odd):
    detector = Detector.load(checkpoint, "cpu")
    given = [odd / "a.png", odd / "none.png", 7, odd / "d.jpeg", odd / "k.png"]
    kinds = [one if isinstance(one, Exception) else one[0].path for one in detector.try_stream(given)]
    assert (kinds[0], kinds[4], len(kinds)) == (str(odd / "a.png"), str(odd / "k.png"), 5)
    for error, words in zip(kinds[1:4], ("no such image", "got int", "no images in this folder"), strict=True):
        assert words in str(error)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        detector.predict(given)
    assert [str(path) for path in images_of([odd, odd / "b.png"])][-2:] == [
        str(odd / "b.png" / "x.png"), str(odd / "b.png" / "y.png")
    ]  # fmt: skip


def test_a_file_name_that_is_no_utf8_keeps_its_own_result(boxwright, checkpoint, tmp_path):
    folder = tmp_path / "images"
    noise(folder / "a.png", 40, 40)
    try:
        os.rename(folder / "a.png", os.fsencode(folder) + b"/b\xff.png")
    except OSError:
        pytest.skip("this file system knows UTF-8 names only")
    noise(folder / "c.png", 50, 40)
    ended, found = run(boxwright, checkpoint, folder, words=["--yolo", "--text"])
    assert ended.code == 0, ended.err
    assert len(found) == 2
    assert str(folder / "c.png") in found


# ---- videos and addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "CLIP.MOV", "clip.avi"])
def test_for_a_video_it_is_said_what_to_do(boxwright, checkpoint, odd, name):
    (odd / name).write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    boxwright("predict", checkpoint, odd / "a.png", odd / name).refused(f"{odd / name}: a video is predicted alone")
    assert not list(Path().iterdir())
    assert run(boxwright, checkpoint, odd)[0].code == 0  # in a folder of images it is none of them
    (odd.parent / "videos").mkdir()
    (odd / name).rename(odd.parent / "videos" / name)
    boxwright("predict", checkpoint, odd.parent / "videos").refused(
        "no images in this folder", "this is a video", "Detector.video", "frames/%06d.jpg"
    )


def test_an_address_is_no_file(boxwright, checkpoint):
    boxwright("predict", checkpoint, "https://example.org/a.jpg").refused("this is a URL", "download it first")


# ---- images that are read, and said ---------------------------------------------------------------------------------


def test_a_jpeg_a_few_bytes_short_is_done_and_said(boxwright, checkpoint, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (200, 160, 3), dtype=np.uint8)
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.jpg")
    whole = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(whole[:-20])
    ended, found = run(boxwright, checkpoint, folder)
    assert ended.code == 0
    assert f"boxwright: {folder / 'a.jpg'}: the JPEG is cut short" in ended.err
    assert list(found) == [str(folder / "a.jpg")]
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    ended, found = run(boxwright, checkpoint, folder, out="o2")
    assert ended.code == 2
    assert f"boxwright: {folder / 'b.jpg'}: the image is damaged or cut short" in ended.err
    assert list(found) == [str(folder / "a.jpg")]


def thermal(path, seed=0):
    """A 16-bit image of which only 900 of 65536 values are in use."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = np.random.default_rng(seed).integers(0, 60, (48, 64))
    scene[10:30, 10:30] += 800
    Image.fromarray((51_000 + scene).astype(np.uint16)).save(path)
    return path


def test_a_checkpoint_scales_values_as_it_was_trained_and_says_what_becomes_flat(boxwright, tmp_path):
    path = thermal(tmp_path / "images" / "t.png")
    pixels = np.asarray(Image.open(path)).astype(float)
    for setting, low, high in (("[50000,52000]", 50_000, 52_000), ("type", 0, 65_535), ("image", 51_000, 51_859)):
        checkpoint = tiny_checkpoint(tmp_path / "tiny.pt", f"data.value_range={setting}")
        levels = ((pixels - low) / (high - low) * 255).round().clip(0, 255).astype(np.uint8)
        detector = Detector.load(checkpoint, "cpu", precision="fp32")
        (found,), (expected,) = detector.predict(path), detector.predict(levels)
        assert torch.equal(found.scores, expected.scores)
        ended, _ = run(boxwright, checkpoint, path, out=f"o-{setting}")
        assert ended.code == 0
        assert ("of 256 grey levels" in ended.err) is (setting == "type")


def test_a_checkpoint_from_before_the_setting_scales_by_the_type(tmp_path):
    path = tiny_checkpoint(tmp_path / "tiny.pt")
    assert Detector.load(path, "cpu").value_range == "auto"
    data = torch.load(path, weights_only=True)
    del data["recipe"]["data"]["value_range"]
    torch.save(data, path)
    assert load_checkpoint(path).recipe.data.value_range == "type"


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_what_needs_more_memory_than_the_setting_is_named_and_the_others_done(boxwright, checkpoint, tmp_path):
    folder = tmp_path / "images"
    noise(folder / "a.png", 60, 40)
    Image.new("1", (4000, 3000)).save(folder / "b.png")
    noise(folder / "c.png", 30, 90, 2)
    ended, found = run(boxwright, checkpoint, folder, words=["--memory", "0.05"])
    assert ended.code == 2
    assert f"boxwright: {folder / 'b.png'}: needs 0.1 GiB of memory, more than the 0.05 GiB" in ended.err
    assert_each_is_its_own(found, checkpoint, folder, ["a.png", "c.png"])
    assert run(boxwright, checkpoint, folder, out="o2")[0].code == 0
    boxwright("predict", checkpoint, folder, "--memory", "0").refused("memory: expected more than 0 GiB, got 0")
