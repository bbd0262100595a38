"""Files of `torch.save`, read without running the code they name: tensors, arrays, numbers, text and containers only.

Whatever else such a file names is not built: a stand-in takes its place (`pickles.Foreign`). Every part is compared
with its checksum as it is read, and no tensor is larger than the data that the file holds for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.reading.archives import CheckedArchive, DamagedError, checked_archive, is_archive
from boxwright.weights.pickles import ALLOWED, Call, PlainUnpickler, check_program

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SMALL = 1 << 20
"""The largest number of elements of an expanded tensor, which stores fewer than it has."""
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPES = (
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex64",
)


class _Storage(NamedTuple):
    """Numbers of one type, one after another."""

    numbers: Tensor


class _Kind(NamedTuple):
    """The type of a storage."""

    dtype: torch.dtype


def read_torch_file(path: Path) -> Any:
    """The content of a file of `torch.save`, on the CPU, with stand-ins for classes and functions unknown here.

    Raises ValueError, without the file's name, where it is no such file, damaged, or refers to data that is missing.
    """
    if not is_archive(path):
        try:
            return _read_old_file(path)
        except DamagedError:
            raise
        except ValueError as problem:
            return _read_oldest_file(path, problem)
    return read_torch_archive(path)


def read_torch_archive(source: Path | bytes) -> Any:
    """The content of an archive, which torch has written since 1.6, from a file or its bytes."""
    with checked_archive(source) as archive:
        programs = [name for name in archive.sizes if name.endswith("/data.pkl")]
        if any(name.endswith("/constants.pkl") for name in archive.sizes):
            raise ValueError("it is a TorchScript program, which is code; give the state_dict of its model")
        if len(programs) != 1:
            raise ValueError("it is an archive, but not one of torch.save")
        return _read_archive(archive, programs[0].removesuffix("data.pkl"))


def _read_archive(archive: CheckedArchive, folder: str) -> Any:
    order = f"{folder}byteorder"
    if order in archive.sizes and archive.read(order) != b"little":
        raise ValueError("it was written on a machine of another byte order")
    content = archive.read(f"{folder}data.pkl")
    storages: dict[str, _Storage] = {}

    def storage(reference: Any) -> _Storage:
        word, kind, key, _, count = reference  # its device does not matter
        name = f"{folder}data/{key}"
        if word != "storage" or not isinstance(kind, _Kind) or name not in archive.sizes:
            raise ValueError("it refers to numbers that are not in it")
        if key not in storages:
            size = archive.sizes[name]
            if size != count * kind.dtype.itemsize:
                raise ValueError(f"it has {size} bytes for {count} numbers of {kind.dtype}")
            numbers = torch.empty(size, dtype=torch.uint8)
            if size:
                archive.read_into(name, _memory(numbers))
            storages[key] = _Storage(numbers.view(kind.dtype))
        return storages[key]

    try:
        check_program(content)
        data = PlainUnpickler(BytesIO(content), _TABLE, storage).load()
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"it is damaged, or no file of torch.save ({' '.join(str(error).split())[:120]})") from error
    for name in archive.sizes:  # members that nothing refers to are compared with their checksums too
        if not name.startswith(f"{folder}data/") or name.removeprefix(f"{folder}data/") not in storages:
            archive.read(name)
    return data


def _memory(numbers: Tensor) -> memoryview:
    array: Any = numbers.numpy()
    return memoryview(array)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage as a tensor, after a check that it stays within the storage."""
    sizes = [*size, *stride, offset]
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ValueError("a tensor without its numbers")
    if not all(type(number) is int and 0 <= number < 2**48 for number in sizes):
        raise ValueError("a tensor without a size")
    count, length = 1, storage.numbers.numel()
    for side in size:
        count *= side
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True)) if count else 0
    if last >= max(length, 1) or (count and not length) or count > max(length, SMALL):
        raise ValueError("a tensor that is larger than its numbers")
    return torch.as_strided(storage.numbers, tuple(size), tuple(stride), offset)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _with_attributes(make: Any, _kind: Any, arguments: Any, _attributes: Any) -> Any:
    """A tensor that was saved with Python attributes: the tensor alone."""
    if not isinstance(make, Call):
        raise ValueError("a tensor of another kind")
    return make(*arguments)


def _size(sides: Sequence[int] = ()) -> torch.Size:
    return torch.Size(sides)


def _device(*names: Any) -> str:
    return ":".join(map(str, names))[:80]


_TABLE: dict[tuple[str, str], Any] = {
    **ALLOWED,
    **{("torch", name): _Kind(dtype) for name, dtype in _STORAGES.items()},
    **{("torch", name): getattr(torch, name) for name in _DTYPES},
    ("torch._utils", "_rebuild_tensor"): Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): Call(_parameter),
    ("torch.nn.parameter", "Parameter"): Call(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Call(_with_attributes),
    ("torch", "Size"): Call(_size),
    ("torch", "device"): Call(_device),
}


def _read_old_file(path: Path) -> Any:
    """The content of a file of torch before 1.6: pickles one after another, then the numbers of each storage."""
    storages: dict[str, _Storage] = {}
    room = path.stat().st_size

    def storage(reference: Any) -> _Storage:
        word, kind, key, _, count, *view = reference
        if word != "storage" or not isinstance(kind, _Kind) or any(view) or type(count) is not int:
            raise ValueError("it refers to numbers that are not in it")
        if key not in storages:
            if not 0 <= count * kind.dtype.itemsize <= room - sum(one.numbers.nbytes for one in storages.values()):
                raise ValueError(f"it has no room for {count} numbers of {kind.dtype}")
            storages[key] = _Storage(torch.empty(count, dtype=kind.dtype))
        return storages[key]

    with path.open("rb") as file:
        if _next(file) != _MAGIC or _next(file) != _PROTOCOL:
            raise ValueError("it is no file of torch.save, or one of before 2018")
        _next(file)  # of the machine that wrote it
        data = _next(file, storage)
        keys = _next(file)
        if not isinstance(keys, list) or set(keys) != set(storages):
            raise ValueError("it does not hold the numbers of all its tensors")
        for key in keys:
            numbers = storages[key].numbers
            content = _memory(numbers.view(torch.uint8))
            if int.from_bytes(file.read(8), "little") != numbers.numel() or file.readinto(content) != len(content):
                raise DamagedError("it is cut")
    return data


def _read_oldest_file(path: Path, problem: ValueError) -> Any:
    """The content of a file of torch before 1.0, which writes tensors in other ways, by torch's own reader."""
    try:
        with path.open("rb") as file:
            if _next(file) != _MAGIC:
                raise problem
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # on a damaged file torch raises anything from struct.error to IndexError
        raise problem from error


def _next(file: BufferedReader, outside: Any = None) -> Any:
    """The content of the next pickle of a file."""
    start = file.tell()
    try:
        check_program(file)
        end = file.tell()
        file.seek(start)
        return PlainUnpickler(BytesIO(file.read(end - start)), _TABLE, outside).load()
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"it is damaged, or no file of torch.save ({' '.join(str(error).split())[:120]})") from error
