"""Random weights against the bundled pretrained ones, equal minutes of each, on four datasets of different size.

A `-small` recipe, from random weights, and the `-lite` recipe of the same detector, whose backbone starts from the
ImageNet weights of the extra `pretrained`, train on the same images; both are evaluated with the weights that training
ended with on images that played no part in it. `fod-two` are 160 images of fod with two classes. With `--holdout` the
evaluated images are a fifth of the training images, which are left out of training: settings are chosen by those, never
by the split that is reported. `python -m benchmarks.pretrained --help` lists the options.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # as a file: python benchmarks/pretrained.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import measure_ours
from benchmarks.table import Measurement, print_command
from boxwright.weights import bundled

TWO_CLASSES = ("Bolt", "Pliers")
"""The most frequent classes of fod."""
TWO_CLASS_IMAGES = 160
HOLDOUT = 5
"""Every so manieth training image is held out."""


class Dataset(NamedTuple):
    """A dataset as it is trained on and evaluated."""

    folder: str
    train: str
    test: str
    overrides: tuple[str, ...] = ()
    classes: str | None = None


MICROSCOPE = ("data.augment.vertical_flip=0.5",)  # it knows no up
DATASETS = {
    "bccd": Dataset("bccd", "trainval", "test", MICROSCOPE),
    "nuclei": Dataset("nuclei", "train", "val", MICROSCOPE),
    "fod": Dataset("fod", "train", "test"),
    "fod-two": Dataset("fod", "train", "test", classes=",".join(TWO_CLASSES)),
}
DETECTORS = ("fcos", "retinanet", "faster-rcnn")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrained", description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="the folder of the datasets")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each run, data and evaluation included")
    parser.add_argument("--steps", type=int, help="steps of each run instead of minutes")
    parser.add_argument("--data", choices=DATASETS, action="append", help="one of the datasets; may be repeated")
    parser.add_argument("--detector", choices=DETECTORS, default="fcos", help="its -small and its -lite recipe")
    parser.add_argument("--only", choices=("random", "pretrained"), help="one of the two starts")
    parser.add_argument("--holdout", action="store_true", help="evaluate on training images that are left out")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where run folders are made")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings of the pretrained start")
    given = parser.parse_args()
    if given.only != "random":
        bundled.bundled_file()  # before the minutes of the first run
    rows: dict[str, dict[str, Measurement]] = {}
    for name in given.data or DATASETS:
        data, train, test = prepared(DATASETS[name], name, given.shared, given.runs / "data", given.holdout)
        for start in ("random", "pretrained"):
            if given.only in (None, start):
                recipe = f"{given.detector}-{'small' if start == 'random' else 'lite'}"
                own = [f"schedule.steps={given.steps}"] if given.steps else []
                own += given.overrides if start == "pretrained" else []
                rows.setdefault(name, {})[start] = measure_ours(
                    f"{name}-{start}", recipe, data,
                    overrides=["validation.times=1", *DATASETS[name].overrides, *own], train_split=train,
                    val_split=test, test_split=test, classes=DATASETS[name].classes, runs=given.runs,
                    minutes=None if given.steps else given.minutes, seed=given.seed, device=given.device,
                )  # fmt: skip
                print(rows[name][start], flush=True)
    print_command()
    print(table(rows))


def table(rows: dict[str, dict[str, Measurement]]) -> str:
    """A Markdown table with a row for each dataset; the gain is of AP."""
    lines = ["| data | AP random | AP50 | steps | AP pretrained | AP50 | steps | gain |", "|---" * 8 + "|"]
    for name, starts in rows.items():
        cells = [name]
        for start in ("random", "pretrained"):
            one = starts.get(start)
            cells += ["-"] * 3 if one is None else [f"{one.ap:.4f}", f"{one.ap50:.4f}", f"{one.steps}"]
        both = len(starts) == 2
        cells.append(f"{starts['pretrained'].ap - starts['random'].ap:+.4f}" if both else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def prepared(dataset: Dataset, name: str, shared: Path, place: Path, holdout: bool) -> tuple[Path, str, str]:
    """The folder to train on, and its splits for training and evaluation.

    For a part of a dataset a folder is made below `place`, with links to the images and lists of its own.
    """
    source = (shared / dataset.folder).resolve()
    if dataset.classes is None and not holdout:
        return source, dataset.train, dataset.test
    folder = place / (f"{name}-holdout" if holdout else name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if (source / "annotations").is_dir():
        _coco_part(source, folder, dataset)
    else:
        _voc_part(source, folder, dataset, holdout)
    return folder, "train", "val"


def _coco_part(source: Path, folder: Path, dataset: Dataset) -> None:
    """The training images of a COCO folder, every fifth of them for evaluation."""
    for entry in source.iterdir():
        if entry.name != "annotations":
            (folder / entry.name).symlink_to(entry)
    whole = json.loads((source / "annotations" / f"instances_{dataset.train}.json").read_text(encoding="utf-8"))
    images = sorted(whole["images"], key=lambda image: str(image["file_name"]))
    (folder / "annotations").mkdir()
    for split, part in _split(images).items():
        ids = {image["id"] for image in part}
        annotations = [item for item in whole["annotations"] if item["image_id"] in ids]
        text = json.dumps({**whole, "images": part, "annotations": annotations})
        (folder / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")


def _voc_part(source: Path, folder: Path, dataset: Dataset, holdout: bool) -> None:
    """Images of a VOC folder: those with one of the classes, where there are any, and a fifth for evaluation."""
    for entry in ("Annotations", "JPEGImages"):
        (folder / entry).symlink_to(source / entry)
    lists = source / "ImageSets" / "Main"
    train, test = (
        sorted(set((lists / f"{split}.txt").read_text(encoding="utf-8").split()))
        for split in (dataset.train, dataset.test)
    )
    if dataset.classes is not None:
        test = [one for one in test if _has(source, one, TWO_CLASSES)]
        train = [one for one in train if _has(source, one, TWO_CLASSES)]
        train = [one for one in train if one not in set(test)]
        wanted = TWO_CLASS_IMAGES * HOLDOUT // (HOLDOUT - 1) if holdout else TWO_CLASS_IMAGES
        train = [train[index * len(train) // wanted] for index in range(wanted)]  # evenly: frames of many videos
    splits = _split(train) if holdout else {"train": train, "val": test}
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in splits.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def _split(items: list[Any]) -> dict[str, list[Any]]:
    """Every fifth for evaluation, the rest for training."""
    return {
        "train": [item for index, item in enumerate(items) if index % HOLDOUT],
        "val": items[::HOLDOUT],
    }


def _has(source: Path, name: str, classes: tuple[str, ...]) -> bool:
    """Whether an image has an object of one of the classes."""
    text = (source / "Annotations" / f"{name}.xml").read_text(encoding="utf-8", errors="replace")
    return bool(re.search(rf"<name>\s*({'|'.join(classes)})\s*</name>", text))


if __name__ == "__main__":
    main()
