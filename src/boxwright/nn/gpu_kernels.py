"""When maps are given to kernels of our own (`*_kernels.py`), which Triton compiles for the GPU at hand.

Under autocast torch normalises groups in float32 and with channels first, and adds a bias and takes ReLU in passes of
their own: each reads and writes a whole map. Such kernels keep bf16 and channels last, and do in one pass what belongs
together. Everything has a plain way too, which is that of a CPU, of compiled networks and of exported files. A kernel
is used where it was tried on the card beforehand, and was right and faster there (`kernel_trial.py`).
"""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["group norm", "bias and ReLU"]

GPU_KERNELS = "BOXWRIGHT_GPU_KERNELS"
"""Environment variable: auto tries the kernels, 1 takes every one that is right, also where it is not faster;
without it torch's operators are kept, until a card has run `tests/nn/test_gpu_kernels.py`."""
IN_USE: dict[tuple[torch.device, torch.dtype], frozenset[str]] = {}
"""By device and type of the maps, the kernels in use there: those that `kernel_trial.try_kernels` chose."""


def takes_kernels(maps: Tensor, kernel: Kernel) -> bool:
    """Whether maps (B, C, H, W) go to a kernel: on a GPU, channels last, in a network that is run as it stands."""
    return (
        maps.is_cuda
        and kernel in IN_USE.get((maps.device, maps.dtype), ())
        and maps.numel() > 0
        and not torch.compiler.is_compiling()  # the compiler makes kernels of its own, and an export keeps operators
        and maps.is_contiguous(memory_format=torch.channels_last)
        and wanted() != "0"
    )


def wanted() -> str:
    """What the environment variable says: auto, 1, 0 or nothing."""
    return os.environ.get(GPU_KERNELS, "")
