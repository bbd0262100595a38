"""The devices and processes of a run, as accelerate sees them, and the arithmetic on them."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from boxwright.runtime.devices import device_called
from boxwright.runtime.precision import choose_precision


def choose_accelerator(device: str, precision: str) -> tuple[Accelerator, str]:
    """Accelerate's view of the processes, and the arithmetic; only fp16 needs its help (it scales the gradient)."""
    where = device_called(device)
    if where.type == "cuda" and where.index is not None:
        torch.cuda.set_device(where)
    chosen = choose_precision(precision, where)
    mixed = "fp16" if chosen == "fp16" else "no"
    _forget_other_state(where.type, mixed)
    return Accelerator(mixed_precision=mixed, cpu=where.type == "cpu"), chosen


def _forget_other_state(kind: str, mixed: str) -> None:
    """Let a second run in one process have another device: accelerate keeps that of the first for the whole process."""
    if not PartialState._shared_state or PartialState().num_processes > 1:
        return
    other_precision = AcceleratorState._shared_state.get("_mixed_precision", mixed) != mixed
    if PartialState().device.type != kind or other_precision:
        AcceleratorState._reset_state(reset_partial_state=True)
