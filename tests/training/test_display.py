"""What a person sees of a run while it goes on: in a terminal, and where there is none."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from boxwright.training.display import Display

ROW = {
    "train/loss": 1.2344, "train/classification": 0.5, "train/box": 0.4, "train/box_floor": 0.1234,
    "lr": 0.0025, "images_per_second": 12.54, "val/loss": 7.0,
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 140])
def test_the_bar_of_a_terminal_shows_step_losses_rate_speed_and_time_left(width: int) -> None:
    """Twenty of a hundred steps in ten seconds: forty are left."""
    clock, shown = [0.0], io.StringIO()
    display = Display(enabled=True)
    display.console = Console(
        file=shown, force_terminal=True, color_system=None, width=width, get_time=lambda: clock[0], _environ={}
    )
    with display:
        for step in (0, 10, 20):
            display.update(step, 100, ROW, 40.0)
            clock[0] += 5.0
    last = shown.getvalue().split("training ")[-1]
    losses = "loss 1.234  classification 0.500  box 0.400"
    for part in ("20/100", "0:00:40", losses, "lr 0.0025", "12.5 images/s"):
        assert part in last, (part, last)
    assert "floor" not in last
    assert "7.000" not in last


def test_without_a_terminal_a_line_every_hundred_steps_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display(enabled=True)
    display.log_to(tmp_path / "log.txt")
    with display:
        for step in range(90, 211, 10):
            display.update(step, 300, ROW, 90.0)
    losses = "loss 1.234  classification 0.500  box 0.400"
    told = [f"step {step}/300  {losses}  lr 0.0025  12.5 images/s  1.5 min left" for step in (100, 200)]
    assert capsys.readouterr().err.splitlines() == told
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines() == told


def test_other_processes_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(enabled=False)
    display.log("a line")
    with display:
        display.update(100, 300, ROW, 90.0)
    assert capsys.readouterr().err == ""
