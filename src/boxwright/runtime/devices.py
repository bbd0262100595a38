"""Devices by name: the one place where the text of `--device` is read."""

from __future__ import annotations

import torch

KINDS = ("cpu", "cuda", "mps")
EXPECTED = "expected auto, cpu, cuda, cuda:N or mps"


def device_called(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" is a GPU where there is one.

    Raises ValueError where the name is none, or where this machine has no such device.
    """
    chosen = parse_device(device)
    if chosen is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device}: this machine (or this torch) has no Apple GPU; use cpu or auto")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device {device}: this machine (or this torch) has no CUDA GPU; use cpu or auto")
        count = torch.cuda.device_count()
        if (chosen.index or 0) >= count:
            names = ", ".join(f"cuda:{index}" for index in range(count))
            raise ValueError(f"device {device}: there is no such GPU; this machine has {names}")
    return chosen


def parse_device(device: str | torch.device) -> torch.device | None:
    """What a name means, whether this machine has it or not; None for "auto".

    Raises ValueError where it is the name of no device that detectors run on.

    >>> parse_device("auto"), parse_device("cuda:1")
    (None, device(type='cuda', index=1))
    """
    if str(device) == "auto":
        return None
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {str(device)!r}: {EXPECTED}") from error
    if chosen.type not in KINDS:
        raise ValueError(f"device {str(device)!r}: {EXPECTED}")
    return chosen
