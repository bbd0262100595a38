"""The config that stands as text in a checkpoint of MMDetection: read, and never executed.

mmengine writes it as Python: assignments of dicts, lists, text and numbers, a dict as `dict(key=value)`. It is parsed
into a syntax tree, of which only such literals are taken; whatever else is written there is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

LONGEST = 400_000
DEEPEST = 60
"""Brackets within brackets: Python's parser would need too much stack for far more."""


class _NoLiteralError(Exception):
    """Something that is no literal."""


def read_config(meta: Any) -> dict[str, Any]:
    r"""The settings of a checkpoint's `meta` by name: of `cfg` (mmengine) or `config` (2.x); none where it has neither.

    >>> read_config({"cfg": "model = dict(type='FCOS', strides=[8, 16])\nlr = compute()"})
    {'model': {'type': 'FCOS', 'strides': [8, 16]}}
    """
    if not isinstance(meta, Mapping):
        return {}
    text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")
    if len(text) > LONGEST or _depth(text) > DEEPEST:
        return {}
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        target = statement.targets[0]
        if isinstance(target, ast.Name):
            try:
                found[target.id] = _literal(statement.value)
            except _NoLiteralError:
                continue
    return found


def class_names(meta: Any) -> tuple[str, ...] | None:
    """The names of its classes, in order: `dataset_meta.classes` (mmengine, also in capitals) or `CLASSES` (2.x)."""
    if not isinstance(meta, Mapping):
        return None
    dataset = meta.get("dataset_meta")
    places = [dataset, meta] if isinstance(dataset, Mapping) else [meta]
    for place in places:
        for key in ("classes", "CLASSES"):
            names = place.get(key)
            if isinstance(names, str):
                return (names,)
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return None


def at(config: Any, *keys: str, default: Any = None) -> Any:
    """The value below these keys, or the default where there is none.

    >>> at({"nms": {"iou_threshold": 0.5}}, "nms", "iou_threshold"), at({}, "nms", "type", default="nms")
    (0.5, 'nms')
    """
    for key in keys:
        if not isinstance(config, Mapping) or key not in config:
            return default
        config = config[key]
    return default if config is None else config


def kind_of(section: Any) -> str:
    """The class that a section names, without its module.

    >>> kind_of({"type": "mmdet.models.FCOSHead"})
    'FCOSHead'
    """
    return str(at(section, "type", default="")).rpartition(".")[2]


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List):
        return [_literal(part) for part in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(part) for part in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        if isinstance(value, int | float):
            return -value
    if isinstance(node, ast.Dict):
        return _pairs([(None if key is None else _literal(key), value) for key, value in _items(node)])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        whole: dict[str, Any] = {}
        for part in node.args:
            inner = _literal(part)
            if isinstance(inner, dict):
                whole |= inner
        return whole | _pairs([(word.arg, word.value) for word in node.keywords])
    raise _NoLiteralError


def _items(node: ast.Dict) -> list[tuple[ast.expr | None, ast.expr]]:
    return list(zip(node.keys, node.values, strict=True))


def _pairs(pairs: list[tuple[Any, ast.expr]]) -> dict[str, Any]:
    """Those whose key is text and whose value is a literal."""
    found = {}
    for key, value in pairs:
        if isinstance(key, str):
            try:
                found[key] = _literal(value)
            except _NoLiteralError:
                continue
    return found


def _depth(text: str) -> int:
    """How deep its brackets go; those within strings count too."""
    depth = deepest = 0
    for letter in text:
        if letter in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in ")]}":
            depth -= 1
    return deepest
