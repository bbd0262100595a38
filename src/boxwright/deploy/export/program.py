"""`torch.export` programs: a detector as a graph that torch of this version or newer loads."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch.export import ExportedProgram

from boxwright.runtime.description import KEY, Description
from boxwright.writing import writing


def write_program(program: ExportedProgram, path: Path, description: Description) -> None:
    """Write a recorded detector and its description."""
    whole = io.BytesIO()  # where the disk is full, torch's own writer would abort the process
    torch.export.save(program, whole, extra_files={KEY: description.to_json()})
    with writing(path):
        path.write_bytes(whole.getbuffer())
