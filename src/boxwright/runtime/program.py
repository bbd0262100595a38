"""`torch.export` programs, checked before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from boxwright.reading.archives import DamagedError
from boxwright.runtime.description import KEY, Description
from boxwright.runtime.program_check import checked_program


def load_program(path: Path, device: torch.device) -> tuple[Any, Description]:
    """The callable of a program file on a device, and its description. The operator of `ops.select` is registered."""
    import boxwright.ops.select  # noqa: F401  (the operator)

    inside = {KEY: ""}
    try:
        whole = checked_program(path)
    except DamagedError as error:
        raise DamagedError(
            f"{path} is not a torch.export program, or is damaged ({error}); export it again from its checkpoint"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is refused before it is loaded: {error}; export it again with boxwright") from error
    try:
        program = torch.export.load(whole, extra_files=inside)
    except OSError:
        raise
    except Exception as error:  # torch raises anything from AssertionError to SerializeError
        raise ValueError(
            f"{path} is not a torch.export program that this torch reads "
            f"({' '.join(str(error).split())[:120]}); export it again"
        ) from error
    description = Description.from_json(inside[KEY], path)
    if device.type != "cpu":  # constants and tensors that the graph makes itself go along; `module.to` leaves them
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    # its guards on sizes are those of the memory layout of the recorded sample
    return program.module(check_guards=False), description
