"""Pickles of other libraries, read without running what they say: arrays, numbers, text and containers only.

A pickle is a program. The zoos of Detectron2 and Caffe2 are pickles of numpy arrays; whatever else a file names (a
function, a class) is refused by that name before anything of it is called.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

# numpy's own ways to come back from a pickle, wherever its version keeps them
_REBUILD: Any = np.zeros(1).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
_FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]
_ARRAY_HOMES = ("numpy.core.multiarray", "numpy._core.multiarray")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What old protocols write bytes with; other codecs than the plain ones are not needed, so not run."""
    if encoding not in ("latin1", "latin-1", "iso-8859-1", "ascii", "utf-8"):
        raise pickle.UnpicklingError(f"the codec {encoding!r}")
    return text.encode(encoding)


def _scalar(dtype: np.dtype[Any], content: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise pickle.UnpicklingError("a scalar that is a Python object")
    return _SCALAR(dtype, content.encode("latin1") if isinstance(content, str) else content)


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> Any:
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"an array of the kind {kind!r}")
    return _REBUILD(kind, shape, dtype)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(home, "_reconstruct"): _reconstruct for home in _ARRAY_HOMES},
    **{(home, "scalar"): _scalar for home in _ARRAY_HOMES},
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    **{(home, name): builtin for home in ("builtins", "__builtin__")
       for name, builtin in (("set", set), ("frozenset", frozenset), ("bytearray", bytearray), ("complex", complex))},
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Gives what the table holds, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"a reference to something outside of the file ({str(pid)[:60]})")


def read_pickle(path: str | Path) -> Any:
    """The content of a pickle that holds plain data; ValueError, naming it, where it holds anything else."""
    path = Path(path)
    with path.open("rb") as file:
        return _checked(file, path)


def _checked(file: IO[bytes], path: Path) -> Any:
    make: Callable[..., Any] = _Unpickler
    try:
        return make(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused: this pickle asks for {error}; only arrays, numbers, text and containers are read"
        ) from error
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"{path}: not a pickle of plain data, or damaged ({str(error)[:120]})") from error
