"""What users really have: broken images, labels and checkpoints each end with one sentence that names the file."""

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.data.sampler import StepSampler
from boxwright.ops.image import ResizeRule
from boxwright.recipes import load_recipe
from boxwright.structures import Classes
from boxwright.training.plots import plot_results
from boxwright.training.prepare import open_checked
from boxwright.training.run_folder import Results, new_run_folder

Call = Callable[..., Any]
Voc = Callable[..., Path]
TINY = (
    "data.batch_size=2", "optim.reference_batch=2", "schedule.steps=2", "validation.times=1", "model.fpn.channels=16",
    "model.head.stem_channels=[16]", "data.resize.size=64", "data.resize.max_size=128", "data.workers=0",
    "precision=fp32",
)  # fmt: skip
ODD = ("cmyk.jpg", "deep.png", "palette.png", "animated.gif", "turned.jpg", "grey.png")
BROKEN = ("text.jpg", "empty.png", "cut.jpg", "enormous.png", "gone.png")


def write_odd_images(folder: Path) -> None:
    """Readable images of kinds that naive readers get wrong, all 64 x 48."""
    red = Image.new("RGB", (64, 48), (200, 10, 10))
    red.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.full((48, 64), 40_000, np.uint16)).save(folder / "deep.png")
    red.convert("P").save(folder / "palette.png", transparency=0)
    red.save(folder / "animated.gif", save_all=True, append_images=[Image.new("RGB", (64, 48), (1, 2, 3))])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (48, 64), (9, 9, 90)).save(folder / "turned.jpg", exif=turned)
    Image.new("L", (64, 48), 77).save(folder / "grey.png")


def write_broken_images(folder: Path) -> None:
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.png").write_bytes(b"")
    whole = io.BytesIO()
    Image.effect_noise((64, 48), 90).convert("RGB").save(whole, "JPEG")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:900])
    (folder / "enormous.png").write_bytes(png(60_000, 60_000, b""))
    (folder / "gone.png").unlink(missing_ok=True)


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG file that says it is so large, whatever its pixels are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def snapshot(root: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its content, and every folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


def untrained(path: Path, names: tuple[str, ...] = ("cell", "dot")) -> Path:
    """A checkpoint of ours with random weights."""
    recipe = load_recipe("fcos", TINY)
    classes = Classes.named(names, first_id=1)
    torch.manual_seed(0)
    model = recipe.build_model(len(classes))
    save_checkpoint(Checkpoint(recipe, classes, model.state_dict()), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("checkpoint") / "cells.pt")


# ---- images -------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_odd_images_are_used_and_broken_ones_left_out_and_named(
    tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path
) -> None:
    data = voc(tmp_path / "data", train=("p0.png", *ODD, *BROKEN), val=("p1.png", "p2.png"))
    write_odd_images(data / "JPEGImages")
    write_broken_images(data / "JPEGImages")
    before = snapshot(data)

    seen = boxwright("inspect", data, "--all")
    assert seen.code == 0
    for name in BROKEN:
        assert f"JPEGImages/{Path(name).stem}." in seen.out, name

    trained = boxwright("train", "fcos", *TINY, "schedule.steps=4", "--data", data, "--device", "cpu")
    assert trained.code == 0, trained.err
    assert "7 images to train on" in trained.err
    for name in BROKEN:
        assert f"JPEGImages/{Path(name).stem}." in trained.err, name

    found = boxwright("predict", checkpoint, data / "JPEGImages", "--json", "--score", "0", "--out", tmp_path / "found")
    assert found.code == 2
    listed = json.loads((tmp_path / "found" / "detections.json").read_text(encoding="utf-8"))
    assert {Path(path).name for path in listed} == {"p0.png", "p1.png", "p2.png", *ODD}
    for name in BROKEN[:-1]:
        assert f"{data / 'JPEGImages' / name}: " in found.err
    assert "Traceback" not in seen.err + trained.err + found.err
    assert snapshot(data) == before


def test_a_broken_image_of_the_validation_split_is_said_when_measuring(
    tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path
) -> None:
    data = voc(tmp_path / "data")
    (data / "JPEGImages" / "p3.png").write_bytes(b"")
    ended = boxwright("evaluate", checkpoint, "--data", data, "--json", "--save", "out", "--device", "cpu")
    assert ended.code == 2
    assert "p3.png: the file is empty" in ended.err
    assert json.loads(ended.out) == json.loads(Path("out/metrics.json").read_text(encoding="utf-8"))
    (data / "JPEGImages" / "p3.png").unlink()
    ended = boxwright("evaluate", checkpoint, "--data", data, "--device", "cpu")
    assert ended.code == 2
    assert "1 image\n" in ended.out


@pytest.mark.parametrize("data_of", ["evaluate", "proposals"])
def test_an_image_that_is_damaged_inside_does_not_end_a_measurement(
    tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path, data_of: str
) -> None:
    data = voc(tmp_path / "data", train=("p0.png",), val=("p1.png", "p2.png", "p3.png"))
    whole = voc(tmp_path / "whole", train=("p0.png",), val=("p1.png", "p3.png"))
    for name in ("p1.png", "p3.png"):  # the same images as there
        (whole / "JPEGImages" / name).write_bytes((data / "JPEGImages" / name).read_bytes())
    damaged = data / "JPEGImages" / "p2.png"
    damaged.write_bytes(png(64, 48, zlib.compress(bytes(9 * 48))[:20]))

    def call(folder: Path) -> Any:
        words = {"evaluate": ("--json", "--score-threshold", 0), "proposals": ("--split", "val", "--out", "p.npz")}
        return boxwright(data_of, checkpoint, "--data", folder, *words[data_of], "--device", "cpu")

    ended = call(data)
    assert ended.code == 2, ended.err
    assert call(whole).code == 0
    assert [line for line in ended.err.splitlines() if str(damaged) in line] == [
        line for line in ended.err.splitlines() if "damaged or cut short" in line
    ]
    assert f"boxwright: {damaged}: the image is damaged or cut short" in ended.err
    assert "1 of 3 images could not be decoded: left out" in ended.err
    if data_of == "evaluate":  # the figures of the others: its objects are not counted as missed
        assert json.loads(ended.out) == json.loads(call(whole).out)
    else:
        assert "proposals for 2 images" in ended.out
        assert np.load("p.npz")["names"].tolist() == ["JPEGImages/p1.png", "JPEGImages/p3.png"]
        before = Path("p.npz").read_bytes()
    for name in ("p1.png", "p3.png"):
        (data / "JPEGImages" / name).write_bytes(damaged.read_bytes())
    call(data).refused(str(data), "no usable image" if data_of == "evaluate" else "no image that can be read")
    if data_of == "proposals":
        assert [path.name for path in Path.cwd().iterdir()] == ["p.npz"]
        assert Path("p.npz").read_bytes() == before


def test_a_file_name_that_is_no_utf8(tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path) -> None:
    data = voc(tmp_path / "data")
    name = os.fsdecode(b"caf\xe9")
    try:
        (data / "JPEGImages" / "p3.png").rename(data / "JPEGImages" / f"{name}.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (data / "JPEGImages" / f"{name}2.png").write_bytes(b"")
    words = ("--json", "--coco", "--text", "--score", "0", "--max-detections", "2", "--out", "found")
    ended = boxwright("predict", checkpoint, data / "JPEGImages", *words)
    assert ended.code == 2, ended.err
    listed = json.loads(Path("found/detections.json").read_text(encoding="utf-8"))
    assert [len(rows) for rows in listed.values()] == [2] * 4
    assert str(data / "JPEGImages" / f"{name}.png") in listed


def test_every_image_broken_is_one_sentence(tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path) -> None:
    data = voc(tmp_path / "data")
    for path in (data / "JPEGImages").iterdir():
        path.write_bytes(b"broken")
    boxwright("train", "fcos", *TINY, "--data", data).refused(str(data), "no labelled object")
    boxwright("evaluate", checkpoint, "--data", data).refused(str(data), "no usable image")
    found = boxwright("predict", checkpoint, data / "JPEGImages")
    assert found.code == 2
    assert "p0.png" in found.err


@pytest.mark.e2e
@pytest.mark.parametrize("settings", [("data.cache=false",), ("data.cache=false", "data.workers=1")])
def test_an_image_that_is_damaged_inside_is_named_and_the_run_goes_on_without_it(
    tmp_path: Path, boxwright: Call, voc: Voc, settings: tuple[str, ...]
) -> None:
    # Header and end are whole, so that only decoding finds it: here in the last step, not among the first batches.
    late = next(iter(StepSampler([4 / 3] * 16, 2, seed=0, start=7, stop=8)))[1].record
    data = voc(tmp_path / "data", train=[f"{number}.png" for number in range(16)], val=("v.png",))
    damaged = data / "JPEGImages" / f"{late}.png"
    damaged.write_bytes(png(64, 48, zlib.compress(bytes(9 * 48))[:20]))
    tiny = (*TINY, "schedule.steps=8", "data.augment.mosaic=0")
    ended = boxwright("train", "fcos", *tiny, *settings, "--data", data, "--device", "cpu")
    run = Path("runs/fcos-small")
    ended.refused(str(damaged), "damaged or cut short", "copy it again or remove it", f"boxwright train --resume {run}")
    state = load_checkpoint(run / "weights" / "last.pt").training
    assert state is not None
    assert state["progress"]["step"] == 7  # everything that was learnt before it
    damaged.unlink()
    ended = boxwright("train", "--resume", run)
    assert ended.code == 0, ended.err
    assert (run / "metrics.json").exists()


@pytest.mark.e2e
def test_a_damaged_image_to_measure_on_costs_nothing_that_was_learnt(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data", val=("v.png", "w.png"))
    image = data / "JPEGImages" / "w.png"
    whole = image.read_bytes()
    tiny = (*TINY, "schedule.steps=8", "validation.times=2", "data.cache=false", "data.augment.mosaic=0")
    given = ("train", "fcos", *tiny, "--data", data, "--device", "cpu")
    assert boxwright(*given, "--name", "whole").code == 0
    image.write_bytes(png(64, 48, zlib.compress(bytes(9 * 48))[:20]))
    run = Path("runs/cut")
    ended = boxwright(*given, "--name", "cut")
    ended.refused(str(image), "damaged or cut short", f"boxwright train --resume {run}")
    state = load_checkpoint(run / "weights" / "last.pt").training
    assert state is not None
    assert (state["progress"]["step"], state["progress"]["validation_failed"]) == (4, True)
    image.write_bytes(whole)
    ended = boxwright("train", "--resume", run)
    assert ended.code == 0, ended.err
    rows = [
        [line.split(",")[:-1] for line in (Path("runs") / name / "results.csv").read_text().splitlines()]
        for name in ("whole", "cut")
    ]  # all but the seconds
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3


def test_an_image_that_is_damaged_inside_is_found_before_the_start_where_all_are_kept_in_memory(
    tmp_path: Path, boxwright: Call, voc: Voc
) -> None:
    data = voc(tmp_path / "data")
    (data / "JPEGImages" / "p1.png").write_bytes(png(64, 48, zlib.compress(bytes(9 * 48))[:20]))
    ended = boxwright("train", "fcos", *TINY, "data.cache=true", "--data", data, "--device", "cpu")
    ended.refused(str(data / "JPEGImages" / "p1.png"), "damaged or cut short", "copy it again or remove it")
    assert not list(Path.cwd().iterdir())


def test_images_kept_in_memory_keep_no_file_open(tmp_path: Path, voc: Voc) -> None:
    # 1024 open files is what most systems allow; datasets have more images.
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not list the open files of a process")
    data = voc(tmp_path / "data", train=[f"{number}.png" for number in range(40)], val=("v.png",))
    before = len(os.listdir("/proc/self/fd"))
    images = DetectionDataset(open_folder(data).splits["train"], ResizeRule("none"), cache=True)
    assert images.cached_bytes > 0
    assert len(os.listdir("/proc/self/fd")) < before + 10


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_entities_in_xml_are_refused(tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("cell")
    data = voc(tmp_path / "data")
    levels = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 12))
    thing = (data / "Annotations" / "p1.xml").read_text()
    for declared, name in ((f'<!ENTITY l0 "cell">{levels}', "&l11;"), (f'<!ENTITY e SYSTEM "file://{secret}">', "&e;")):
        text = f"<!DOCTYPE x [{declared}]>{thing.replace('<name>cell', f'<name>{name}')}"
        for stem in ("p1", "p2", "p3"):
            (data / "Annotations" / f"{stem}.xml").write_text(thing)
        (data / "Annotations" / "p0.xml").write_text(text)
        ended = boxwright("inspect", data)
        assert ended.code == 0
        assert f"{data / 'Annotations' / 'p0.xml'}:1: the XML declares a document type" in ended.out
        for stem in ("p1", "p2", "p3"):  # and where no file is left
            (data / "Annotations" / f"{stem}.xml").write_text(text)
        for words in (("inspect",), ("train", "fcos", "--data"), ("evaluate", checkpoint, "--data")):
            boxwright(*words, data).refused(f"{data / 'Annotations' / 'p0.xml'}:1", "remove the declaration")


def test_a_bad_box_is_said_with_its_corners_before_training(tmp_path: Path, voc: Voc) -> None:
    data, said = voc(tmp_path / "data"), list[str]()
    file = data / "Annotations" / "p0.xml"
    file.write_text(file.read_text().replace("<xmax>30<", "<xmax>8<", 1))
    open_checked(data, classes=None, train_split="train", val_split="val", overfit=None,
                 recipe=load_recipe("fcos", TINY), log=said.append)  # fmt: skip
    lines = [line for line in said if str(file) in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"data: {file}:1: ")
    assert lines[0].endswith(" box 8, 8, 8, 30 (left out)"), lines


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1, 2]", "expected a JSON object"),
        ("{", "not valid JSON"),
        ('{"images": [], "annotations": []', "not valid JSON"),
        ('{"images": [], "annotations": []}', '"categories" is missing'),
        ('{"images": {}, "annotations": [], "categories": []}', '"images" is not a list'),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "result file"),
        ('{"images": [], "annotations": [], "categories": [{"id": "x", "name": "a"}]}', "no integer as its id"),
    ],
)
def test_json_of_the_wrong_shape(tmp_path: Path, boxwright: Call, checkpoint: Path, content: str, reason: str) -> None:
    file = tmp_path / "data" / "annotations" / "instances_train.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    for words in (("inspect",), ("train", "fcos", "--data"), ("evaluate", checkpoint, "--data")):
        boxwright(*words, file.parent.parent).refused(str(file), reason)


def test_yolo_rows_with_words(tmp_path: Path, boxwright: Call) -> None:
    data = tmp_path / "data"
    for folder in ("images/train", "labels/train"):
        (data / folder).mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(data / "images" / "train" / f"p{number}.png")
        (data / "labels" / "train" / f"p{number}.txt").write_text("cell 0.5 0.5 0.2 0.2\n")
    boxwright("train", "fcos", "--data", data).refused(str(data))
    (data / "labels" / "train" / "p0.txt").write_text("0 0.5 0.5 0.2 0.2\ncell 0.5 0.5 0.2 0.2\n")
    ended = boxwright("inspect", data, "--all")
    assert ended.code == 0
    assert f"{data / 'labels' / 'train' / 'p0.txt'}:2: 'cell' is not a number" in ended.out


def test_folders_without_labels(tmp_path: Path, boxwright: Call, checkpoint: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for reason in ("the folder is empty", "1 image but no labels were found"):
        for words in (("inspect",), ("train", "fcos", "--data"), ("evaluate", checkpoint, "--data")):
            boxwright(*words, data).refused(str(data), reason)
        Image.new("RGB", (40, 30)).save(data / "p.png")
    boxwright("train", "fcos", "--data", data / "p.png").refused("p.png", "expected a folder of labelled images")
    boxwright("predict", checkpoint, tmp_path / "*.png").refused("*.png", "no such image")


# ---- checkpoints ----------------------------------------------------------------------------------------------------


class Evil:
    """Unpickling it would create a file."""

    def __reduce__(self) -> object:
        return Path.touch, (Path("was_run"),)


def other_files(folder: Path, checkpoint: Path) -> dict[str, Path]:
    """Files that are no checkpoint of ours."""
    files = {name: folder / name for name in ("text.pt", "empty.pt", "cut.pt", "evil.pt", "weights.pt", "image.png")}
    files["text.pt"].write_text("hello")
    files["empty.pt"].write_bytes(b"")
    files["cut.pt"].write_bytes(checkpoint.read_bytes()[:-5000])
    files["evil.pt"].write_bytes(pickle.dumps(Evil()))
    torch.save({"conv.weight": torch.zeros(3)}, files["weights.pt"])
    Image.new("RGB", (8, 8)).save(files["image.png"])
    return files


def test_a_checkpoint_of_something_else(tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path) -> None:
    data = voc(tmp_path / "data")
    for file in other_files(tmp_path, checkpoint).values():
        for words in (
            ("predict", file, data / "JPEGImages"),
            ("evaluate", file, "--data", data),
            ("train", "fcos", *TINY, "--data", data, "--device", "cpu", "--weights", file),
            ("train", "--resume", file),
        ):
            ended = boxwright(*words)
            ended.refused(str(file), "not a boxwright checkpoint")
    assert not list(Path.cwd().iterdir())


def test_checkpoints_that_do_not_fit(tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path) -> None:
    data = voc(tmp_path / "data", names=("cell", "dog"))
    boxwright("evaluate", checkpoint, "--data", data).refused(
        "the classes differ", "cell, dot", "cell, dog", "--classes"
    )
    boxwright("train", "--resume", checkpoint).refused(str(checkpoint), "weights only", "--weights")
    wide = ("model.fpn.channels=32", "model.head.stem_channels=[32]", "model.backbone=resnet18")
    boxwright("train", "fcos", *TINY, *wide, "--data", data, "--device", "cpu", "--weights", checkpoint).refused(
        str(checkpoint), "nothing would be kept", "leave out the recipe to train the network of the file"
    )
    boxwright("predict", checkpoint.parent, data / "JPEGImages").refused(str(checkpoint.parent), "folder")
    assert not list(Path.cwd().iterdir())


# ---- the machine ----------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    tmp_path: Path, boxwright: Call, voc: Voc, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = voc(tmp_path / "data")
    real, calls = torch.save, []

    def save(content: object, path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            return real(content, path)
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        ended = boxwright("train", "fcos", *TINY, "--data", data, "--device", "cpu")
    weights = Path("runs/fcos-small/weights")
    ended.refused(str(weights), "No space left on device", "unchanged", "boxwright train --resume runs/fcos-small")
    assert [path.name for path in weights.iterdir()] == ["last.pt"]
    state = load_checkpoint(weights / "last.pt").training
    assert state is not None
    assert state["progress"]["step"] == 0
    assert boxwright("train", "--resume").code == 0
    assert (weights / "best.pt").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_before_the_first_step_is_one_sentence_with_the_file(
    tmp_path: Path, boxwright: Call, voc: Voc, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = voc(tmp_path / "data")
    for name in ("args.yaml", "dataset_check.json", "log.txt", "labels.jpg", "train_batch0.jpg"):

        def full(parent: Path, run: str, name: str = name) -> Path:
            folder = new_run_folder(parent, run)
            (folder / name).symlink_to("/dev/full")
            return folder

        monkeypatch.setattr("boxwright.training.run.new_run_folder", full)
        words = ("train", "fcos", *TINY, "--data", data, "--name", name, "--device", "cpu")
        boxwright(*words).refused(str(Path("runs", name, name)), "full")


@pytest.mark.parametrize("kind", [".jpg", ".xml", ".txt", ".json"])
def test_a_full_disk_while_shapes_are_drawn_is_one_sentence_with_the_file(
    boxwright: Call, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def full(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*given: Any, **options: Any) -> Any:
            if any(isinstance(word, Path) and word.suffix == kind for word in given):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*given, **options)

        return write

    monkeypatch.setattr(Image.Image, "save", full(Image.Image.save))
    monkeypatch.setattr(Path, "write_text", full(Path.write_text))
    ended = boxwright("shapes", "out", "--train", 1, "--val", 0, "--layout", "coco" if kind == ".json" else "voc")
    ended.refused("out/", f"{kind}: the disk is full", "free some space")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_curves_and_tables_of_a_run_name_themselves_where_the_disk_is_full(tmp_path: Path) -> None:
    row = {"step": 1, "val/AP": 0.5}
    results = Results(tmp_path)
    for name in ("results.csv.partial", "results.png"):
        (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        results.add(row)
    assert caught.value.filename == str(tmp_path / "results.csv")
    with pytest.raises(OSError, match=r"results\.png"):
        plot_results([row], tmp_path / "results.png")


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_run_that_found_the_disk_full_is_finished_by_resume(
    tmp_path: Path, boxwright: Call, voc: Voc, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = voc(tmp_path / "data"), Path("runs/fcos-small")

    def full(parent: Path, name: str) -> Path:
        folder = new_run_folder(parent, name)
        (folder / "results.jsonl").symlink_to("/dev/full")
        return folder

    monkeypatch.setattr("boxwright.training.run.new_run_folder", full)
    go_on = f"boxwright train --resume {run}"
    boxwright("train", "fcos", *TINY, "--data", data, "--device", "cpu").refused(
        f"{run / 'results.jsonl'}: the disk is full", f"free some space; then go on with: {go_on}"
    )
    (run / "results.jsonl").unlink()
    (run / "metrics.json.partial").symlink_to("/dev/full")
    boxwright("train", "--resume", run).refused(
        f"{run / 'metrics.json'}: the disk is full", f"free some space; then go on with: {go_on}"
    )
    assert not (run / "metrics.json").exists()
    rows = (run / "results.jsonl").read_text()
    (run / "results.jsonl.partial").symlink_to("/dev/full")
    boxwright("train", "--resume", run).refused(str(run / "results.jsonl"), "disk is full")
    assert (run / "results.jsonl").read_text() == rows
    ended = boxwright("train", "--resume", run)
    assert ended.code == 0, ended.err
    assert "AP50" in json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert [json.loads(line)["step"] for line in rows.splitlines()] == [2]
    assert (run / "results.jsonl").read_text() == rows
    assert not list(run.rglob("*.partial"))
    boxwright("train", "--resume", run).refused("is finished")


@pytest.mark.parametrize("end", ["full disk", "Ctrl-C", "SIGTERM"])
def test_what_ends_predict_loses_nothing_that_was_found(
    tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    data = voc(tmp_path / "data")
    real = Image.Image.save

    def save(image: Image.Image, path: Path, **options: Any) -> None:
        if Path(path).stem != "p2":
            return real(image, path, **options)
        Path(path).write_bytes(b"half of it")
        if end == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if end == "Ctrl-C":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(Image.Image, "save", save)
    words = ("--json", "--coco", "--text", "--yolo", "--score", "0", "--max-detections", "2", "--out", "found")
    ended = boxwright("predict", checkpoint, data / "JPEGImages", *words)
    if end == "full disk":
        ended.refused(str(Path("found") / "p2.jpg"), "disk is full", "free some space")
        assert sorted(path.name for path in Path("found").glob("*.jpg")) == ["p0.jpg", "p1.jpg"]
    else:
        assert ended.code == (128 + signal.SIGTERM if end == "SIGTERM" else 130)
    assert "Traceback" not in ended.err
    assert "what was found in 2 of 4 images is in found" in ended.err
    by_path = json.loads(Path("found/detections.json").read_text(encoding="utf-8"))
    assert [Path(path).name for path in by_path] == ["p0.png", "p1.png", "p2.png"]
    assert [len(rows) for rows in by_path.values()] == [2, 2, 2]
    assert len(json.loads(Path("found/detections.coco.json").read_text(encoding="utf-8"))) == 6
    for folder in ("text", "labels"):
        assert sorted(path.name for path in Path("found", folder).iterdir()) == ["p0.txt", "p1.txt", "p2.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_one_sentence_with_the_file(
    tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = voc(tmp_path / "data")
    evaluate = ("evaluate", checkpoint, "--data", data, "--save", "out", "--device", "cpu")
    predict = ("predict", checkpoint, data / "JPEGImages", "--out", "out", "--no-draw", "--score", 0)
    proposals = ("proposals", checkpoint, "--data", data, "--out", "out/p.npz", "--device", "cpu")
    cases = [
        (evaluate, "metrics.json"), (evaluate, "predictions.json"), (evaluate, "per_class.csv"),
        (evaluate, "BoxPR_curve.png"), (evaluate, "ground-truth/p2.txt"), ((*predict, "--json"), "detections.json"),
        ((*predict, "--text"), "text/p1.txt"), ((*predict, "--yolo"), "labels/p1.txt"),
        (("explain", checkpoint, data / "JPEGImages" / "p1.png", "--out", "out", "--device", "cpu"), "1_overview.png"),
        (proposals, "p.npz.partial"), (("convert", checkpoint, "--out", "out/c.pt"), "c.pt.partial"),
    ]  # fmt: skip
    for words, name in cases:
        shutil.rmtree("out", ignore_errors=True)
        Path("out", name).parent.mkdir(parents=True)
        Path("out", name).symlink_to("/dev/full")
        ended = boxwright(*words)
        ended.refused(str(Path("out", name.removesuffix(".partial"))), "disk is full" if ".pt" not in name else "full")
        if words is evaluate:
            assert "2 images" in ended.out  # the figures were said before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_memory_that_runs_out_is_one_sentence(
    tmp_path: Path, boxwright: Call, voc: Voc, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    data = voc(tmp_path / "data")

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("boxwright.inference.predictor.TorchEngine.__call__", refuse)
    monkeypatch.setattr("boxwright.deploy.export.export_checkpoint.record", refuse)
    for words in (("predict", checkpoint, data), ("evaluate", checkpoint, "--data", data), ("export", checkpoint)):
        words = (*words[:-1], data / "JPEGImages") if words[0] == "predict" else words
        boxwright(*words).refused("out of memory", str(error) or "MemoryError", "smaller --batch")
    monkeypatch.setattr("boxwright.inference.predictor.TorchEngine.__call__", lambda *_: 1 / torch.zeros(2)[5])
    with pytest.raises(IndexError):  # a fault of ours is not called a lack of memory
        boxwright("predict", checkpoint, data / "JPEGImages")


def test_no_network_for_pretrained_weights(
    tmp_path: Path, boxwright: Call, voc: Voc, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = voc(tmp_path / "data")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    wanted = ("model.backbone=regnet_x_400mf", "model.backbone.weights=IMAGENET1K_V2")
    ended = boxwright("train", "fcos", *TINY, *wanted, "--data", data, "--device", "cpu")
    ended.refused("no network", "regnet_x_400mf", "https://", "model.backbone.weights=FILE")
    assert not list(Path.cwd().iterdir())


@pytest.mark.e2e
def test_a_loss_that_is_no_number_stops_and_names_the_images(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data")
    settings = ("optim.lr=1e30", "optim.kind=sgd", "optim.clip_norm=null", "schedule.steps=6", "validation.times=6")
    ended = boxwright("train", "fcos", *TINY, *settings, "--data", data, "--device", "cpu")
    ended.refused("number", "optim.lr")
    last = load_checkpoint(Path("runs/fcos-small/weights/last.pt"))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in last.weights.values())
    if "the loss" in ended.err:
        assert "p0.png" in ended.err


def test_empty_labels_are_no_objects(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data")
    for number in range(4):
        (data / "Annotations" / f"p{number}.xml").write_text("<annotation></annotation>")
    boxwright("train", "fcos", "--data", data).refused(str(data), "class name")


def test_objects_that_no_location_can_claim_are_said_before_training(tmp_path: Path, voc: Voc) -> None:
    data, said = voc(tmp_path / "data"), list[str]()
    for file in (data / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<xmax>30<", "<xmax>10<", 1).replace("<ymax>30<", "<ymax>9<", 1))
    prepared = open_checked(data, classes=None, train_split="train", val_split="val", overfit=None,
                            recipe=load_recipe("fcos-shapes", ["data.train_scales=[]"]), log=said.append)  # fmt: skip
    lines = [line for line in said if "can be claimed by no location" in line]
    assert len(lines) == 1
    assert lines[0].startswith("data: train: ")
    assert any(finding.kind == "unclaimable-objects" for finding in prepared.report.findings)
