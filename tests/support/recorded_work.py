"""A stand-in for CUDA graphs on a CPU: records the operators of a piece of work, and runs exactly those again.

As with a graph, what Python decided while it was recorded stays so: numbers are fixed, tensors are those in the same
memory, and whoever forgets to copy an input gets the result of the one before. What a graph cannot hold (reading a
number back, shapes that depend on values) is refused while it is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from boxwright.runtime.cuda_graphs import Recording

T = TypeVar("T")
WAITS = (
    "_local_scalar_dense",
    "item",
    "tolist",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "is_nonzero",
    "equal",
    "suppress",
)


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of nested results."""
    return [one for one in tree_leaves(value) if isinstance(one, torch.Tensor)]


def _memory_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        by_mask = name.startswith("index") and any(one.dtype == torch.bool for one in tensors(args[1:2]))
        if name in WAITS or by_mask:
            raise RuntimeError(f"{func} waits for the device: a graph cannot hold it")
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result


class RecordedWork:
    """A `Capture` on a CPU, where recording does the work, too; counts what it did."""

    does_the_work = True

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable[[], T]) -> Recording[T]:
        recorder = _Recorder()
        with recorder:
            found = work()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            for func, args, kwargs, result in recorder.calls:
                own = {_memory_of(one) for one in tensors(result)}
                if own and not func._schema.is_mutable and own <= {_memory_of(one) for one in tensors((args, kwargs))}:
                    continue  # a view: it shows what its base holds now
                again = func(*args, **kwargs)
                if func._schema.is_mutable:
                    continue  # done in place
                for old, new in zip(tensors(result), tensors(again), strict=True):
                    old.copy_(new)

        return Recording(replay, found)
