"""The devices and processes of a run, as accelerate sees them, and the arithmetic on them."""

from __future__ import annotations

import re

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from boxwright.runtime.precision import choose_precision


def choose_accelerator(device: str, precision: str) -> tuple[Accelerator, str]:
    """Accelerate's view of the processes, and the arithmetic; only fp16 needs its help (it scales the gradient)."""
    kind = "cuda" if device == "auto" and torch.cuda.is_available() else device.removesuffix("auto") or "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", kind):
        raise ValueError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {device!r}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device}: this machine (or this torch) has no Apple GPU; use --device cpu or auto")
    if kind.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ValueError(f"device {device}: this machine (or this torch) has no CUDA GPU; use --device cpu or auto")
        if ":" in kind:
            count = torch.cuda.device_count()
            if int(kind[5:]) >= count:
                raise ValueError(f"device {device}: this machine has {count} CUDA GPUs, cuda:0 to cuda:{count - 1}")
            torch.cuda.set_device(torch.device(kind))
    chosen = choose_precision(precision, torch.device(kind))
    mixed = "fp16" if chosen == "fp16" else "no"
    _forget_other_state(kind.partition(":")[0], mixed)
    return Accelerator(mixed_precision=mixed, cpu=kind == "cpu"), chosen


def _forget_other_state(kind: str, mixed: str) -> None:
    """Let a second run in one process have another device: accelerate keeps that of the first for the whole process."""
    if not PartialState._shared_state or PartialState().num_processes > 1:
        return
    other_precision = AcceleratorState._shared_state.get("_mixed_precision", mixed) != mixed
    if PartialState().device.type != kind or other_precision:
        AcceleratorState._reset_state(reset_partial_state=True)
