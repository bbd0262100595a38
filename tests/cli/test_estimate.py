"""`train --estimate`: says how long a run would take, trains nothing and writes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from boxwright.training.estimate import Estimate, duration, estimate

SMALL = (
    "model.backbone=mobilenet_v3_small", "model.fpn.channels=16", "model.head.stem_channels=[16]",
    "model.head.norm=none",
    "data.resize.size=64", "data.resize.max_size=96", "data.batch_size=2", "optim.reference_batch=2", "data.workers=0",
    "schedule.steps=900", "validation.times=3", "data.train_scales=[]",
)  # fmt: skip


def test_the_command_prints_one_line_and_leaves_nothing(
    boxwright: Callable[..., object], voc: Callable[..., Path], tmp_path: Path
) -> None:
    data = voc(tmp_path / "data")
    ended = boxwright("train", "fcos-small", "--data", data, "--estimate", *SMALL)
    assert ended.code == 0, ended  # type: ignore[attr-defined]
    line = ended.out.strip()  # type: ignore[attr-defined]
    assert "900 steps of 2 images" in line
    assert "3 validations" in line
    assert list((tmp_path / "here").iterdir()) == []


def test_a_time_budget_decides_the_steps(voc: Callable[..., Path], tmp_path: Path) -> None:
    found = estimate("fcos-small", voc(tmp_path / "data"), overrides=SMALL, minutes=2.0, device="cpu")
    assert found.seconds == pytest.approx(120, abs=2 * found.step_seconds + 1)
    assert 0 <= found.waiting < 1
    assert found.memory > 1 << 27


def test_it_is_for_new_runs(boxwright: Callable[..., object], tmp_path: Path) -> None:
    for words in (("--data", tmp_path, "--resume", "latest"), ()):
        boxwright("train", "fcos-small", *words, "--estimate").refused("--estimate needs --data")  # type: ignore[attr-defined]


def test_it_can_be_put_behind_the_whole_command(
    boxwright: Callable[..., object], voc: Callable[..., Path], tmp_path: Path
) -> None:
    data = voc(tmp_path / "data")
    words = ("--name", "mine", "--runs", "elsewhere", "--overfit", 2, "--seed", 3)
    ended = boxwright("train", "fcos-small", "--data", data, *words, *SMALL, "--estimate")
    assert ended.code == 0, ended  # type: ignore[attr-defined]
    assert "steps of 2 images" in ended.out  # type: ignore[attr-defined]
    ended = boxwright("train", "fcos-small", "--data", data, "--weights", "absent.pt", *SMALL, "--estimate")
    ended.refused("absent.pt")  # type: ignore[attr-defined]
    assert list((tmp_path / "here").iterdir()) == []


def test_the_whole_run_is_steps_and_validations() -> None:
    found = Estimate(9000, 16, 0.5, 0.02, 10, 30.0, 3 << 30)
    assert found.seconds == 9000 * 0.5 + 300
    assert found.sentence() == (
        "80.0 minutes: 9000 steps of 16 images at 0.5 s (32 images/s, 2% of it waiting for data), 10 validations "
        "of 30 s each; memory 3 GiB"
    )
    assert duration(5400) == "1.5 hours"
