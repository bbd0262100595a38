"""The precision of a network: float32, bfloat16 where supported natively, float16 on GPUs; and compilation."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from boxwright.nn.mask_head import MaskHead

COMPILED_PARTS = ("backbone", "fpn", "head")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
AUTO_PRECISION = "BOXWRIGHT_AUTO_PRECISION"
"""Environment variable: what "auto" means (fp32 or bf16), whatever the processor supports. So a run of another machine
can be repeated, and the tests can pretend to be on one."""


def choose_precision(wanted: str, device: torch.device) -> str:
    """The precision (fp32, bf16, fp16) that a recipe means on this device; "auto" is never one that is emulated."""
    if wanted == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 needs a GPU; on a CPU use fp32, bf16 or auto")
    if wanted != "auto":
        return wanted
    forced = os.environ.get(AUTO_PRECISION, "")
    if forced not in ("", "fp32", "bf16"):
        raise ValueError(f"{AUTO_PRECISION}: expected fp32 or bf16, got {forced!r}")
    if forced and device.type in ("cpu", "cuda"):
        return forced
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this processor supports bf16 natively (AVX512-BF16 or AMX); others only emulate it."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile"))
    # torch before 2.11 has a function for each instead
    tests = [getattr(torch.cpu, name, bool) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(bool(test()) for test in tests)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """A context that runs the network in this precision; losses and boxes stay float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def compile_parts(model: nn.Module, *, dynamic: bool | None = None, mode: str | None = None) -> None:
    """Compile the backbones, pyramids and heads of `model` with torch.compile, in place.

    Not the mask heads, whose number of regions changes with every batch. `dynamic` and `mode` are torch.compile's.
    """
    for part in _parts(model):
        part.compile(dynamic=dynamic, mode=mode)


def plain_parts(model: nn.Module) -> None:
    """Undo `compile_parts`, in place."""
    for part in _parts(model):
        part._compiled_call_impl = None


def _parts(model: nn.Module) -> list[nn.Module]:
    return [
        part for name, part in model.named_modules()
        if name.rpartition(".")[2] in COMPILED_PARTS and not isinstance(part, MaskHead)
    ]  # fmt: skip
