"""Safetensors files, whose header is checked before any tensor is built."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST_HEADER = 32 << 20
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def read_safetensors(path: Path) -> Mapping[str, Any]:
    """The tensors of a file by name. Raises ValueError where its header does not fit its data."""
    from safetensors.torch import load_file

    try:
        _check_header(path)
        return dict(load_file(path))
    except OSError:
        raise
    except Exception as error:  # the library's own error, and any other that a damaged header causes
        text = " ".join(str(error).split())[:160]
        raise ValueError(f"{path}: not a safetensors file, or damaged ({text})") from error


def _check_header(path: Path) -> None:
    """Compare every entry of the header with the length of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ValueError(f"its header would be {length} bytes long, the file has {size}")
        header = json.loads(file.read(length), object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise ValueError("its header does not name tensors")
    taken = 0
    for name, entry in header.items():
        if name != "__metadata__":
            taken += _length(name, entry, size - 8 - length)
    if taken != size - 8 - length:
        raise ValueError(f"its header names {taken} bytes, {size - 8 - length} are there")


def _length(name: str, entry: Any, room: int) -> int:
    """The number of bytes of an entry, which must fit its shape and lie within the file."""
    if not isinstance(entry, dict) or entry.get("dtype") not in _BYTES:
        raise ValueError(f"{name[:80]}: a type that is not read")
    shape: Any = entry.get("shape")
    place: Any = entry.get("data_offsets")
    whole = isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)
    if not whole or not isinstance(place, list) or len(place) != 2 or not all(type(end) is int for end in place):
        raise ValueError(f"{name[:80]}: no shape, or no place")
    begin, end = place
    count = _BYTES[entry["dtype"]]
    for side in shape:
        count *= side
    if not 0 <= begin <= end <= room or end - begin != count:
        raise ValueError(f"{name[:80]}: bytes {begin} to {end} are not {count} within the file")
    return count


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names one thing twice")
    return found
