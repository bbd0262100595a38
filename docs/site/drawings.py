"""What the commands draw, drawn when the site is built: the demo's run, `explain` and `predict`, on shapes.

A page says where they go with a comment in a line of its own, `<!-- drawn: explain-fcos -->`. They are kept in
`build/drawings` and drawn again when a file of the package, or this one, has changed.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from pages import DRAWN, ROOT

WIDEST = 1600  # pixels: a site of a few MB
IMAGES = (".png", ".jpg", ".gif")  # any other file, such as a page or a log, becomes a link


class Group(NamedTuple):
    """Files that one command draws: as it is shown, as it is called, and what each file shows."""

    shown: str
    called: str
    files: dict[str, str]


DEMO, CHECKPOINT = "boxwright demo", "runs/demo/run/weights/best.pt"
RUN = {
    "log.txt": "log.txt: what the run logged",
    "labels.jpg": "labels.jpg: classes, sizes and positions of the training boxes",
    "train_batch0.jpg": "train_batch0.jpg: training images with their boxes after augmentation",
    "results.png": "results.png: the curves of the run",
    "val_batch0_labels.jpg": "val_batch0_labels.jpg: ground truth ...",
    "val_batch0_pred.jpg": "val_batch0_pred.jpg: ... and detections of the same images",
    "BoxPR_curve.png": "BoxPR_curve.png: precision against recall",
    "BoxF1_curve.png": "BoxF1_curve.png: F1 against the score",
    "BoxP_curve.png": "BoxP_curve.png: precision against the score",
    "BoxR_curve.png": "BoxR_curve.png: recall against the score",
    "confusion_matrix.png": "confusion_matrix.png: true class against detected class",
}
GROUPS = {
    "demo": Group(DEMO, "", {"runs/demo/predictions.jpg": "predictions.jpg: nine validation images with detections"}),
    "run": Group(DEMO, "", {f"runs/demo/run/{file}": text for file, text in RUN.items()}),
    "explain-fcos": Group(
        f"boxwright explain {CHECKPOINT} val_000000.jpg --data runs/demo/data",
        f"explain {CHECKPOINT} val_000000.jpg --data runs/demo/data --device cpu --out explained",
        {f"explained/{number}_{name}.png": "" for number, name in enumerate(
            ("overview", "locations", "owners", "centerness", "classes", "box_0", "detection_0"), start=1
        )},
    ),
    "explain-retinanet": Group(
        "boxwright explain retinanet data.batch_size=2 --data runs/demo/data",
        "explain retinanet data.batch_size=2 --data runs/demo/data --images 1 --out anchors",
        {"anchors/2_anchors.png": "", "anchors/3_image_0.png": ""},
    ),
    "predict": Group(
        f"boxwright predict {CHECKPOINT} runs/demo/data/JPEGImages/val_000001.jpg",
        f"predict {CHECKPOINT} runs/demo/data/JPEGImages/val_000001.jpg --device cpu --out found",
        {"found/val_000001.jpg": ""},
    ),
}  # fmt: skip
"""By the name that a page gives. A demo comes before all others, and is not called again."""


def draw(folder: Path, minutes: float) -> Path:
    """Call the commands in `folder` and keep what they draw in `folder/drawn`; nothing where the code is the same."""
    stamp, drawn = folder / "stamp", folder / "drawn"
    state = f"{_code()} {minutes}"
    if stamp.is_file() and stamp.read_text() == state:
        return drawn
    shutil.rmtree(folder, ignore_errors=True)
    drawn.mkdir(parents=True)
    print(f"docs: drawing, with {minutes:g} minutes of training ({folder})", flush=True)
    _call(f"demo --minutes {minutes} --train 400 --val 40 --device cpu", folder)
    for group in GROUPS.values():
        if group.called:
            _call(group.called, folder)
        for file in group.files:
            _keep(folder / file, drawn / kept_as(file))
    stamp.write_text(state)
    return drawn


def _call(arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "boxwright", *shlex.split(arguments)], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"docs: boxwright {arguments} ended with {done.returncode}:\n{done.stderr}")


def _code() -> str:
    digest = hashlib.sha256()
    for file in [Path(__file__), *sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "src").rglob("*.yaml"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def kept_as(file: str) -> str:
    """The name of a drawing in the site: its folder and its own name, as a JPEG or the PNG that it was."""
    return file.replace("/", "-")


def _keep(file: Path, place: Path) -> None:
    """Copy an image, made smaller where it is wider than the page ever is."""
    if not file.is_file():
        raise SystemExit(f"docs: {file} was not drawn; there are {sorted(p.name for p in file.parent.glob('*'))}")
    if file.suffix not in IMAGES:
        shutil.copyfile(file, place)
        return
    with Image.open(file) as image:
        if image.width <= WIDEST:
            shutil.copyfile(file, place)
            return
        size = (WIDEST, round(image.height * WIDEST / image.width))
        image.resize(size, Image.Resampling.LANCZOS).save(place)


def shown(text: str, drawn: Path | None) -> str:
    """A page with its comments replaced by the drawings and the command that made them; without drawings by nothing."""

    def figures(found: re.Match[str]) -> str:
        group = GROUPS.get(found[1])
        if group is None:
            raise ValueError(f"docs: <!-- drawn: {found[1]} --> names no group; there are {', '.join(GROUPS)}")
        if drawn is None:
            return ""
        lines = [f"```console\n$ {group.shown}\n```", ""]
        for file, caption in group.files.items():
            title = caption or Path(file).name
            if Path(file).suffix in IMAGES:
                lines += [f"![{title}](drawn/{kept_as(file)})", "", f"*{title}*", ""]
            else:
                lines += [f"[{title}](drawn/{kept_as(file)})", ""]
        return "\n".join(lines)

    return DRAWN.sub(figures, text)
