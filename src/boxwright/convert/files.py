"""A file of another library becomes a recipe, classes and weights of ours; what it is, it says itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from boxwright.convert import (
    adelaidet,
    course,
    course_two_stage,
    detectron2,
    mmdetection,
    mmdetection_rcnn,
    original_fcos,
    semantic,
    torchvision,
    torchvision_rcnn,
    two_stage,
)
from boxwright.convert.architecture import State
from boxwright.convert.keymap import Plan, take_weights
from boxwright.models import MODELS
from boxwright.models.detection import empty_state
from boxwright.recipes import check_recipe, dump_recipe
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes
from boxwright.weights.backbone_files import is_caffe2, read_tensors
from boxwright.weights.state_dicts import check_finite, foreign_parts, parts_of, state_of
from boxwright.wording import counted


class Converted(NamedTuple):
    """A foreign checkpoint as ours; `origin` says where it came from, with what is kept for the way back.

    `skipped` names what stood beside the weights and was not built, or belongs to no detector.
    """

    recipe: Recipe
    classes: Classes
    weights: dict[str, Tensor]
    score_threshold: float
    origin: dict[str, Any]
    notes: tuple[str, ...]
    skipped: tuple[str, ...] = ()


class _Options(dict[str, Any]):
    """Options by name, which remember which of them were asked for."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


class Family(Protocol):
    """What a module for one kind of foreign file has: how it is known, and what it holds."""

    def recognises(self, state: State) -> bool:
        """Whether the names of the entries are those of this kind."""

    def plan(self, state: State, options: dict[str, Any]) -> Plan:
        """What a file holds; the options say what it does not (`variant`, `stride_in_1x1`, `norm_eps`), its name
        (`file`) and what stands beside its weights (`meta`).
        """


class _Known(NamedTuple):
    name: str
    family: Family


FAMILIES: tuple[_Known, ...] = (
    _Known("torchvision", torchvision),
    _Known("torchvision", torchvision_rcnn),
    _Known("detectron2", detectron2),
    _Known("detectron2", two_stage),
    _Known("detectron2", semantic),
    _Known("adelaidet", adelaidet),
    _Known("fcos", original_fcos),
    _Known("mmdetection", mmdetection),
    _Known("mmdetection", mmdetection_rcnn),
    _Known("course", course),
    _Known("course", course_two_stage),
)
"""By the names that stand in recipes and checkpoints."""


def convert_file(
    path: str | Path,
    *,
    variant: str | None = None,
    stride_in_1x1: bool | None = None,
    norm_eps: float | None = None,
    classes: Classes | None = None,
) -> Converted:
    """A checkpoint of torchvision, Detectron2, AdelaiDet, MMDetection, the original FCOS or the course, as ours.

    Args:
        path: `.pth`, `.pt`, `.pkl` or `.safetensors`.
        variant: where the file does not say it: "baseline" or "improved" of the original FCOS, "001" or "003".
        stride_in_1x1, norm_eps: of the backbone, where they are not as usual in that library.
        classes: names of the classes, which few files hold.

    Raises FileNotFoundError, or ValueError where the file is of no known kind, or where any entry of it is missing or
    left over: a detector that is nearly right is wrong.
    """
    path = Path(path)
    options = {
        "variant": variant, "stride_in_1x1": stride_in_1x1, "norm_eps": norm_eps, "file": path.name
    }  # fmt: skip
    data = read_tensors(path)
    options["meta"] = data.get("meta")
    try:
        state = state_of(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found = convert_state(state, str(path), options, classes)
    return found._replace(skipped=(*foreign_parts(data), *found.skipped))


def convert_state(
    state: State, where: str, options: dict[str, Any] | None = None, classes: Classes | None = None
) -> Converted:
    """The same for a state dict; `where` names it in messages."""
    if not state:
        raise ValueError(f"{where}: holds no tensors by name; is it a state dict?")
    library, family, state, skipped = _detector_in(state, where)
    given = _Options(options or {})
    try:
        found = family.plan(state, given)
    except (ValueError, KeyError, IndexError, TypeError, ArithmeticError, RuntimeError) as error:
        reason = f"no entry {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ValueError(f"{where}: taken for {library}, but {reason}") from error
    for name, value in given.items():
        if value is not None and name not in given.read | {"file", "meta"}:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{where}: {option} says nothing of {library}'s {found.architecture}: leave it out")
    names = classes or found.classes
    if len(names) != len(found.classes):
        raise ValueError(f"{where}: {counted(len(found.classes), 'class')}, but {len(names)} names were given")
    recipe = check_recipe(
        {
            "name": f"{library}/{found.architecture}",
            "description": f"Converted from {Path(where).name} ({library}).",
            "model": found.model, "data": {"resize": found.resize}, "detect": found.detect,
            "schedule": {"steps": 90_000},
        },
        where,
    )  # fmt: skip
    empty = empty_state(MODELS[recipe.model.name].build, recipe.model, len(names))
    wanted = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in empty.items()}
    for name in wanted:
        if name == "mean_positives":
            wanted[name].fill_(dump_recipe(recipe)["model"]["loss"]["normaliser_start"])
    weights, kept = take_weights(wanted, state, found.layout, where)
    check_finite(weights, where)
    origin = {"family": library, "architecture": found.architecture, "kept": kept}
    threshold = float(recipe.detect.score_threshold)
    return Converted(recipe, names, weights, threshold, origin, found.notes, skipped)


def _detector_in(state: State, where: str) -> tuple[str, Family, State, tuple[str, ...]]:
    """The library of a detector's entries, these by its names, and what else is there.

    They may stand below a word or two of a trainer (`model.` of a LightningModule), beside what is no part of them.
    """
    parts = [("", dict(state))]
    for _ in range(4):
        found = []
        for prefix, part in parts:
            renamed = torchvision.new_names(part)
            known = next((pair for pair in FAMILIES if pair.family.recognises(renamed)), None)
            if known is not None:
                found.append((*known, renamed, prefix))
        if len(found) > 1:
            words = " and ".join(prefix for *_, prefix in found)
            raise ValueError(f"{where}: {len(found)} detectors, below {words}: save the one that is meant alone")
        if found:
            library, family, renamed, prefix = found[0]
            rest = [name for name in state if not name.startswith(prefix)]
            more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
            skipped = (f"what is not below {prefix} (", ", ".join(rest[:3]), more, ")")
            return library, family, renamed, ("".join(skipped),) if rest else ()
        parts = [(prefix + word, below) for prefix, part in parts for word, below in parts_of(part)]
    raise ValueError(f"{where}: {_what_instead(state)}")


def _what_instead(state: State) -> str:
    """What a file seems to be that is no detector known here."""
    if is_caffe2(state) or "stem.conv1.weight" in state or ("conv1.weight" in state and "fc.weight" in state):
        return "a classification network, no detector: give it as model.backbone.weights=FILE"
    return (
        "no detector of torchvision, Detectron2, AdelaiDet, MMDetection, the original FCOS or the course: its entries "
        f"are called {', '.join(list(state)[:3])}"
    )
