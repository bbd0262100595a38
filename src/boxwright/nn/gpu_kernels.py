"""When maps are given to kernels of our own (`*_kernels.py`), which Triton compiles for the GPU at hand.

Under autocast torch normalises groups in float32 and with channels first, and adds a bias and takes ReLU in passes of
their own: each reads and writes a whole map. Such kernels keep bf16 and channels last, and do in one pass what belongs
together. Everything has a plain way too, which is that of a CPU, of compiled networks and of exported files.
"""

from __future__ import annotations

import os
import warnings
from functools import cache

import torch
from torch import Tensor

GPU_KERNELS = "BOXWRIGHT_GPU_KERNELS"
"""Environment variable: 1 switches the kernels on. They are off until a card has shown that they are right and faster:
`python -m pytest tests/nn/test_gpu_kernels.py` and `python -m benchmarks.gpu --only kernels` on it tell."""
KINDS = (torch.float32, torch.bfloat16, torch.float16)


def takes_kernels(maps: Tensor) -> bool:
    """Whether maps (B, C, H, W) go to our kernels: on a GPU, channels last, in a network that is run as it stands."""
    return (
        maps.is_cuda
        and maps.dtype in KINDS
        and maps.numel() > 0
        and not torch.compiler.is_compiling()  # the compiler makes kernels of its own, and an export keeps operators
        and maps.is_contiguous(memory_format=torch.channels_last)
        and os.environ.get(GPU_KERNELS, "0") == "1"
        and kernels_work(maps.device)
    )


@cache
def kernels_work(device: torch.device) -> bool:
    """Whether Triton is installed and compiles for this GPU; if it is and does not, a warning says why, once."""
    try:
        from boxwright.nn.rectify_kernels import rectify_
    except ImportError:  # torch comes with Triton on Linux
        return False
    try:
        rectify_(torch.zeros(1, 1, 1, 1, device=device), None, None)
    except Exception as error:  # a card that is too old, a machine without a C compiler: Triton has many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        warnings.warn(
            f"{torch.cuda.get_device_name(device)}: kernels could not be compiled ({reason}); the network runs without "
            f"them; without {GPU_KERNELS}=1 they are not asked for",
            stacklevel=2,
        )
        return False
    return True
