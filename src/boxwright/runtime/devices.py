"""Devices by name."""

from __future__ import annotations

import torch


def device_called(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" is a GPU where there is one. Raises ValueError where this machine has no such."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: expected auto, cpu, cuda, cuda:N or mps") from error
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {device!r}: expected auto, cpu, cuda, cuda:N or mps")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device}: this machine (or this torch) has no Apple GPU; use cpu or auto")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this machine (or this torch) has no CUDA GPU; use cpu or auto")
    return chosen
