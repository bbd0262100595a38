"""The processes of a run on several devices, started here: one on each GPU, or several on the CPU.

Each runs the same call, finds its rank where torchrun would put it, and meets the others there. What the first one
gives is the result; the first error of any of them ends all, and is raised here as if it had happened here.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeVar

import torch

from boxwright.runtime.devices import parse_device
from boxwright.wording import counted

T = TypeVar("T")
OURS = "BOXWRIGHT_PROCESS"
"""Set in the processes that are started here; those of torchrun and accelerate do not have it."""
GRACE = 10.0
"""Seconds that a process has to end in once another one has failed."""


class ProcessEndedError(ChildProcessError):
    """A process of a run ended without an error that it could tell; `exit_code` is the one a shell would give."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def processes_to_start(count: int | None, device: str, saved: int | None = None) -> int:
    """How many processes are to be started here for `num_gpus`; 0 where the run is that of this process.

    `saved` is what a run began with that is resumed; torchrun may start its processes as well. Raises ValueError where
    they cannot be started: fewer GPUs, a device that takes one process, or another launcher.
    """
    if count is None and "LOCAL_RANK" not in os.environ:
        count = saved
    if count is None or os.environ.get(OURS):
        return 0
    if count < 1:
        raise ValueError(f"num_gpus: expected 1 or more, got {count}")
    if "LOCAL_RANK" in os.environ:
        raise ValueError(
            "num_gpus: torchrun or accelerate has started this process, and the others: leave num_gpus out"
        )
    chosen = parse_device(device)
    if chosen is None or chosen.type == "cuda":
        have = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count > have:
            raise ValueError(
                f"num_gpus: {count} asked for, this machine (or this torch) has {counted(have, 'GPU')}; with device "
                "cpu so many processes run on the CPU"
            )
        if count > 1 and chosen is not None and chosen.index is not None:
            raise ValueError(f"num_gpus: {count} asked for, but device {device} is one; use cuda, or leave device out")
    elif chosen.type != "cpu" and count > 1:
        raise ValueError(f"num_gpus: {count} asked for, but a device {device} takes one process")
    return count if count > 1 else 0


class Failure(NamedTuple):
    """An error of a process, as it is sent here."""

    moment: float
    """On the clock that all processes of a machine have: the first one is the cause of the others."""
    error: BaseException


def run_in_processes(call: Callable[[], T], count: int) -> T:
    """Run a call in `count` new processes that train together, and give what the first of them returns.

    Ctrl-C and SIGTERM are passed on: the run saves and ends; a second Ctrl-C ends it at once. Raises the first error of
    a process, ProcessEndedError for one that was killed, and ValueError for a call that cannot be sent to another one.
    """
    try:
        pickle.dumps(call)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"num_gpus: what other processes need cannot be sent to them ({error}); a hook has to be of a class at the "
            "top of a module, and to hold plain values"
        ) from error
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with _signals_passed_on() as group:
        context = multiprocessing.get_context("spawn")
        for rank in range(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(rank, count, port, call, sender), name=f"rank {rank}")
            process.start()
            sender.close()
            group.members.append(_Member(process, receiver))
        group.listen()
        result = group.joined()
    return result  # type: ignore[no-any-return]


@dataclass
class _Member:
    """A process, and what came from it."""

    process: Any
    receiver: Connection
    results: list[Any] = field(default_factory=list)
    failure: Failure | None = None
    asked: bool = False
    """Whether it was told to end, because another one had ended."""

    def receive(self) -> None:
        """Take what it has sent, if anything."""
        with suppress(EOFError, OSError):
            while self.receiver.poll():
                kind, value = self.receiver.recv()
                if kind == "result":
                    self.results.append(value)
                else:
                    self.failure = value


@dataclass
class _Group:
    """The processes of a run, and which signals came for them."""

    members: list[_Member] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)

    def listen(self) -> None:
        """From now on signals come here."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.note)

    def note(self, number: int, _frame: object) -> None:
        """Pass a signal on as SIGTERM, which a run takes as the wish to stop; the second SIGINT ends all at once."""
        again = number == signal.SIGINT and signal.SIGINT in self.signals
        self.signals.append(number)
        for member in self.members:
            member.process.kill() if again else member.process.terminate()

    def joined(self) -> Any:
        """Wait for all; the result of the first one, or the first error."""
        while running := [member for member in self.members if member.process.is_alive()]:
            wait([member.process.sentinel for member in running] + [member.receiver for member in running], timeout=1)
            for member in self.members:
                member.receive()
            if any(member.failure or member.process.exitcode for member in self.members):
                self.end()
                break
        for member in self.members:
            member.process.join()
            member.receive()
        return self.outcome()

    def end(self) -> None:
        """End those that still run: what they wait for does not come any more."""
        until = time.monotonic() + GRACE
        for member in self.members:
            if member.process.is_alive():
                member.asked = True
                if not self.signals and member.failure is None:
                    member.process.terminate()
        for member in self.members:
            member.process.join(max(0.0, until - time.monotonic()))
            if member.process.is_alive():
                member.process.kill()

    def outcome(self) -> Any:
        """The result of the first process, or the error that comes first in time raised."""
        failures = [member.failure for member in self.members if member.failure is not None]
        if failures:
            raise min(failures, key=lambda failure: failure.moment).error
        ended = [(rank, member.process.exitcode) for rank, member in enumerate(self.members) if member.process.exitcode]
        if ended and self.signals:  # before the run could save
            if signal.SIGINT in self.signals:
                raise KeyboardInterrupt
            sys.exit(128 + self.signals[0])
        if ended:
            first = [one for one in ended if not self.members[one[0]].asked]
            raise _ended(*(first or ended)[0], len(self.members))
        return self.members[0].results[0]


def _ended(rank: int, code: int, count: int) -> ProcessEndedError:
    """The error for a process that told none."""
    which = f"process {rank} of the {count} of this run"
    if code < 0:
        name = signal.Signals(-code).name
        return ProcessEndedError(f"{which} was killed by {name}, for want of memory most often", 128 - code)
    advice = "its own message is above; a script has to call train below `if __name__ == '__main__':`"
    return ProcessEndedError(f"{which} ended with exit code {code}: {advice}", code)


@contextmanager
def _signals_passed_on() -> Iterator[_Group]:
    """A group of processes that ignore Ctrl-C until they train, and none of which is left behind.

    A terminal sends Ctrl-C to all of them; that this process ignores it while it starts them makes them begin so.
    """
    group = _Group()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield group
    finally:
        for member in group.members:
            if member.process.is_alive():
                member.process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(rank: int, count: int, port: int, call: Callable[[], Any], sender: Connection) -> None:
    """One process: find the others, run the call, send what comes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)  # as on an error, so that no partial file is left behind
    os.environ.update(
        {
            OURS: "1", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }
    )  # fmt: skip
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // count))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        try:
            result = call()
            sent = ("result", result if rank == 0 else None)
        except Exception as error:
            sent = ("failure", _sendable(error, rank, count))
        with suppress(BrokenPipeError):  # the process that started this one is gone
            sender.send(sent)
    finally:  # not before the error is told: the others have errors of their own from here on
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if sent[0] == "failure":
        sys.exit(1)


def _leave(number: int, _frame: object) -> None:
    """Exit with the code that a shell gives to a signal."""
    sys.exit(128 + number)


def _end_with_parent() -> None:
    """Stop, as on SIGTERM, once the process that started this one is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _sendable(error: Exception, rank: int, count: int) -> Failure:
    """An error with the time and its traceback as a note; RuntimeError in place of one that cannot be sent."""
    moment, text = time.monotonic(), "".join(traceback.format_exception(error))
    try:
        sent: BaseException = pickle.loads(pickle.dumps(error))
        if type(sent) is not type(error) or str(sent) != str(error):
            raise TypeError
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"in process {rank} of the {count} of this run:\n{text}")
    return Failure(moment, sent)
