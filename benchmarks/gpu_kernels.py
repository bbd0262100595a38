"""Rows of `benchmarks.gpu` that compare our kernels (`nn/gpu_kernels.py`) with torch's operators, the peer here.

First what each kernel did when it was tried, then towers and a detector with those kernels that are used for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_inference import SETTINGS, _engine, _pixels
from benchmarks.gpu_setting import Figure, Setting
from benchmarks.turns import in_turn
from boxwright.nn.gpu_kernels import GPU_KERNELS
from boxwright.nn.kernel_layers import use_kernels
from boxwright.nn.kernel_trial import LARGE, SMALL, tried, try_kernels
from boxwright.nn.towers import conv_tower
from boxwright.runtime.precision import DTYPES, autocast, choose_precision
from boxwright.structures import ImageBatch


def _both(work: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Seconds with our kernels, as they are used, and without them."""
    before = os.environ.get(GPU_KERNELS)

    def without() -> None:
        os.environ[GPU_KERNELS] = "0"
        try:
            work()
        finally:
            del os.environ[GPU_KERNELS]
            if before is not None:
                os.environ[GPU_KERNELS] = before

    times = in_turn({"ours": work, "torch": without}, rounds)
    return times["ours"], times["torch"]


def _row(what: str, seconds: tuple[float, float]) -> Figure:
    ours, peer = seconds
    return Figure(
        f"{what}, torch's operators = 1", f"{ours * 1000:.2f} ms", f"{peer * 1000:.2f} ms", f"{peer / ours:.2f}"
    )


def _tower(setting: Setting, norm: Any) -> tuple[nn.Module, Tensor]:
    """Four convolutions of 256 channels, and the map of stride 8 of a batch of 16."""
    width, (height, wide) = setting.large(256, 16), setting.size_hw
    tower = conv_tower(width, [width] * 4, norm).to(setting.device, memory_format=torch.channels_last)
    use_kernels(tower)
    maps = torch.randn(setting.large(16, 2), width, height // 8, wide // 8, device=setting.device)
    return tower, maps.to(memory_format=torch.channels_last)


def kernels(setting: Setting) -> Sequence[Figure]:
    """Towers with group norm and without a norm, forwards and learning, and FCOS R50-FPN operation by operation."""
    rounds, precision = setting.large(15, 1), choose_precision("auto", setting.device)
    dtype = DTYPES.get(precision, torch.float32)
    before = os.environ.get(GPU_KERNELS)
    os.environ[GPU_KERNELS] = before or "auto"  # they are off unless asked for
    try:
        return _rows(setting, rounds, precision, dtype)
    finally:
        del os.environ[GPU_KERNELS]
        if before is not None:
            os.environ[GPU_KERNELS] = before


def _rows(setting: Setting, rounds: int, precision: str, dtype: torch.dtype) -> Sequence[Figure]:
    """Trials, towers and a detector, with the kernels that are used for it."""
    used = try_kernels(setting.device, dtype)
    state = ", ".join(sorted(used)) or "none"
    found = []
    for trial in (
        tried(setting.device, dtype, large=SMALL if setting.tiny else LARGE) if setting.device.type == "cuda" else []
    ):
        title = f"{trial.kernel}, {precision}, forwards and backwards, torch's operators = 1"
        found.append(Figure(title, f"difference {trial.difference:.1e}", ratio=f"{trial.gain:.2f}"))
    for norm in ("gn", "none"):
        tower, maps = _tower(setting, norm)

        def learn(tower: nn.Module = tower, maps: Tensor = maps) -> None:
            tower.zero_grad()
            with autocast(setting.device, precision):
                out = tower(maps)
            out.float().sum().backward()

        @torch.inference_mode()
        def infer(tower: nn.Module = tower, maps: Tensor = maps) -> None:
            with autocast(setting.device, precision):
                tower(maps)

        title = f"tower of 4 convolutions, norm {norm}, {precision} (kernels: {state})"
        found += [_row(f"{title}, inference", _both(infer, rounds)), _row(f"{title}, learning", _both(learn, rounds))]
    engine, images = _engine(setting, graphs=False), ImageBatch.of(list(_pixels(setting, setting.large(16, 2))))
    images = images.to(setting.device)
    seconds = _both(lambda: engine(images, SETTINGS), setting.large(7, 1))
    return [*found, _row("FCOS R50-FPN batch 16, operation by operation", seconds)]
