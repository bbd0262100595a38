"""`num_gpus`: processes that `train` starts itself; what they give and how they end is what one process would."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import launched_calls
import pytest
import torch

import boxwright
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training.processes import (
    Failure,
    ProcessEndedError,
    _Group,
    _Member,
    _sendable,
    processes_to_start,
    run_in_processes,
)

SETTINGS = [
    "schedule.steps=8", "validation.times=2", "data.batch_size=2", "optim.reference_batch=4", "data.workers=0",
    "model.fpn.channels=16", "model.head.stem_channels=[16]", "precision=fp32", "trackers=[]",
]  # fmt: skip


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "device", "gpus", "message"),
    [
        (0, "cpu", 0, "expected 1 or more, got 0"),
        (1, "auto", 0, r"1 asked for, this machine \(or this torch\) has 0 GPUs; with device cpu so many processes"),
        (4, "auto", 1, "4 asked for, this machine .* has 1 GPU;"),
        (2, "cuda:1", 4, "2 asked for, but device cuda:1 is one"),
        (2, "mps", 0, "2 asked for, but a device mps takes one process"),
        (2, "tpu", 0, "device 'tpu': expected auto, cpu"),
    ],
)
def test_more_than_there_is_is_refused_in_a_sentence(count, device, gpus, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=message):
        processes_to_start(count, device)


def test_what_is_there_is_started_and_one_process_is_this_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [processes_to_start(count, "auto") for count in (None, 1, 2, 4)] == [0, 0, 2, 4]
    assert [processes_to_start(count, "cpu") for count in (None, 1, 9)] == [0, 0, 9]
    assert processes_to_start(1, "cuda:3") == 0
    assert processes_to_start(None, "auto", saved=3) == 3


def test_a_process_of_another_launcher_starts_none(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match="torchrun or accelerate has started this process"):
        processes_to_start(2, "cpu")
    assert processes_to_start(None, "cpu", saved=2) == 0  # a run of ours is resumed by torchrun
    monkeypatch.setenv("BOXWRIGHT_PROCESS", "1")
    assert processes_to_start(2, "cpu") == 0


def test_refused_by_train_before_data_is_read(tmp_path):
    with pytest.raises(ValueError, match="num_gpus: 99 asked for"):
        boxwright.train("fcos", tmp_path / "data", num_gpus=99, device="cuda" if torch.cuda.is_available() else "auto")


def test_a_hook_that_cannot_be_sent_is_refused_in_a_sentence(tmp_path):
    class Local(boxwright.Hook):
        pass

    with pytest.raises(ValueError, match=r"num_gpus: what other processes need cannot be sent to them .*Local"):
        boxwright.train("fcos-shapes", tmp_path / "data", num_gpus=2, device="cpu", hooks=[Local()])


# ---- how it ends ----------------------------------------------------------------------------------------------------


def ended(*members: Any, signals: tuple[int, ...] = ()) -> Any:
    """The outcome of a group of processes: (exit code, result or Failure or None) of each; None: it has to be ended."""
    group = _Group(signals=list(signals))
    for code, sent in members:
        failure = sent if isinstance(sent, Failure) else None
        group.members.append(_Member(Process(code), None, [sent] if failure is None else [], failure))  # type: ignore[arg-type]
    group.end()
    return group.outcome()


class Process:
    """A process that has ended with a code, or, where that is None, does so when it is killed: it is slow to leave."""

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode

    def is_alive(self) -> bool:
        return self.exitcode is None

    def join(self, timeout: float) -> None:
        pass

    def terminate(self) -> None:
        pass

    def kill(self) -> None:
        self.exitcode = -9


def test_the_result_is_that_of_the_first_process():
    assert ended((0, "first"), (0, None)) == "first"
    assert ended((0, "first"), (0, None), signals=(signal.SIGINT,)) == "first"  # the run saved, and ended in order


def test_the_error_is_the_first_in_time_whichever_process_it_is_of():
    failures = [Failure(9.0, RuntimeError("peer closed")), Failure(8.0, ValueError("v.png: damaged"))]
    with pytest.raises(ValueError, match=r"v\.png: damaged"):
        ended((1, failures[0]), (1, failures[1]), (None, None))


@pytest.mark.parametrize(
    ("codes", "message", "exit_code"),
    [
        ((None, -9), "process 1 of the 2 of this run was killed by SIGKILL, for want of memory most often", 137),
        ((-11, None), "process 0 of the 2 of this run was killed by SIGSEGV", 139),
        ((None, 3), "process 1 of the 2 of this run ended with exit code 3: its own message is above", 3),
        ((0, -15), "process 1 of the 2 of this run was killed by SIGTERM", 143),
    ],
)
def test_a_process_that_told_no_error_is_named_with_its_exit_code(codes, message, exit_code):
    with pytest.raises(ProcessEndedError, match=message) as caught:
        ended(*((code, None) for code in codes))
    assert caught.value.exit_code == exit_code


def test_stopped_before_it_could_save_ends_as_this_process_would():
    with pytest.raises(KeyboardInterrupt):
        ended((143, None), (143, None), signals=(signal.SIGINT,))
    with pytest.raises(SystemExit) as caught:
        ended((143, None), (-9, None), signals=(signal.SIGTERM,))
    assert caught.value.code == 143


def test_the_second_interrupt_ends_all_at_once():
    told: list[str] = []
    process = SimpleNamespace(terminate=lambda: told.append("stop"), kill=lambda: told.append("kill"))
    group = _Group([_Member(process, None)] * 2)  # type: ignore[arg-type]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
        group.note(number, None)
    assert told == ["stop"] * 4 + ["kill"] * 2


def test_errors_keep_their_kind_and_bring_their_traceback():
    class OddError(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    for error, kind, text in (
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), FileNotFoundError, "a.jpg"),
        (OddError("odd", 2), RuntimeError, "OddError: odd"),
    ):
        try:
            raise error
        except Exception as caught:
            sent = _sendable(caught, 1, 2).error
        assert type(sent) is kind
        assert text in str(sent)
        assert "in process 1 of the 2 of this run:\nTraceback" in sent.__notes__[0]


# ---- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_they_meet_and_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    assert run_in_processes(launched_calls.summed, 2) == (3.0, max(1, threads // 2))


@pytest.mark.slow
def test_an_error_of_one_ends_all_at_once():
    started = time.monotonic()
    with pytest.raises(ValueError, match="rank 1: no image"):
        run_in_processes(partial(launched_calls.fail, {1: 0.5}), 2)
    assert time.monotonic() - started < 55


@pytest.mark.slow
@pytest.mark.parametrize(("code", "exit_code"), [(3, 3), (-9, 137)])
def test_one_that_is_gone_ends_all(code, exit_code):
    with pytest.raises(ProcessEndedError) as caught:
        run_in_processes(partial(launched_calls.leave, code), 2)
    assert caught.value.exit_code == exit_code


@pytest.mark.slow
@pytest.mark.e2e
def test_an_interrupt_saves_a_run_of_two_and_resume_starts_two_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_shapes(tmp_path / "data", 8, 2, "coco", ShapesConfig(size=64), 0)
    hooks, options = [launched_calls.Interrupting(step=2)], {"device": "cpu", "runs": tmp_path / "runs"}
    stopped = boxwright.train("fcos-shapes", tmp_path / "data", overrides=SETTINGS, num_gpus=2, hooks=hooks, **options)
    whole = boxwright.train("fcos-shapes", tmp_path / "data", overrides=SETTINGS, num_gpus=2, **options)
    log = stopped.folder / "log.txt"
    assert (stopped.finished, whole.finished) == (False, True)
    assert "on 2 x cpu, fp32, batch 4" in log.read_text()
    with pytest.raises(ValueError, match="was begun with num_gpus 2"):
        boxwright.train(resume=stopped.folder, num_gpus=3, **options)
    assert boxwright.train(resume=stopped.folder, **options).finished
    assert log.read_text().count("on 2 x cpu") == 2
    rows = [
        [json.loads(row) | {"seconds": 0} for row in (folder / "results.jsonl").read_text().splitlines()]
        for folder in (stopped.folder, whole.folder)
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.e2e
def test_an_error_in_the_second_process_is_told_as_if_it_were_of_this_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "data", 8, 2, "coco", ShapesConfig(size=64), 0)
    message = r"^hook BrokenInOne\.after_step failed at step 1 of 8: KeyError: 'momentum'; then go on with"
    with pytest.raises(ValueError, match=message):
        boxwright.train(
            "fcos-shapes", "data", overrides=SETTINGS, num_gpus=2, device="cpu", hooks=[launched_calls.BrokenInOne()]
        )
    assert {path.name for path in tmp_path.iterdir() if path.name.isdigit()} == {"0", "1"}
    assert "RANK" not in os.environ
