"""What the commands draw, drawn when the site is built: the demo's run, `explain`, `predict`, `track`, the notebooks.

A page says where they go with a comment in a line of its own, `<!-- drawn: explain-fcos -->`. They are kept in
`build/drawings` and drawn again when a file of the package, a notebook, or a script beside this one has changed.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from boxwright.inference.video import Video, VideoWriter
from pages import DRAWN, ROOT
from rendered import SMALL, render

WIDEST = 1600  # pixels: a site of a few MB
PAGE = ".md"
IMAGES = (".png", ".jpg", ".gif")  # any other file, such as a page or a log, becomes a link


class Group(NamedTuple):
    """Files that one command draws: as it is shown, as it is called, and what each file shows."""

    shown: str
    called: str
    files: dict[str, str]


DEMO, CHECKPOINT = "boxwright demo", "runs/demo/run/weights/best.pt"
VIDEO, FRAMES = "street.mp4", 24
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
    "notebooks": Group(
        "make notebooks", "", {f"notebooks/{name}.md": f"{name}, run on very small data" for name in sorted(SMALL)}
    ),
    "report": Group(DEMO, "", {"runs/demo/run/report.html": "report.html of that run"}),
    "track": Group(
        f"boxwright track {CHECKPOINT} street.mp4 --line 128,0,128,256",
        f"track {CHECKPOINT} {VIDEO} --line 128,0,128,256 --device cpu --out tracks",
        {"tracks/annotated.png": "three frames of annotated.mp4: each object keeps its number and colour"},
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
    for name in SMALL:
        render(name, drawn / "notebooks")
    _pan(folder / "runs/demo/data/JPEGImages", folder / VIDEO)
    for group in GROUPS.values():
        if group.called:
            _call(group.called, folder)
        for file in group.files:
            if file.endswith("annotated.png"):
                _strip(folder / file)
        for file in group.files:
            if Path(file).suffix != PAGE:  # which lies there with its figures
                _keep(folder / file, drawn / kept_as(file))
    stamp.write_text(state)
    return drawn


def _pan(images: Path, video: Path) -> None:
    """A video of two images beside each other, over which the camera moves from the left to the right."""
    left, right = (Image.open(images / f"val_{number:06d}.jpg").convert("RGB") for number in (2, 3))
    width, height = left.size
    scene = Image.new("RGB", (width + right.width, max(height, right.height)))
    scene.paste(left, (0, 0))
    scene.paste(right, (width, 0))
    with VideoWriter(video, Fraction(10)) as writer:
        for number in range(FRAMES):
            x = round(right.width * number / (FRAMES - 1))
            writer.add(scene.crop((x, 0, x + width, height)), number / 10)


def _strip(image: Path) -> None:
    """Three frames of the video of that name, beside each other."""
    frames = [frame.pixels for frame in Video(image.with_suffix(".mp4")).frames()]
    chosen = [Image.fromarray(frames[len(frames) * place // 8]) for place in (2, 4, 6)]
    width, height = chosen[0].size
    strip = Image.new("RGB", (3 * width + 20, height), "white")
    for place, one in enumerate(chosen):
        strip.paste(one, (place * (width + 10), 0))
    strip.save(image)


def _call(arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "boxwright", *shlex.split(arguments)], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"docs: boxwright {arguments} ended with {done.returncode}:\n{done.stderr}")


def _code() -> str:
    digest = hashlib.sha256()
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.yaml"), *(ROOT / "notebooks").glob("*.py")]
    for file in [*sorted(Path(__file__).parent.glob("*.py")), *sorted(sources)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def kept_as(file: str) -> str:
    """The name of a drawing in the site: its folder and its own name, as a JPEG or the PNG that it was."""
    return file if Path(file).suffix == PAGE else file.replace("/", "-")


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
