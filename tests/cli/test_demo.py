"""`boxwright demo` with few images and no time: what it prints, draws and writes down."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.mark.e2e
def test_the_last_line_has_the_figures_of_the_file_and_the_images_are_where_it_says(
    boxwright: Callable[..., Any],
) -> None:
    ended = boxwright("demo", "--minutes", "0.001", "--train", "4", "--val", "2", "--device", "cpu")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    demo = Path("runs/demo")
    figures = json.loads((demo / "metrics.json").read_text(encoding="utf-8"))
    assert 0 < figures["AP"] < figures["AP50"] <= 1
    assert lines[-1] == f"AP {figures['AP']:.4f}  AP50 {figures['AP50']:.4f}"
    # the checkpoint, read back, measures what the run measured
    measured = json.loads((demo / "run" / "metrics.json").read_text(encoding="utf-8"))
    for name in ("AP", "AP50", "AP75", "AR100", "per_class"):
        assert measured[name] == pytest.approx(figures[name]), name

    words = " ".join(lines).split()
    assert {str(demo / "predictions.jpg"), str(demo / "run"), str(demo / "run/weights/last.pt")} <= set(words)
    with Image.open(demo / "predictions.jpg") as drawn:
        drawn.load()
        assert drawn.width > 2 * 256  # both images of val, side by side
        assert len(drawn.getcolors(drawn.width * drawn.height) or ()) > 100
    assert len(list((demo / "data" / "JPEGImages").glob("train_*.jpg"))) == 4
    assert len(list((demo / "data" / "JPEGImages").glob("val_*.jpg"))) == 2
