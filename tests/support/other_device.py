"""A device that is not the CPU, for machines without a GPU: the same numbers, and an error wherever two devices mix.

Tensors moved to `OTHER` keep their values in a CPU tensor inside; every operation runs on that one. As on a GPU an
operation on a tensor of this device and one of the CPU fails (numbers without a dimension aside), and so does a new
tensor that somebody forgot to make on the device. The name "meta" is taken because autograd runs such tensors without
a driver.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from boxwright.nn import depthwise

OTHER = torch.device("meta")


def one_layout_for_group_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """On both devices. torch 2.11 copies the pixels that `torch.group_norm` is given on any device but the CPU from
    channels-last to another layout, and then sums in another order, forward and backward; later torch does not.
    """
    plain = torch.group_norm
    monkeypatch.setattr(torch, "group_norm", lambda pixels, *rest: plain(pixels.contiguous(), *rest))


def one_way_for_depthwise_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """On both devices: on a CPU those of wide filters are put together from narrow ones, in another order of sums."""
    monkeypatch.setattr(depthwise, "FAST_COLUMNS", 99)


class Away(Tensor):
    """A tensor of the other device that wraps a tensor of the CPU."""

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        made: Away = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype, device=OTHER
        )
        made.here = here
        return made

    here: Tensor

    @classmethod
    def __torch_function__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.tolist, Tensor.__reduce_ex__):  # read by the host, and written to a file
            return getattr(args[0].here, function.__name__)(*args[1:])
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """A context in which tensors can be made on `OTHER` and moved there."""

    def __init__(self) -> None:
        super().__init__()
        self._made = _MadeFromNumbers()

    def __enter__(self) -> OtherDevice:
        self._made.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _MadeFromNumbers(TorchFunctionMode):
    """`torch.tensor(numbers, device=OTHER)`, which reaches no dispatched operation."""

    def __torch_function__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = bool(args) and isinstance(args[0], Away) and function is torch.as_tensor  # a tensor that is not moved
        if function in (torch.tensor, torch.as_tensor) and _is_other(kwargs.get("device")) and not there:
            return function(*args, **{**kwargs, "device": "cpu"}).to(OTHER)
        return function(*args, **kwargs)


def _is_other(device: Any) -> bool:
    return device is not None and torch.device(device) == OTHER


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    away = any(isinstance(value, Away) for value in given)
    moves = function.__name__.startswith(("_to_copy", "copy_"))
    if away and not moves and any(value.dim() for value in given if not isinstance(value, Away)):
        raise RuntimeError(f"{function.__name__}: one tensor lies on the CPU, another on the other device")
    there = away
    if kwargs.get("device") is not None:
        there = _is_other(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu") if there else kwargs["device"]}
    with _disable_current_modes():
        result = function(*tree_map(_unwrapped, args), **tree_map(_unwrapped, kwargs))
    written = {id(value.here): value for value in given if isinstance(value, Away)}  # in place: the tensor that it was

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or not there:
            return value
        return written[id(value)] if id(value) in written else Away(value)

    return tree_map(wrapped, result)


def _unwrapped(value: Any) -> Any:
    return value.here if isinstance(value, Away) else value
