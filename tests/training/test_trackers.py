"""Trackers other than TensorBoard: they get every number of a run, and one that is not installed is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.recipes import load_recipe
from boxwright.training import trackers
from boxwright.training.run import train

pytestmark = pytest.mark.usefixtures("without_charts")

SETTINGS = (
    "schedule.steps=2", "validation.times=1", "data.batch_size=2", "optim.reference_batch=2", "data.workers=0",
    "precision=fp32", "detect.max_detections=20",
)  # fmt: skip


class Recorded(GeneralTracker):
    """A tracker that keeps what it is given, and breaks where it is told to."""

    name, requires_logging_directory = "trackio", False
    told: ClassVar[list[Any]] = []
    breaks_at: ClassVar[str] = ""

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        if self.breaks_at == "start":
            raise RuntimeError("no key\nand much more")
        self.told.append((project, options))

    @property
    def tracker(self) -> Any:
        return SimpleNamespace(id="abc", info=SimpleNamespace(run_id="def"))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(values)

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        if self.breaks_at == "log":
            raise RuntimeError("the server is gone")
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finished")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    """The class that stands for every tracker but TensorBoard."""
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["trackio", "wandb", "mlflow"])
    for name in ("trackio", "wandb", "mlflow"):
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, Recorded)
    monkeypatch.setattr(Recorded, "told", [])
    monkeypatch.setattr(Recorded, "breaks_at", "")
    return Recorded


@pytest.mark.e2e
def test_a_tracker_gets_the_settings_and_every_number_under_the_name_of_the_run(
    tmp_path: Path, recorded: type[Recorded]
) -> None:
    write_shapes(tmp_path / "data", 2, 1, "voc", ShapesConfig(size=64), 0)
    run = train(
        "fcos-shapes", tmp_path / "data", overrides=[*SETTINGS, "trackers=[trackio]"], runs=tmp_path / "runs",
        name="mine", device="cpu",
    ).folder  # fmt: skip
    (row,) = (json.loads(line) for line in (run / "results.jsonl").read_text().splitlines())
    step = row.pop("step")
    first, settings, *others = recorded.told
    assert (first, others) == (("boxwright", {"name": "mine"}), [(step, row), "finished"])
    assert settings["schedule.steps"] == 2
    assert settings["model.name"] == "fcos"
    assert not (run / "tensorboard").exists()
    assert not (run / trackers.IDENTITIES).exists()


def test_a_tracker_that_fails_on_the_way_is_told_once_and_the_run_goes_on(
    tmp_path: Path, recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "breaks_at", "log")
    lines: list[str] = []
    recipe = load_recipe("fcos", ["trackers=[wandb,trackio]"])
    with trackers.Trackers(recipe, Accelerator(cpu=True), tmp_path, log=lines.append) as told:
        for step in (1, 2):
            told.log({"step": step, "loss": 0.5})
    results = tmp_path / "results.jsonl"
    assert lines == [
        f"trackers: {name} failed and gets no more numbers (the server is gone); {results} has them all"
        for name in ("wandb", "trackio")
    ]
    assert "finished" not in recorded.told


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("wandb", "WANDB_MODE=offline"), ("mlflow", "MLFLOW_TRACKING_URI"), ("trackio", "import trackio")],
)
def test_a_tracker_that_cannot_start_is_one_sentence_with_its_remedy(
    tmp_path: Path, recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch, name: str, remedy: str
) -> None:
    monkeypatch.setattr(recorded, "breaks_at", "start")
    recipe = load_recipe("fcos", [f"trackers=[{name}]"])
    with pytest.raises(ValueError, match=rf"trackers: {name} could not start \(no key\); .*{remedy}") as caught:
        trackers.Trackers(recipe, Accelerator(cpu=True), tmp_path, log=print)
    assert "\n" not in str(caught.value)


def test_a_resumed_run_goes_on_in_the_run_of_its_tracker(tmp_path: Path, recorded: type[Recorded]) -> None:
    recipe = load_recipe("fcos", ["trackers=[wandb,mlflow,trackio]"])
    for after in (0, 5):
        trackers.Trackers(recipe, Accelerator(cpu=True), tmp_path, log=print, after=after)
    options = [one[1] for one in recorded.told if isinstance(one, tuple)]
    name = {"name": tmp_path.name}
    assert options == [
        {**name, "dir": str(tmp_path)}, {"run_name": tmp_path.name}, name,
        {**name, "dir": str(tmp_path), "id": "abc", "resume": "allow"},
        {"run_name": tmp_path.name, "run_id": "def"}, {**name, "resume": "allow"},
    ]  # fmt: skip
    (tmp_path / trackers.IDENTITIES).write_text("damaged")
    trackers.Trackers(recipe, Accelerator(cpu=True), tmp_path, log=print, after=5)  # begins a run of its own
    assert (recorded.told[-6][1], recorded.told[-4][1]) == (options[0], options[1])


def test_one_that_accelerate_does_not_know_yet_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="this version of accelerate does not know trackio"):
        trackers.check_trackers(["trackio"])


def test_one_that_is_not_installed_is_refused_before_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="trackers: mlflow is not installed; pip install mlflow"):
        train("fcos", tmp_path / "data", overrides=["trackers=[mlflow]"], runs=tmp_path / "runs", device="cpu")
    assert list(tmp_path.iterdir()) == []
    trackers.check_trackers(["tensorboard"])  # the default is left out where it is not installed
