"""Pickles of other libraries, read without running the code they name: arrays, numbers, text and containers only.

A pickle is a program. The zoos of Detectron2 and Caffe2 are pickles of numpy arrays; whatever else a file names (a
function, a class) is not imported: a stand-in takes its place, which remembers the name and does nothing.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

# numpy's own functions for reading its pickles, whichever module its version keeps them in
_REBUILD: Any = np.zeros(1).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
_FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]
_ARRAY_HOMES = ("numpy.core.multiarray", "numpy._core.multiarray")
DEEPEST = 200
_INTO_CONTAINER = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}


class Foreign:
    """Stand-in for an object of an unknown class or function, which was neither built nor called."""

    called = ""

    def __new__(cls, *_: Any, **__: Any) -> Foreign:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


def foreign_class(module: str, name: str) -> type[Foreign]:
    """A stand-in for a class or function, by its name."""
    return type("Foreign", (Foreign,), {"called": f"{module}.{name}"[:120]})


def name_of_foreign(value: Any) -> str | None:
    """The name of what a stand-in, or the class of one, stands for; None for anything else."""
    if isinstance(value, Foreign):
        return value.called
    return value.called if isinstance(value, type) and issubclass(value, Foreign) else None


def foreign_names(data: Any) -> list[str]:
    """The names of what the stand-ins anywhere in plain data stand for, each once."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    todo = [data]
    while todo:
        value = todo.pop()
        if (called := name_of_foreign(value)) is not None:
            found[called] = None
        elif isinstance(value, (Mapping, list, tuple, set, frozenset)) and id(value) not in seen:
            seen.add(id(value))
            inside = [*value, *value.values()] if isinstance(value, Mapping) else [*value]
            todo.extend(reversed(inside))
    return list(found)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How old protocols write bytes; only plain codecs are needed, so no others are run."""
    if encoding not in ("latin1", "latin-1", "iso-8859-1", "ascii", "utf-8"):
        raise pickle.UnpicklingError(f"the codec {encoding!r}")
    return text.encode(encoding)


def _scalar(dtype: np.dtype[Any], content: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise pickle.UnpicklingError("a scalar that is a Python object")
    content = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(content, bytes) or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError("a scalar of another size than its type")
    return _SCALAR(dtype, content)


class Call:
    """A function that a pickle may call but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a change of a function")


def _no_array(*_: Any) -> Any:
    raise pickle.UnpicklingError("an array of any size")


_ARRAY = Call(_no_array)
"""Stands for numpy's array class, which could be called with any size."""


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> Any:
    if kind is not _ARRAY:
        raise pickle.UnpicklingError(f"an array of the kind {str(kind)[:80]!r}")
    if not isinstance(shape, tuple) or math.prod(shape) != 0:  # it is filled later, with as much as the file holds
        raise pickle.UnpicklingError("an array that is larger than the file")
    return _REBUILD(np.ndarray, shape, dtype)


def _bytearray(content: Any = b"", encoding: str = "latin1") -> bytearray:
    return bytearray(_encode(content, encoding) if isinstance(content, str) else bytes(memoryview(content)))


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): Call(_encode),
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): np.dtype,
    **{(home, "_reconstruct"): Call(_reconstruct) for home in _ARRAY_HOMES},
    **{(home, "scalar"): Call(_scalar) for home in _ARRAY_HOMES},
    ("numpy.core.numeric", "_frombuffer"): Call(_FROM_BUFFER),
    ("numpy._core.numeric", "_frombuffer"): Call(_FROM_BUFFER),
    **{
        (home, name): builtin
        for home in ("builtins", "__builtin__")
        for name, builtin in (
            ("set", set),
            ("frozenset", frozenset),
            ("bytearray", Call(_bytearray)),
            ("complex", complex),
        )
    },
}
"""All that may be called while a pickle is read, by the module and name that stand in the file."""


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that finds names in a table only, and gives a stand-in for every other name."""

    def __init__(
        self,
        file: IO[bytes],
        allowed: Mapping[tuple[str, str], Any] = ALLOWED,
        outside: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.allowed, self.outside = allowed, outside

    def find_class(self, module: str, name: str) -> Any:
        known = self.allowed.get((module, name))
        return foreign_class(module, name) if known is None else known

    def persistent_load(self, pid: Any) -> Any:
        if self.outside is not None:
            return self.outside(pid)
        raise pickle.UnpicklingError(f"a reference to something outside of the file ({str(pid)[:60]})")


def read_pickle(path: str | Path, *, skip_foreign: bool = False) -> Any:
    """The content of a pickle that holds plain data.

    With `skip_foreign`, stand-ins (`Foreign`) replace other objects; without it, ValueError names the first of them.
    """
    path = Path(path)
    make: Callable[..., Any] = PlainUnpickler
    try:
        with path.open("rb") as file:
            check_program(file)
            file.seek(0)
            data = make(file).load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused: this pickle asks for {error}; only arrays, numbers, text and containers are read"
        ) from error
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"{path}: not a pickle of plain data, or damaged ({str(error)[:120]})") from error
    if not skip_foreign and (names := foreign_names(data)):
        raise ValueError(
            f"{path}: refused: this pickle asks for {names[0]}; only arrays, numbers, text and containers are read"
        )
    return data


def check_program(file: IO[bytes] | bytes) -> None:
    """Raise ValueError where a pickle is nested too deeply, or numbers its parts so that memory would run out."""
    stack: list[int] = []  # how deep each value is nested
    marks: list[int] = []
    memo: dict[int, int] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(io.BytesIO(file) if isinstance(file, bytes) else file):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if name == "MEMOIZE" else argument
            if not 0 <= index <= 4 * len(memo) + 1000:  # a table of this length would be made
                raise ValueError("its parts are numbered without order")
            memo[index] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            _step(opcode, stack, marks)


def _step(opcode: Any, stack: list[int], marks: list[int]) -> None:
    """Apply one instruction to the stack of nesting depths: remove its operands, push the depth of its result."""
    before, after = opcode.stack_before, opcode.stack_after
    start = marks.pop() if pickletools.markobject in before else len(stack)
    start -= before.index(pickletools.markobject) if pickletools.markobject in before else len(before)
    if start < 0:
        raise ValueError("it takes what is not there")
    taken = stack[start:]
    del stack[start:]
    if opcode.name in _INTO_CONTAINER:
        stack.append(max(taken[0], 1 + max(taken[1:], default=0)))
    elif after:
        stack.extend([1 + max(taken, default=0)] * len(after))
    if stack and stack[-1] > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
