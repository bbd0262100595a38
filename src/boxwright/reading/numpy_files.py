"""NumPy archives (`.npz`): arrays no larger than the data that the file holds, each as it was written."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxwright.reading.archives import checked_archive


def check_arrays(path: Path, names: Sequence[str]) -> None:
    """Check every array of an archive before one is built.

    Raises DamagedError where one is damaged, ValueError where one is missing or its header does not fit its data. Both
    messages give the reason only, without the file's name.
    """
    with checked_archive(path) as archive:
        for name in names:
            if f"{name}.npy" not in archive.sizes:
                raise ValueError(f"it has no array {name}")
        for member in archive.sizes:
            content = archive.read(member)
            if member.removesuffix(".npy") in names:
                _check_header(content, member)


def _check_header(content: bytes, name: str) -> None:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():  # of headers by Python 2
        warnings.simplefilter("ignore")
        shape, _, dtype = read(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"{name} is not of the length that its header says")
