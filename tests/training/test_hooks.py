"""Hooks: called at every moment in order, in every part of a run; an error in one is told with its name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import boxwright
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training.hooks import MOMENTS, Hooks, check_hooks

pytestmark = pytest.mark.usefixtures("without_charts")

SETTINGS = [
    "schedule.steps=4", "validation.times=2", "data.batch_size=2", "optim.reference_batch=2", "data.workers=0",
    "model.fpn.channels=16", "model.head.stem_channels=[16]", "precision=fp32", "trackers=[]",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hooks") / "data"
    write_shapes(folder, 4, 2, "voc", ShapesConfig(size=64), 0)
    return folder


class Told(boxwright.Hook):
    """Notes what it is told."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.told: list[Any] = []
        self.stop_at = stop_at
        self.run: Any = None

    def before_run(self, run):
        self.run = run
        self.told.append(("before_run", run.step))

    def after_run(self, run):
        self.told.append(("after_run", run.step, run.finished, (run.folder / "metrics.json").exists()))

    def before_step(self, run):
        assert run.model.training
        self.told.append(("before_step", run.step))

    def after_step(self, run, losses):
        assert all(value.dim() == 0 and not value.requires_grad for value in losses.values())
        parts = [value for name, value in losses.items() if name != "loss" and not name.endswith("_floor")]
        torch.testing.assert_close(losses["loss"], torch.stack(parts).sum())
        self.told.append(("after_step", run.step))
        if run.step == self.stop_at:
            run.stop()

    def before_validation(self, run):
        self.told.append(("before_validation", run.step))

    def after_validation(self, run, result, best):
        assert result.coco.ap is not None
        self.told.append(("after_validation", run.step, best))


def step(number: int) -> list[tuple[str, int]]:
    return [("before_step", number - 1), ("after_step", number)]


@pytest.mark.e2e
def test_a_run_calls_its_hooks_at_every_moment_also_after_it_was_stopped_and_resumed(
    data: Path, tmp_path: Path
) -> None:
    first, second = Told(stop_at=3), Told()
    options: dict[str, Any] = {"device": "cpu", "runs": tmp_path}
    stopped = boxwright.train("fcos-shapes", data, overrides=SETTINGS, hooks=[first, second], **options)
    validation = [("before_validation", 2), ("after_validation", 2, first.told[6][-1])]
    expected = [("before_run", 0), *step(1), *step(2), *validation, *step(3), ("after_run", 3, False, False)]
    assert first.told == second.told == expected
    assert not stopped.finished
    assert (first.run.steps, first.run.is_main, first.run.folder) == (4, True, stopped.folder)
    assert "stopping after this step" in (stopped.folder / "log.txt").read_text()
    rest = Told()
    assert boxwright.train(resume=stopped.folder, hooks=[rest], **options).finished
    validation = [("before_validation", 4), ("after_validation", 4, rest.told[4][-1])]
    assert rest.told == [("before_run", 3), *step(4), *validation, ("after_run", 4, True, True)]
    assert [json.loads(row)["step"] for row in (stopped.folder / "results.jsonl").read_text().splitlines()] == [2, 4]


@pytest.mark.e2e
def test_an_error_in_a_hook_ends_the_run_with_its_name_and_the_way_on(data: Path, tmp_path: Path) -> None:
    class Broken(boxwright.Hook):
        def after_step(self, run, losses):
            if run.step == 2:
                raise KeyError("momentum")

    watching = Told()
    message = r"^hook Broken\.after_step failed at step 2 of 4: KeyError: 'momentum'; then go on with: boxwright train"
    with pytest.raises(ValueError, match=message) as caught:
        boxwright.train(
            "fcos-shapes", data, overrides=SETTINGS, device="cpu", runs=tmp_path, hooks=[watching, Broken()]
        )
    assert isinstance(caught.value.__cause__.__cause__, KeyError)  # with its own traceback
    assert watching.told[-1] == ("after_run", 2, False, False)


class Failing(boxwright.Hook):
    def __init__(self, moment: str) -> None:
        self.moment = moment

    def before_run(self, run):
        if self.moment == "before_run":
            raise RuntimeError

    def after_run(self, run):
        if self.moment == "after_run":
            raise RuntimeError("the disk is full")


def hooks_of(*hooks: boxwright.Hook) -> tuple[Hooks, list[str]]:
    lines: list[str] = []
    run: Any = SimpleNamespace(step=7, steps=9, log=lines.append)
    return Hooks(hooks, run), lines


def test_an_error_after_the_run_does_not_hide_the_one_that_ended_it() -> None:
    hooks, lines = hooks_of(Failing("after_run"))
    with pytest.raises(OSError, match="no image"), hooks:
        raise OSError("no image")
    assert lines == ["hook Failing.after_run failed at step 7 of 9: RuntimeError: the disk is full"]
    with pytest.raises(ValueError, match=r"hook Failing\.after_run failed"), hooks:
        pass


def test_only_hooks_that_began_are_ended() -> None:
    class Note(boxwright.Hook):
        ended = 0

        def after_run(self, run):
            self.ended += 1

    before, after = Note(), Note()
    hooks, _ = hooks_of(before, Failing("before_run"), after)
    with pytest.raises(ValueError, match=r"hook Failing\.before_run failed at step 7 of 9: RuntimeError$"):
        hooks.__enter__()
    hooks.__exit__(None, None, None)
    assert (before.ended, after.ended) == (1, 0)


def test_an_interrupt_in_a_hook_is_no_error_of_it() -> None:
    class Interrupted(boxwright.Hook):
        def before_step(self, run):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hooks_of(Interrupted())[0].before_step()


def test_what_would_never_be_called_is_refused_before_anything_is_read() -> None:
    class Misspelled(boxwright.Hook):
        def after_steps(self, run, losses):
            pass

    class Plain:
        def after_step(self, run, losses):
            pass

    for hook, message in (
        (Misspelled(), r"Misspelled\.after_steps would never be called; did you mean after_step\?"),
        (Plain(), r"expected objects of classes below boxwright\.Hook, got <"),
        (Told, r"got the class Told, give Told\(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            boxwright.train("fcos-shapes", "nowhere", hooks=[hook])  # type: ignore[list-item]
    check_hooks([Told(), boxwright.Hook()])
    assert len(MOMENTS) == 6


def test_a_hook_that_overrides_nothing_does_nothing() -> None:
    hooks, lines = hooks_of(boxwright.Hook())
    with hooks:
        hooks.before_step()
        hooks.after_step({"loss": torch.tensor(1.0)})
        hooks.before_validation()
        hooks.after_validation(None, True)  # type: ignore[arg-type]
    assert lines == []
