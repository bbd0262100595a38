"""The folder that examples in the pages run in: FOLDER, IMAGES, photos and runs/fcos-small are there, tiny.

A page's blocks `python run` and `sh run` are run from top to bottom in a copy of their own.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from boxwright.cli import main
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.inference.video import VideoWriter

SIDE = 96
SETTINGS = (
    "model.backbone.name=resnet18", "model.backbone.widths=[8,8,8,1]", "model.backbone.norm=bn",
    "model.backbone.frozen_stages=0", "model.fpn.channels=16",
    "model.head.stem_channels=[16]", "model.head.norm=none", "model.head.prior_probability=0.4",
    f"data.resize.size={SIDE}", f"data.resize.max_size={SIDE}", "data.train_scales=[]", "data.batch_size=2",
    "precision=fp32",
)  # fmt: skip
RUNS = ("runs/fcos-small", "runs/fcos-small-2", "runs/demo/run")


def write_house(root: Path) -> Path:
    """Two labelled folders, images without labels, and untrained checkpoints of their classes."""
    from boxwright.checkpoint import Checkpoint, save_checkpoint
    from boxwright.recipes import load_recipe

    config = ShapesConfig(size=SIDE, num_classes=3)
    write_shapes(root / "FOLDER", 4, 2, "voc", config)
    shutil.copytree(root / "FOLDER", root / "runs" / "demo" / "data")
    for folder in ("IMAGES", "photos"):
        shutil.copytree(root / "FOLDER" / "JPEGImages", root / folder)
    shutil.copyfile(next((root / "photos").glob("*.jpg")), root / "street.jpg")
    with VideoWriter(root / "street.mp4", Fraction(5)) as video:
        for number, image in enumerate(sorted((root / "photos").glob("*.jpg"))):
            video.add(Image.open(image), number / 5)
    torch.manual_seed(0)
    recipe = load_recipe("fcos-small", SETTINGS)
    checkpoint = Checkpoint(recipe, config.classes, recipe.build_model(num_classes=3).state_dict())
    for run in RUNS:
        for name in ("best.pt", "last.pt"):
            file = root / run / "weights" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(checkpoint, file)
    shutil.copyfile(root / RUNS[0] / "weights" / "best.pt", root / "best.pt")
    return root


def run_sh(text: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line, which is a call of boxwright, in this process; `> FILE` at its end writes what it prints."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "boxwright", f"{where}: only calls of boxwright can be run: {line}"
        target = words[-1] if ">" in words else None
        monkeypatch.setattr(sys, "argv", words[: words.index(">")] if target else words)
        printed, code = io.StringIO(), 0
        with contextlib.redirect_stdout(printed):
            try:
                main.run()
            except SystemExit as end:
                code = end.code or 0
        assert code == 0, f"{where}: {line} ended with {code}"
        if target:
            Path(target).write_text(printed.getvalue(), encoding="utf-8")


def run_python(text: str, where: str, line: int, names: dict[str, Any]) -> None:
    """A block in the names of the page."""
    exec(compile("\n" * (line - 1) + re.sub(r"(?m)^# fmt: .*$", "", text), where, "exec"), names)
