"""Batches on Ray: exactly one row an image, whoever dies, whenever resumed; the rows are what `Detector` says."""

import json
import os
import signal
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from whole_masks import decode_rle

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.cli import main
from boxwright.deploy.batch.listing import list_images
from boxwright.deploy.batch.ray_job import _alone, predict_batch, ray_cluster
from boxwright.deploy.batch.worker import Attempt, Chunk, Job, Worker, further_columns
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe
from boxwright.structures import Classes

pytest.importorskip("ray.data", reason="the package ray, of the extra ray, is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the package pyarrow, of the extra ray, is not installed")
TWO = Classes(("cat", "dog"), (4, 9))
SAME = {"precision": "fp32", "batch": 1, "device": "cpu"}


def small_checkpoint(path, name, recipe_name, *settings, classes=TWO):
    torch.manual_seed(0)
    recipe = load_recipe(recipe_name, ["model.fpn.channels=16", "data.resize.size=64", *settings])
    model = recipe.build_model(len(classes))
    save_checkpoint(Checkpoint(recipe, classes, model.state_dict(), 0.0), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small detector with random weights that reports everything."""
    place = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    return small_checkpoint(place, "fcos", "fcos-small", "model.head.stem_channels=[]")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve images, large enough to take a while each, and one that cannot be read."""
    place = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(12):
        size = (500 + 10 * number, 800, 3)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(place / f"{number:02d}.png", compress_level=1)
    (place / "07.jpg").write_bytes(b"not an image")
    return place


@pytest.fixture(scope="module")
def cluster(_home_stays_empty):
    """A Ray of two workers on this machine."""
    with ray_cluster(2):
        yield


def rows(folder):
    """All rows of the tables of results, by image, after a check that no image has two."""
    found = parquet.read_table(folder).to_pylist() if any(folder.glob("*.parquet")) else []
    by_image = {row["image"]: row for row in found}
    assert len(by_image) == len(found)
    return by_image


def kill_a_worker_at_work(out, killed, stop):
    """Kill processes that work at a chunk until one dies before it has written its rows."""
    while not stop.is_set() and not any(in_the_middle for _, in_the_middle in killed):
        for note in (out / "attempts").glob("[!.]*"):
            try:
                process = json.loads(note.read_text())["process"]
                os.kill(process, signal.SIGKILL)
            except (OSError, ValueError):
                continue
            while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.001)
            killed.append((process, note.exists() and not (out / "results" / f"{note.name}.parquet").exists()))
            break
        time.sleep(0.001)


@pytest.fixture(scope="module")
def finished(cluster, checkpoint, images, tmp_path_factory):
    """A job one of whose workers was killed: its report, its folder, and who was killed."""
    out = tmp_path_factory.mktemp("job") / "out"
    killed, stop = [], threading.Event()
    killer = threading.Thread(target=kill_a_worker_at_work, args=(out, killed, stop))
    killer.start()
    try:
        report = predict_batch(checkpoint, [images], out, workers=2, **SAME)
    finally:
        stop.set()
        killer.join()
    return report, out, killed


@pytest.mark.slow
def test_an_image_has_one_row_though_a_worker_is_killed(finished, images):
    report, out, killed = finished
    assert any(in_the_middle for _, in_the_middle in killed)
    results, failures = rows(out / "results"), rows(out / "failures")
    assert sorted(results) == sorted(map(str, images.glob("*.png")))
    assert list(failures) == [str(images / "07.jpg")]
    assert "07.jpg: not an image that can be read" in failures[str(images / "07.jpg")]["why"]
    assert report[1:4] == (13, 0, 1)
    assert report.objects == sum(len(row["scores"]) for row in results.values()) > 0
    assert sorted(path.name for path in out.iterdir()) == [".lock", "failures", "job.json", "results"]
    assert not [path for path in out.rglob("*") if path.name.endswith(".partial")]


@pytest.mark.slow
def test_the_rows_are_what_the_detector_says(finished, checkpoint, images):
    detector = Detector.load(checkpoint, "cpu", precision="fp32")
    for path, row in rows(finished[1] / "results").items():
        found = detector.predict(path, batch=1)[0]
        assert (row["height"], row["width"]) == found.size_hw
        assert np.allclose(row["boxes"], found.boxes, atol=1e-3)
        assert np.allclose(row["scores"], found.scores, atol=1e-5)
        assert row["labels"] == found.labels.tolist()
        assert row["names"] == found.names
        assert row["category_ids"] == [(4, 9)[label] for label in found.labels.tolist()]


@pytest.mark.slow
def test_what_has_a_row_is_not_done_again(finished, checkpoint, images, tmp_path):
    _, out, _ = finished
    before = rows(out / "results")
    gone = next((out / "results").glob("*.parquet"))
    (lost,) = (row["image"] for row in parquet.read_table(gone).to_pylist())
    gone.unlink()
    (out / "results" / ".x.parquet.partial").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    extra = tmp_path / "extra.png"
    Image.new("RGB", (40, 30)).save(extra)
    seen = []
    report = predict_batch(checkpoint, [images, extra], out, workers=2, progress=lambda *at: seen.append(at), **SAME)
    assert report[1:4] == (14, 12, 1)
    assert seen[-1] == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    after = rows(out / "results")
    assert set(after) == {*before, str(extra)}
    assert np.allclose(after[lost]["boxes"], before[lost]["boxes"], atol=1e-3)
    assert predict_batch(checkpoint, [images, extra], out, **SAME)[1:5] == (14, 14, 1, 0)


@pytest.mark.slow
def test_images_inside_a_table_from_the_command_line(cluster, checkpoint, images, tmp_path, monkeypatch, capsys):
    import pyarrow

    data = [(images / name).read_bytes() for name in ("00.png", "01.png", "07.jpg")]
    parquet.write_table(pyarrow.table({"key": ["x", "y", "z"], "bytes": data}), tmp_path / "table.parquet")
    words = ["predict", checkpoint, tmp_path / "table.parquet", "--engine", "ray", "--out", tmp_path / "out",
             "--workers", "2", "--max-detections", "3", "--device", "cpu"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["boxwright", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main.run()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, f"{tmp_path / 'out'}\n")
    assert "6 objects in 3 images (score from 0.00)\n" in printed.err
    assert f"boxwright: 1 of 3 images failed: {tmp_path / 'out' / 'failures'}\n" in printed.err
    assert {key: len(row["boxes"]) for key, row in rows(tmp_path / "out" / "results").items()} == {"x": 3, "y": 3}
    assert list(rows(tmp_path / "out" / "failures")) == ["z"]


@pytest.mark.slow
def test_what_only_a_worker_sees_ends_the_job_with_its_sentence(cluster, checkpoint, images, tmp_path):
    if torch.backends.mps.is_available():
        pytest.skip("this machine has the GPU that is to be missing")
    with pytest.raises(ValueError, match=r"^device mps: this machine \(or this torch\) has no Apple GPU[^\n]*$"):
        predict_batch(checkpoint, [images], tmp_path / "out", workers=1, device="mps")
    assert sorted(rows(tmp_path / "out" / "results")) == []


def test_a_folder_of_another_job_is_refused(checkpoint, images, tmp_path):
    gone = images / "07.jpg"
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="no such"):
        predict_batch(checkpoint, [tmp_path / "nowhere"], out)
    (out / "results").mkdir(parents=True)
    with pytest.raises(ValueError, match="has results of something else"):
        predict_batch(checkpoint, [gone], out)
    (out / "results").rmdir()
    settings = {"checkpoint": "0", "classes": ["cat"], "score": 0.5}
    (out / "job.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"another job \(checkpoint 0 there, .*; score 0\.5 there, 0\.0 now"):
        predict_batch(checkpoint, [gone], out)
    with _alone(out), pytest.raises(ValueError, match="another job is writing here"):
        predict_batch(checkpoint, [gone], out)
    with pytest.raises(ValueError, match="which is only read"):
        predict_batch(checkpoint, [images], images / "out")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--engine", "spark"), "--engine: expected local or ray, got spark"),
        (("--workers", "2"), "--workers is for --engine ray"),
        (("--engine", "ray", "--draw"), "--engine ray writes tables only: leave --draw out"),
        (("--engine", "ray", "--json"), "--engine ray writes tables only: leave --json out"),
        (("--engine", "ray", "--proposals", "p.npz"), "--engine ray does not support --proposals"),
        (("--engine", "ray"), "--engine ray: give --out FOLDER"),
        (("--engine", "ray", "--out", "o", "--device", "cuda:1"), "Ray gives each worker its GPU"),
    ],
)
def test_options_of_the_other_engine_are_refused(words, sentence, checkpoint, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["boxwright", "predict", str(checkpoint), str(images), *words])
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_ray_it_says_how_to_get_it(checkpoint, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ImportError, match=r"pip install 'boxwright\[ray\]'"):
        predict_batch(checkpoint, [images], tmp_path / "out")


def worker(checkpoint, out):
    for name in ("results", "failures", "attempts"):
        (out / name).mkdir(parents=True)
    further = further_columns(Detector.load(checkpoint, "cpu").recipe)
    return Worker(Job(str(checkpoint), str(out), "cpu", "fp32", 2, 0.0, None, 5, True, further))


def one_row(path, image, out):
    """The row of an image, and what `predict` finds in it."""
    worker(path, out)(Chunk.of(list_images([image]))._asdict())
    assert rows(out / "failures") == {}
    (row,) = rows(out / "results").values()
    (found,) = Detector.load(path, "cpu", precision="fp32").predict(image, score=0, max_detections=5)
    return row, found


def test_an_image_that_kills_workers_becomes_a_failure(checkpoint, images, tmp_path):
    able = worker(checkpoint, tmp_path)
    chunk = Chunk.of(list_images([images])[:3])
    note = tmp_path / "attempts" / chunk.name
    for deaths in range(3):  # twice on all of them; the third time on one that was noted to be in hand alone
        attempt = Attempt(note)
        assert (attempt.deaths, attempt.killers) == (deaths, [])
    attempt.note(1)
    assert able(chunk._asdict()) == {"images": 3, "objects": 10, "problem": ""}
    failures = rows(tmp_path / "failures")
    assert list(failures) == [str(images / "01.png")]
    assert "the worker died on it" in failures[str(images / "01.png")]["why"]
    assert sorted(rows(tmp_path / "results")) == [str(images / "00.png"), str(images / "02.png")]
    assert not note.exists()


def test_too_little_memory_for_a_batch_is_enough_for_its_images(checkpoint, images, tmp_path, monkeypatch):
    able = worker(checkpoint, tmp_path)
    stream = able.detector.stream

    def small_memory(images, **settings):
        if len(images) > 1 or images[0].shape[1] == 510:
            raise torch.OutOfMemoryError("no memory")
        return stream(images, **settings)

    monkeypatch.setattr(able.detector, "stream", small_memory)
    assert able(Chunk.of(list_images([images])[:4])._asdict()) == {"images": 4, "objects": 15, "problem": ""}
    (failure,) = rows(tmp_path / "failures").values()
    assert failure["image"] == str(images / "01.png")
    assert "need more memory than there is" in failure["why"]


def test_masks_are_run_length_codes(images, tmp_path):
    settings = ("model.backbone=mobilenet_v3_small", "model.head.stem_channels=[16]", "model.mask.conv_channels=[8]",
                "model.mask.upsampled_channels=8")  # fmt: skip
    path = small_checkpoint(tmp_path / "tiny.pt", "fcos_mask", "fcos-mask-small", *settings)
    row, found = one_row(path, images / "00.png", tmp_path / "out")
    assert len(found) == len(row["masks"]) == 5
    for code, mask in zip(row["masks"], found.masks, strict=True):
        assert torch.equal(decode_rle(code["counts"], tuple(code["size"])), mask)


def test_keypoints_are_x_y_score_of_each(images, tmp_path):
    settings = ("model.backbone.widths=[4,4,4,1]", "model.rpn.stem_channels=[8]", "model.box.fc_channels=[8]",
                "model.keypoint.conv_channels=[8]", "model.keypoint.pool_size=4")  # fmt: skip
    path = small_checkpoint(tmp_path / "tiny.pt", "keypoint_rcnn", "keypoint-rcnn-small", *settings)
    row, found = one_row(path, images / "00.png", tmp_path / "out")
    assert found.keypoints.shape == (5, 17, 3)
    torch.testing.assert_close(torch.tensor(row["keypoints"]), found.keypoints)


OF_REGIONS = ("model.backbone.widths=[4,4,4,1]", "model.rpn.stem_channels=[8]", "model.box.fc_channels=[8]")
OF_PIXELS = ("model.semantic.num_classes=3", "model.semantic.channels=8")


def test_rotated_boxes_stand_beside_their_hulls(images, tmp_path):
    path = small_checkpoint(tmp_path / "tiny.pt", "rotated_faster_rcnn", "rotated-faster-rcnn-small", *OF_REGIONS)
    row, found = one_row(path, images / "00.png", tmp_path / "out")
    assert found.rotated.shape == (5, 5)
    torch.testing.assert_close(torch.tensor(row["rotated"]), found.rotated)
    torch.testing.assert_close(torch.tensor(row["boxes"]), found.boxes)


def map_of(data):
    return np.asarray(Image.open(BytesIO(data))).astype(int)


def test_maps_are_png_files_with_the_segments_of_coco(images, tmp_path):
    masks = ("model.mask.conv_channels=[8]", "model.mask.upsampled_channels=8", "model.panoptic.min_score=0.0",
             "model.panoptic.min_stuff_area=0")  # fmt: skip
    classes = Classes(("cat", "dog"), (4, 9), stuff=("sky", "road"), stuff_ids=(30, 31))
    path = small_checkpoint(
        tmp_path / "tiny.pt", "panoptic_fpn", "panoptic-fpn-small", *OF_REGIONS, *OF_PIXELS, *masks, classes=classes
    )
    row, found = one_row(path, images / "00.png", tmp_path / "out")
    assert np.array_equal(map_of(row["semantic"]), found.semantic.numpy())
    colours = map_of(row["panoptic"])
    assert np.array_equal(colours @ [1, 256, 65536], found.panoptic.map.numpy())
    told = [(one["id"], one["category_id"], one["area"], one["isthing"]) for one in row["segments"]]
    ids = [(classes.ids if one.thing else classes.stuff_ids)[one.label] for one in found.panoptic.segments]
    assert told == [(s.id, key, s.area, s.thing) for s, key in zip(found.panoptic.segments, ids, strict=True)]
    assert {*ids} & {30, 31}


def test_a_model_of_pixels_gives_its_map_and_no_objects(images, tmp_path):
    settings = ("model.backbone.widths=[4,4,4,1]", *OF_PIXELS)
    classes = Classes((), (), stuff=("sky", "road", "wall"))
    path = small_checkpoint(tmp_path / "tiny.pt", "semantic_fpn", "semantic-fpn-small", *settings, classes=classes)
    row, found = one_row(path, images / "00.png", tmp_path / "out")
    assert np.array_equal(map_of(row["semantic"]), found.semantic.numpy())
    assert row["boxes"] == []
    assert "segments" not in row


def test_a_full_disk_is_told_in_its_own_words(checkpoint, images, tmp_path, monkeypatch):
    able = worker(checkpoint, tmp_path)
    full = OSError(28, "No space left on device", "results")
    monkeypatch.setattr("boxwright.deploy.batch.worker._write_rows", Mock(side_effect=full))
    found = able(Chunk.of(list_images([images])[:1])._asdict())
    assert found == {"images": 0, "objects": 0, "problem": "[Errno 28] No space left on device: 'results'"}


def test_large_images_are_read_one_by_one_and_what_is_amiss_stands_in_its_row(
    checkpoint, images, tmp_path, monkeypatch
):
    folder = tmp_path / "images"
    folder.mkdir()
    short = Image.open(images / "00.png")
    short.save(folder / "a.jpg")
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-20])
    for name, size in (("b", (1200, 900)), ("c", (300, 200)), ("d", (3000, 2000))):
        Image.new("L", size).save(folder / f"{name}.png")
    monkeypatch.setattr("boxwright.deploy.batch.worker.MEMORY", 0.03)
    able = worker(checkpoint, tmp_path / "out")
    entries = list_images([folder])
    parts = [[Path(entry.key).stem for entry in part] for part, _ in able._parts(entries)]
    assert parts == [["a"], ["b"], ["c"], ["d"]]
    assert able(Chunk.of(entries)._asdict())["images"] == 4
    notes = {Path(key).stem: row["note"] for key, row in rows(tmp_path / "out" / "results").items()}
    assert "the JPEG is cut short" in notes["a"]
    assert (notes["b"], notes["c"]) == (None, None)
    (failure,) = rows(tmp_path / "out" / "failures").values()
    assert failure["why"].startswith(f"{folder / 'd.png'}: needs 0.1 GiB of memory, more than the 0.03 GiB")
