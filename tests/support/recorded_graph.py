"""A stand-in for CUDA graphs on a CPU: records the operators of a function, and runs exactly those again.

As with a graph, what Python decided while it was recorded stays so: numbers are fixed, tensors are those in the same
memory, and whoever forgets to copy an input or keeps a number out of a tensor gets yesterday's result. What a graph
cannot hold (reading a number back, shapes that depend on values) is refused while it is recorded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from boxwright.training.graph_step import Recording
from boxwright.training.step import StepLosses

_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero", "equal")


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if name in _WAITS:
            raise RuntimeError(f"{func} waits for the device: a graph cannot hold it")
        if name.startswith("index") and any(
            isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in tree_flatten(args[1:2])[0]
        ):
            raise RuntimeError(f"{func} by a mask: its shape depends on values")
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result


class RecordedGraph:
    """Captures work for `GraphStep` on a CPU, where recording does the work, too."""

    does_the_work = True

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, work: Callable[[], StepLosses]) -> Recording:
        recorder = _Recorder()
        with recorder:
            losses = work()
        self.recorded += 1

        @torch.no_grad()
        def replay() -> None:
            self.replayed += 1
            for func, args, kwargs, result in recorder.calls:
                aliases = [one.alias_info for one in func._schema.returns]
                if any(alias is not None and not alias.is_write for alias in aliases):
                    continue  # a view: it shows what its base holds now
                again = func(*args, **kwargs)
                if any(alias is not None for alias in aliases):
                    continue  # done in place
                for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)

        return Recording(replay, losses)
