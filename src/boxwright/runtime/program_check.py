"""Checks of a `torch.export` program: plain weights, known operators and arithmetic of sizes only, no code.

Torch unpickles weights that are marked as pickles, evaluates the text of every size, looks up operators by any path
below its own modules, and imports what a description of arguments names. So torch only gets what was checked here: each
member is read, checked, and written into a new archive.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from boxwright.reading.archives import checked_archive
from boxwright.weights.pickles import foreign_names
from boxwright.weights.torch_files import read_torch_archive

_MEMBERS = re.compile(
    r"(archive_format|archive_version|version|byteorder|\.data/\w+|(serialized_\w+|models/model)\.(json|pt)"
    r"|data/(weights|constants)/((weight|tensor)_\d+|model(_weights|_constants)?(_config\.json|\.pt))"
    r"|data/sample_inputs/model\.pt|extra(_files)?/\w+)"
)
_NAMESPACES = ("aten", "prims", "torchvision", "boxwright")
_FILE_OPERATORS = {"from_file", "save", "load"}
_PLAIN_OPERATORS = {
    *(
        f"_operator.{name}"
        for name in (
            "add",
            "sub",
            "mul",
            "floordiv",
            "truediv",
            "mod",
            "neg",
            "pos",
            "eq",
            "ne",
            "le",
            "ge",
            "lt",
            "gt",
            "and_",
            "or_",
            "not_",
            "getitem",
        )
    ),
    *(f"torch.sym_{name}" for name in ("not", "int", "float", "ite", "max", "min", "sqrt", "sum")),
    "math.trunc",
    "math.ceil",
    "math.floor",
}
_SIZE_FUNCTIONS = {
    "Add",
    "Mul",
    "Integer",
    "Rational",
    "Float",
    "Symbol",
    "Min",
    "Max",
    "FloorDiv",
    "CeilDiv",
    "CleanDiv",
    "Mod",
    "PythonMod",
    "ModularIndexing",
    "Where",
    "Identity",
    "IntTrueDiv",
    "FloatTrueDiv",
    "ToFloat",
    "TruncToInt",
    "TruncToFloat",
    "CeilToInt",
    "FloorToInt",
    "RoundToInt",
    "Eq",
    "Ne",
    "Equality",
    "Unequality",
    "StrictLessThan",
    "LessThan",
    "StrictGreaterThan",
    "GreaterThan",
    "And",
    "Or",
    "Not",
    "IsNonOverlappingAndDenseIndicator",
}
_SIZE_NODES = (
    ast.Expression,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.keyword,
    ast.Constant,
    ast.UnaryOp,
    ast.USub,
    ast.UAdd,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.FloorDiv,
    ast.Div,
    ast.Mod,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.Lt,
    ast.LtE,
    ast.Gt,
    ast.GtE,
)
_SYMBOL = re.compile(r"[szuf]+\d{1,6}")
_LONGEST_SIZE = 20_000
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def checked_program(path: Path) -> io.BytesIO:
    """The archive of a program for torch to read. Raises ValueError, without its name, for anything else in it."""
    whole = io.BytesIO()
    with checked_archive(path) as archive, zipfile.ZipFile(whole, "w") as new:
        for name in archive.sizes:
            inner = name.partition("/")[2] if "/" in name and not name.startswith("extra_files/") else name
            if not _MEMBERS.fullmatch(inner):
                raise ValueError(f"it holds {name[:80]!r}, which is no part of a plain program")
            content = archive.read(name)
            if inner.endswith(".pt"):
                content = _plain_tensors(content, name)
            elif inner.endswith("_config.json"):
                _check_payloads(_parsed(content, name))
            elif inner.endswith(".json"):
                content = json.dumps(_checked_graph(_parsed(content, name))).encode()
            new.writestr(name, content)
    whole.seek(0)
    return whole


def _plain_tensors(content: bytes, name: str) -> bytes:
    """The content of a member of `torch.save`, written anew; ValueError where it names more than tensors."""
    if not content:
        return content
    data = read_torch_archive(content)
    if names := foreign_names(data):
        raise ValueError(f"its {name[:80]} asks for {names[0]}")
    again = io.BytesIO()
    torch.save(data, again)
    return again.getvalue()


def _parsed(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {name[:80]} is no JSON") from error


def _check_payloads(data: Any) -> None:
    """Refuse lists of weights or constants with anything that torch would unpickle."""
    config = data.get("config") if isinstance(data, dict) else None
    if not isinstance(config, dict):
        raise ValueError("its list of weights is not what is written there")
    for name, entry in config.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise ValueError(f"its weight {name[:80]} is a pickle, which could run code")
        if not re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name"))):
            raise ValueError(f"its {name[:80]} is no plain tensor")


def _checked_graph(program: Any) -> Any:
    """A program without what torch would evaluate and is not needed; ValueError where something else could run."""
    if not isinstance(program, dict):
        raise ValueError("it describes no program")
    if "guards_code" in program:
        program["guards_code"] = []  # conditions as Python text, which are not asked for
    for part in _dicts(program):
        if isinstance(part.get("metadata"), dict):
            part["metadata"] = {}  # where each step came from, by names that torch looks up
        for key, value in part.items():
            if key == "expr_str":
                _check_size(value)
            elif (key == "target" and "inputs" in part) or key == "as_operator":
                _check_operator(value)
            elif key in ("in_spec", "out_spec"):
                _check_containers(value)
            elif key in ("custom_obj", "as_custom_obj", "treespec_namedtuple_fields") and value:
                raise ValueError(f"it has {key}, which is no plain tensor")
    return program


def _dicts(data: Any) -> Iterator[dict[str, Any]]:
    todo = [data]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            yield value
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)


def _check_operator(name: Any) -> None:
    """Refuse what is no operator on tensors or sizes, or reads or writes files."""
    if name in _PLAIN_OPERATORS:
        return
    found = re.fullmatch(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", name) if isinstance(name, str) else None
    if found and found[1] in _NAMESPACES and found[2] not in _FILE_OPERATORS:
        packet: Any = getattr(getattr(torch.ops, found[1]), found[2], None)
        if packet is None:
            raise ValueError(f"this torch has no operator {name[:80]}")
        overloads: Any = packet.overloads if isinstance(packet, torch._ops.OpOverloadPacket) else tuple
        if found[3] in overloads():
            return
    raise ValueError(f"it asks for {str(name)[:80]!r}, which is no operator of a detector")


def _check_size(text: Any) -> None:
    """Refuse a size that is not written with numbers, symbols and arithmetic only: torch evaluates it as Python."""
    try:
        if not isinstance(text, str) or len(text) > _LONGEST_SIZE:
            raise ValueError("too long")
        for node in ast.walk(ast.parse(text, mode="eval")):
            good = isinstance(node, _SIZE_NODES)
            if isinstance(node, ast.Call):
                good = isinstance(node.func, ast.Name) and node.func.id in _SIZE_FUNCTIONS
            elif isinstance(node, ast.Name):
                good = node.id in _SIZE_FUNCTIONS or _SYMBOL.fullmatch(node.id) is not None
            elif isinstance(node, ast.keyword):
                good = node.arg in ("positive", "integer", "nonnegative", "evaluate")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                good = (
                    _SYMBOL.fullmatch(node.value) is not None or re.fullmatch(r"-?[\d.]{1,20}", node.value) is not None
                )
            elif isinstance(node, ast.Constant):
                good = node.value in (True, False) or (isinstance(node.value, (int, float)) and abs(node.value) < 2**64)
            if not good:
                raise ValueError(type(node).__name__)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"it has a size {str(text)[:60]!r}, which is no plain arithmetic") from error


def _check_containers(text: Any) -> None:
    """Refuse arguments or results in other containers than Python's own: torch imports what is named."""
    if text in (None, ""):
        return
    try:
        data = json.loads(text)
        for part in _dicts(data):
            keys = json.loads(part["context"]) if part["context"] else None
            plain = keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys))
            if set(part) != {"type", "context", "children_spec"} or part["type"] not in _CONTAINERS or not plain:
                raise ValueError(str(part["type"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"its arguments are no plain containers ({str(error)[:60]})") from error
