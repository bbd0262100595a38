"""Calls for the processes that `training.processes` starts, which import them by name."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

import boxwright


def fail(when: dict[int, float]) -> str:
    """Raise ValueError in the ranks that are given, after their seconds; the others wait for them for long."""
    rank = int(os.environ["RANK"])
    time.sleep(when.get(rank, 60))
    raise ValueError(f"rank {rank}: no image")


def leave(code: int) -> str:
    """The second process leaves with an exit code, or is killed for a negative one; the first one waits for it."""
    if os.environ["RANK"] == "1":
        if code < 0:
            os.kill(os.getpid(), -code)
        sys.exit(code)
    time.sleep(60)
    return "nothing"


def summed() -> tuple[float, int]:
    """The sum of the ranks over all processes, and the threads of this one."""
    torch.distributed.init_process_group("gloo")
    value = torch.tensor(float(os.environ["RANK"]) + 1)
    torch.distributed.all_reduce(value)
    return float(value), torch.get_num_threads()


class Interrupting(boxwright.Hook):
    """Sends a signal to the process that started this run after a step, once; and waits, so that it surely arrives."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def after_step(self, run, losses):
        if run.step == self.step and run.is_main:
            os.kill(os.getppid(), self.number)
            time.sleep(1)


class BrokenInOne(boxwright.Hook):
    """Fails in the second process, after the first step."""

    def after_step(self, run, losses):
        Path(os.environ["RANK"]).touch()
        if not run.is_main:
            raise KeyError("momentum")
