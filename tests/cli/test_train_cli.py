"""`boxwright train` as people call it: mistakes, odd names and sizes, going on, being stopped; nothing left behind."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from boxwright.checkpoint import load_checkpoint

Call = Callable[..., Any]
Voc = Callable[..., Path]
TINY = (
    "data.batch_size=2", "optim.reference_batch=2", "schedule.steps=2", "validation.times=1", "model.fpn.channels=16",
    "model.head.stem_channels=[16]", "data.resize.size=64", "data.resize.max_size=128", "data.workers=0",
    "precision=fp32",
)  # fmt: skip
NAMES = ("no", "yes", "1.5", "null", "two words", "ünï 犬", "$x^$_", "[b]bold[/b]", "a/b", "..", "a,b=c+d", '<"&>')
IMAGES = (
    "results.png", "labels.jpg", *(f"train_batch{number}.jpg" for number in range(3)), "confusion_matrix.png",
    *(f"Box{curve}_curve.png" for curve in ("PR", "F1", "P", "R")),
)  # fmt: skip
STEMS = ("a b  c", "ünï 犬", "x" * 240, "[b]x", "100%", "$a$", "#1")


def snapshot(root: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its content, and every folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


def strict(text: str) -> Any:
    """Parsed JSON, without the NaN and Infinity that Python's own reader takes."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def assert_whole_run(run: Path) -> None:
    """The files of a finished run are there, and are what they claim to be."""
    for name in ("results.csv", "args.yaml", "log.txt"):
        assert (run / name).stat().st_size > 0, name
    validated = {path.name for path in run.glob("val_batch*.jpg")}
    assert {"val_batch0_labels.jpg", "val_batch0_pred.jpg"} <= validated
    assert {name.replace("_labels", "_pred") for name in validated} == {name for name in validated if "_pred" in name}
    for name in sorted({*IMAGES, *validated}):
        with Image.open(run / name) as image:
            image.load()
            assert min(image.size) > 50, name
    figures = strict((run / "metrics.json").read_text(encoding="utf-8"))
    last, best = (load_checkpoint(run / "weights" / f"{name}.pt") for name in ("last", "best"))
    assert last.training is not None
    assert best.score_threshold == figures["score_threshold"]  # these runs measure once
    hit = bool(figures["AP50"])  # without one, no threshold is better than another
    assert 0 <= best.score_threshold <= 1 if hit else best.score_threshold is None
    strict((run / "dataset_check.json").read_text(encoding="utf-8"))
    for line in (run / "results.jsonl").read_text(encoding="utf-8").splitlines():
        strict(line)


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("fcos-smal",), ("no recipe 'fcos-smal'", "did you mean fcos-small")),
        (("optim.lr=0.1",), ("the recipe's name comes before its settings", "fcos optim.lr=0.1")),
        (("fcos", "optim.ls=3"), ("optim.ls: unknown key", "did you mean lr")),
        (("fcos", "optim.lr=abc"), ("optim.lr", "valid number", "'abc'")),
        (("fcos", "optim.lr=nan"), ("optim.lr", "finite")),
        (("fcos", "schedule.steps=0"), ("schedule.steps", "greater than or equal to 1")),
        (("fcos", "model=fcoss"), ("model.name", "did you mean fcos")),
        (("fcos", "--train-split", "trian"), ("no split 'trian'", "train, val")),
        (("fcos", "--val-split", "vla"), ("no split 'vla'", "train, val")),
        (("fcos", "--classes", "cel"), ("'cel'", "did you mean 'cell'")),
        (("fcos", "--minutes", "0"), ("minutes", "above 0")),
        (("fcos", "--minutes", "nan"), ("minutes", "above 0")),
        (("fcos", "--minutes", "inf"), ("minutes", "above 0")),
        (("fcos", "--overfit", "0"), ("overfit", "at least 1")),
        (("fcos", "--overfit", "3"), ("--overfit 3", "2 images with objects")),
        (("fcos", "--device", "gpu"), ("device", "auto, cpu, cuda, cuda:N or mps", "'gpu'")),
        (("fcos", "--device", "meta"), ("device", "auto, cpu, cuda, cuda:N or mps")),
        (("fcos", "--seed", str(2**70)), ("seed", "2**63")),
        (("fcos", "--weights", "gone.pt"), ("gone.pt", "no such file")),
    ],
)
def test_mistakes_are_one_sentence_and_start_nothing(
    tmp_path: Path, boxwright: Call, voc: Voc, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    data = voc(tmp_path / "data")
    settings = TINY if words[0] == "fcos" else ()
    boxwright("train", words[0], *settings, *words[1:], "--data", data).refused(*parts)
    assert not list(Path.cwd().iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(("device", "missing"), [("cuda", "no CUDA GPU"), ("cuda:9", "no CUDA GPU"), ("mps", "Apple")])
def test_a_device_that_is_not_there(tmp_path: Path, boxwright: Call, voc: Voc, device: str, missing: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    boxwright("train", "fcos", "--data", voc(tmp_path / "data"), "--device", device).refused(device, missing, "cpu")


def test_places_that_cannot_be_written(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data")
    before = snapshot(data)
    Path("file").write_text("x")
    tiny = ("train", "fcos", *TINY, "--data", data, "--device", "cpu")
    boxwright(*tiny, "--runs", "file").refused("file/fcos-small", "Not a directory")
    boxwright(*tiny, "--runs", data / "runs").refused(str(data / "runs"), "inside the data folder", "--runs")
    assert snapshot(data) == before


def test_nothing_to_resume(tmp_path: Path, boxwright: Call) -> None:
    boxwright("train", "--resume").refused("nothing to resume", "runs")
    boxwright("train", "--resume", "--name", "mine").refused("no run called mine")
    boxwright("train", "--resume", tmp_path / "gone").refused(str(tmp_path / "gone"), "nothing to resume")
    boxwright("train", "--resume", "run", "schedule.steps=9").refused("--resume", "schedule.steps=9", "no effect")
    boxwright("train", "--resume", "schedule.steps=9").refused("--resume", "schedule.steps=9", "no effect")


BESIDE = (
    ("--minutes", "3"), ("--seed", "0"), ("--weights", "a.pt"), ("--overfit", "8"), ("--classes", "cell"),
    ("--train-split", "train"), ("--val-split", "test"), ("--proposals", "a.json"), ("--name", "mine"),
    ("--runs", "elsewhere"), ("retinanet",), ("schedule.steps=9",),
)  # fmt: skip


@pytest.mark.parametrize("words", BESIDE, ids=lambda words: words[0])
def test_what_would_do_nothing_beside_resume_is_refused(boxwright: Call, words: tuple[str, ...]) -> None:
    boxwright("train", "--resume", "run", *words).refused(f"so {words[0]} would have no effect")


def test_all_that_would_do_nothing_is_named_at_once_and_what_counts_is_not(boxwright: Call) -> None:
    options = ("--seed", "3", "--device", "cpu", "--data", "a", "--minutes", "1")
    listed = "so fcos, schedule.steps=9, optim.lr=1, --minutes, --seed would have no effect"
    boxwright("train", "--resume", "run", "fcos", "schedule.steps=9", "optim.lr=1", *options).refused(listed)
    boxwright("train", "--resume", "--runs", "elsewhere", "--seed", "3").refused("so --seed would")
    # --data and --device are heard, so the run itself is looked for
    boxwright("train", "--resume", "run", "--device", "cpu", "--data", "a").refused("nothing to resume")


def test_out_of_memory_ends_with_advice(
    tmp_path: Path, boxwright: Call, voc: Voc, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total capacity of 8"
        )

    monkeypatch.setattr("boxwright.training.step.EagerStep.__call__", full)
    ended = boxwright("train", "fcos", *TINY, "--data", voc(tmp_path / "data"), "--device", "cpu")
    ended.refused("out of memory at batch 2", "data.batch_size=1", "optim.accumulate=2", "20.00 GiB")
    assert "total capacity" not in ended.err


def test_one_image_cannot_be_split(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data", train=("p.png",), val=())
    shutil.rmtree(data / "ImageSets")
    ended = boxwright("train", "fcos", *TINY, "--data", data, "--device", "cpu")
    ended.refused("no split 'val'; it has train")
    assert "one training image is too few" in ended.err


def test_a_validation_split_without_images(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data", val=())
    ended = boxwright("train", "fcos", *TINY, "--data", data, "--device", "cpu")
    ended.refused(str(data), "split val has no usable image", "--val-split")


# ---- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.usefixtures("real_charts")
def test_any_class_and_file_name_from_training_to_prediction(
    tmp_path: Path, boxwright: Call, voc: Voc, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(home))
    data = voc(
        tmp_path / "data", [f"{s}.png" for s in STEMS[:4]], [f"{s}.png" for s in STEMS[4:]], (*NAMES, "_", ".hidden")
    )
    before = snapshot(data)
    assert boxwright("inspect", data, "--decode", "--json").code == 0

    trained = boxwright("train", "fcos", *TINY, "--data", data, "--device", "cpu")
    assert trained.code == 0, trained.err
    run = Path(trained.out.strip())
    assert_whole_run(run)
    best = run / "weights" / "best.pt"
    assert set(load_checkpoint(best).classes.names) == {*NAMES, "_", ".hidden"}

    measured = boxwright("evaluate", best, "--data", data, "--json", "--save", "measured", "--device", "cpu")
    assert measured.code == 0, measured.err
    assert set(strict(measured.out)["per_class"]) == {*NAMES, "_", ".hidden"}

    words = ("--json", "--coco", "--yolo", "--text", "--score", "0", "--max-detections", "3", "--out", "found")
    found = boxwright("predict", best, data / "JPEGImages", *words, "--device", "cpu")
    assert found.code == 0, found.err
    listed = strict(Path("found/detections.json").read_text(encoding="utf-8"))
    assert {Path(path).stem for path in listed} == set(STEMS)
    assert {row["name"] for rows in listed.values() for row in rows} <= {*NAMES, "_", ".hidden"}

    assert snapshot(data) == before
    assert not list(home.iterdir())


@pytest.mark.e2e
def test_yolo_names_stay_words_and_both_layouts_train(tmp_path: Path, boxwright: Call) -> None:
    rows = {"train": "0 0.5 0.5 0.4 0.4\n2 0.4 0.4 0.2 0.2\n", "val": "1 0.5 0.5 0.4 0.4\n"}
    layouts = {"outside": "images/{}", "inside": "{}/images"}
    for layout, pattern in layouts.items():
        data = tmp_path / layout
        for split, text in rows.items():
            images = data / pattern.format(split)
            labels = data / pattern.format(split).replace("images", "labels")
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (64, 48), (number, len(split), 90)).save(images / f"{number}.png")
                (labels / f"{number}.txt").write_text(text)
        train, val = (pattern.format(split) for split in ("train", "val"))
        (data / "data.yaml").write_text(f"train: {train}\nval: {val}\nnames: [no, yes, 1.5]\n")
        seen = strict(boxwright("inspect", data, "--json").out)
        assert [row["name"] for row in seen["classes"]] == ["no", "yes", "1.5"]
        assert seen["splits"]["train"]["objects"] == 4
    before = snapshot(data)
    trained = boxwright("train", "fcos", *TINY, "--data", data / "data.yaml", "--device", "cpu", "--name", "inside")
    assert trained.code == 0, trained.err
    assert load_checkpoint("runs/inside/weights/best.pt").classes.names == ("no", "yes", "1.5")
    figures = strict(boxwright("evaluate", "runs/inside/weights/best.pt", "--data", data, "--json").out)
    assert figures["per_class"]["no"] is None  # val has no object of it
    assert figures["per_class"]["yes"] is not None
    assert snapshot(data) == before


@pytest.mark.e2e
def test_coco_with_run_length_masks(shared: Path, boxwright: Call) -> None:
    data = shared / "data" / "nuclei"
    if not data.is_dir():
        pytest.skip("shared/data/nuclei is not there")
    ended = boxwright("train", "fcos", "--overfit", "2", *TINY, "--data", data, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert_whole_run(Path(ended.out.strip()))


@pytest.mark.e2e
def test_images_of_any_size_and_boxes_at_their_borders(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    sizes = {"dot": (1, 1), "line": (900, 1), "column": (1, 700), "large": (600, 500)}
    data = voc(tmp_path / "data", [f"{name}.png" for name in sizes], ("v.png", "dot2.png"), ("cell",))
    for name, (width, height) in {**sizes, "dot2": (1, 1)}.items():
        Image.new("L", (width, height), 99).save(data / "JPEGImages" / f"{name}.png")
        file = data / "Annotations" / f"{name}.xml"
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (0, 0, width, height), strict=True)
        box = "".join(f"<{side}>{value}</{side}>" for side, value in corners)
        file.write_text(f"<annotation><object><name>cell</name><bndbox>{box}</bndbox></object></annotation>")
    augmented = ("data.augment.mosaic=1.0", "data.augment.iou_crop=1.0", "data.augment.scale_jitter=[0.5,2.0]")
    for number, settings in enumerate((("data.resize.mode=none",), ("data.resize.size=32", "data.cache=false"))):
        words = (*TINY, *augmented, *settings, "--data", data, "--name", str(number))
        ended = boxwright("train", "fcos", *words, "--device", "cpu")
        assert ended.code == 0, ended.err
        assert_whole_run(Path("runs") / str(number))


@pytest.mark.e2e
def test_a_validation_split_without_objects_has_no_ap(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data")
    for name in ("p2", "p3"):
        (data / "Annotations" / f"{name}.xml").write_text("<annotation></annotation>")
    ended = boxwright("train", "fcos", *TINY, "--data", data, "--device", "cpu")
    assert ended.code == 0, ended.err
    run = Path(ended.out.strip())
    assert_whole_run(run)
    assert strict((run / "metrics.json").read_text())["AP"] is None
    measured = boxwright("evaluate", run / "weights" / "last.pt", "--data", data, "--json")
    assert strict(measured.out)["AP"] is None


@pytest.mark.e2e
def test_a_finished_run_is_not_started_again_and_data_may_move(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data")
    assert boxwright("train", "fcos", *TINY, "--data", data, "--device", "cpu").code == 0
    run = Path("runs/fcos-small")
    assert strict((run / "metrics.json").read_text())["score_threshold"] is not None  # it found something
    boxwright("train", "--resume", run).refused("runs/fcos-small is finished", "--weights")
    (run / "metrics.json").unlink()  # as if it had been killed while it wrote its report
    data.rename(tmp_path / "moved")
    boxwright("train", "--resume", run).refused(str(data), "say where it is with --data")
    ended = boxwright("train", "--resume", run, "--data", tmp_path / "moved")
    assert ended.code == 0, ended.err
    assert_whole_run(run)
    other = voc(tmp_path / "other", names=("cat", "dog"))
    (run / "metrics.json").unlink()
    boxwright("train", "--resume", run, "--data", other).refused("was trained on classes", "cell", "cat")


@pytest.mark.e2e
def test_a_second_run_of_the_same_name_gets_a_folder_of_its_own(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data")
    words = ("train", "fcos", *TINY, "--data", data, "--device", "cpu", "--name", "mine")
    first = boxwright(*words)
    assert first.code == 0, first.err
    before = snapshot(Path("runs/mine"))
    assert before["weights/last.pt"]
    assert before["results.csv"]
    second = boxwright(*words, "schedule.steps=3")
    assert second.code == 0, second.err
    assert [ended.out.strip() for ended in (first, second)] == ["runs/mine", "runs/mine-2"]
    assert {path.name for path in Path("runs").iterdir()} == {"mine", "mine-2"}
    assert snapshot(Path("runs/mine")) == before
    assert snapshot(Path("runs/mine-2"))["weights/last.pt"] != before["weights/last.pt"]


@pytest.mark.e2e
def test_a_run_resumed_for_its_report_keeps_the_threshold_of_its_last_weights(
    tmp_path: Path, boxwright: Call, voc: Voc
) -> None:
    data = voc(tmp_path / "data")
    assert boxwright("train", "fcos", *TINY, "--data", data, "--device", "cpu").code == 0
    last = Path("runs/fcos-small/weights/last.pt")
    before = load_checkpoint(last)
    Path("runs/fcos-small/metrics.json").unlink()  # as if it had been killed while it wrote its report
    assert boxwright("train", "--resume", "runs/fcos-small").code == 0
    after = load_checkpoint(last)
    assert (after.score_threshold, after.metrics) == (before.score_threshold, before.metrics)


# ---- being stopped --------------------------------------------------------------------------------------------------


def started(folder: Path, data: Path, *settings: str) -> subprocess.Popen[str]:
    """A long run in its own process group, with a loader process, once it has written its first checkpoint."""
    words = ("fcos", *TINY, "schedule.steps=100000", "data.workers=1", "data.cache=false", *settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "boxwright", "train", *words, "--data", str(data), "--device", "cpu"],
        cwd=folder, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    last = folder / "runs" / "fcos-small" / "weights" / "last.pt"
    deadline = time.monotonic() + 240
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    return process


@pytest.mark.e2e
def test_a_signal_to_the_whole_process_group_saves_and_resumes(tmp_path: Path, voc: Voc) -> None:
    # Schedulers and terminals signal every process of a job, so the loader's processes too.
    data = voc(tmp_path / "data")
    process = started(tmp_path, data)
    os.killpg(process.pid, signal.SIGTERM)
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert out.strip() == "runs/fcos-small"
    assert errors.count("stopping after this step") == 1
    assert "Go on with: boxwright train --resume runs/fcos-small" in errors
    assert "Traceback" not in errors
    state = load_checkpoint(tmp_path / "runs/fcos-small/weights/last.pt").training
    assert state is not None
    assert state["progress"]["step"] > 0


@pytest.mark.e2e
def test_ctrl_c_twice_ends_within_the_step_and_leaves_a_whole_checkpoint(tmp_path: Path, voc: Voc) -> None:
    data = voc(tmp_path / "data")
    slow = ("data.resize.size=400", "data.resize.max_size=600", "data.batch_size=8")  # a step of seconds
    process = started(tmp_path, data, *slow)
    assert process.stderr is not None
    os.killpg(process.pid, signal.SIGINT)
    said = ""
    while "stopping after this step" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130, said + errors
    assert "Traceback" not in said + errors
    assert "Go on with" not in errors
    assert load_checkpoint(tmp_path / "runs/fcos-small/weights/last.pt").training is not None


def test_an_ap_that_is_undefined_is_no_best_ap_of_nothing(tmp_path: Path, boxwright: Call, voc: Voc) -> None:
    data = voc(tmp_path / "data")
    for name in ("p2", "p3"):  # the images that are measured on hold no object
        (data / "Annotations" / f"{name}.xml").write_text("<annotation></annotation>")
    ended = boxwright("train", "fcos", *TINY, "--data", data, "--device", "cpu")
    assert ended.code == 0, ended.err
    (line,) = [line for line in ended.err.splitlines() if line.startswith("finished: ")]
    assert line == "finished: AP undefined (no object in the validation images) with the last weights"
    assert "0.0000" not in ended.err
