"""A stand-in for CUDA graphs on a CPU: records the operators of a function, and runs exactly those again.

As with a graph, what Python decided while it was recorded stays so: numbers are fixed, tensors are those in the same
memory, and whoever forgets to copy an input or keeps a number out of a tensor gets yesterday's result. What a graph
cannot hold is refused while it is recorded: reading a number back, shapes that depend on values, tensors made of
Python's numbers on the host.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten

from boxwright.ops.outside_graphs import splitting
from boxwright.runtime.cuda_graphs import Recording

T = TypeVar("T")
WAITS = (
    "_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "_unique2", "unique_consecutive", "unique_dim",
    "is_nonzero", "equal", "bincount", "repeat_interleave.Tensor", "lift_fresh", "suppress",
)  # fmt: skip
"""Operators that read values on the host, or copy some from there (`lift_fresh`: of `torch.tensor`)."""
READS = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.item)
"""Methods that do so without an operator where a tensor lies on the CPU anyhow."""


class NothingWaits(AbstractContextManager["NothingWaits"]):
    """A context in which every operator that makes a GPU wait for the host, or the host for it, is refused."""

    def __init__(self, seen: Callable[..., None] = lambda *call: None) -> None:
        self._modes, self._seen = ExitStack(), seen

    def __enter__(self) -> "NothingWaits":
        self._modes.enter_context(_NoReads())
        self._modes.enter_context(_Operators(self._seen))
        return self

    def __exit__(self, *error: Any) -> None:
        self._modes.__exit__(*error)


class _NoReads(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in READS:
            raise RuntimeError(f"{function.__name__} waits for the device: a graph cannot hold it")
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, seen: Callable[..., None]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        refuse_waiting(func, args, kwargs)
        result = func(*args, **kwargs)
        self._seen(func, args, kwargs, result)
        return result


def refuse_waiting(func: Any, args: Any, kwargs: Any) -> None:
    """RuntimeError for an operator that a graph cannot hold."""
    name = func._schema.name.split("::")[1]
    if name in WAITS or f"{name}.{func._overloadname}" in WAITS:
        raise RuntimeError(f"{func} waits for the device: a graph cannot hold it")
    if name.startswith("index") and any(
        isinstance(one, torch.Tensor) and one.dtype in (torch.bool, torch.uint8) for one in tree_flatten(args[1:2])[0]
    ):
        raise RuntimeError(f"{func} by a mask waits for the device: a graph cannot hold it")
    given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    devices = {one.device.type for one in given if one.dim()}
    if name in ("copy_", "_to_copy") and (len(devices) > 1 or _moves(kwargs.get("device"), devices)):
        raise RuntimeError(f"{func} between the host and the device: a graph cannot hold it")


def _moves(device: Any, devices: set[str]) -> bool:
    return device is not None and bool(devices) and torch.device(device).type not in devices


class RecordedGraph:
    """A `Capture` on a CPU, of training steps and of detections; `seconds` are those that its stopwatch says."""

    def __init__(self, room: bool = True) -> None:
        self.recorded = self.replayed = self.splits = self.forgotten = 0
        self.room, self.eager_seconds, self.replay_seconds = room, 2.0, 1.0
        self._last = self.eager_seconds

    def __call__(self, work: Callable[[], T]) -> Recording[T]:
        parts: list[Callable[[], object]] = []

        def split(waiting: Any, *inputs: Any) -> torch.Tensor:
            with _disable_current_modes():
                result = waiting(*inputs)
            self.splits += 1
            parts.append(lambda: result.copy_(waiting(*inputs)))
            return result

        with splitting(split), NothingWaits(lambda *call: parts.append(lambda: _again(*call))):
            result = work()
        self.recorded += 1
        self._last = self.replay_seconds

        @torch.no_grad()
        def replay() -> None:
            self.replayed += 1
            self._last = self.replay_seconds
            for part in parts:
                part()

        return Recording(replay, result)

    def aside(self, work: Callable[[], T]) -> T:
        self._last = self.eager_seconds
        return work()

    def start_stopwatch(self) -> "RecordedGraph":
        return self

    def stop(self) -> None:
        pass

    def seconds(self) -> float:
        return self._last

    def has_room(self) -> bool:
        return self.room

    def memory(self) -> int:
        return self.recorded << 20

    def forget(self) -> None:
        self.forgotten += 1


def _again(func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Run an operator once more, into the memory of its result."""
    aliases = [one.alias_info for one in func._schema.returns]
    if any(alias is not None and not alias.is_write for alias in aliases) and _memory(result) <= _memory(
        (args, kwargs)
    ):
        return  # a view: it shows what its base holds now
    again = func(*args, **kwargs)
    if any(alias is not None and alias.is_write for alias in aliases):
        return  # done in place
    for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
        if isinstance(old, torch.Tensor):
            old.copy_(new)


def _memory(value: Any) -> set[int]:
    """Where the tensors of nested values lie; `reshape`, `to` and the like may have copied theirs."""
    return {one.untyped_storage().data_ptr() for one in tree_flatten(value)[0] if isinstance(one, torch.Tensor)}
