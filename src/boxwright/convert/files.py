"""A file of another library becomes a recipe, classes and weights of ours; what it is, it says itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.convert import adelaidet, course, detectron2, torchvision, torchvision_rcnn, two_stage
from boxwright.convert.architecture import State
from boxwright.convert.keymap import Plan, take_weights
from boxwright.models import MODELS
from boxwright.models.config import empty_state
from boxwright.recipes import check_recipe
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


class _Family(NamedTuple):
    name: str
    recognises: Callable[[State], bool]
    plan: Callable[[State, dict[str, Any]], Plan]


FAMILIES = (
    _Family("torchvision", torchvision.recognises, torchvision.plan),
    _Family("torchvision", torchvision_rcnn.recognises, torchvision_rcnn.plan),
    _Family("detectron2", detectron2.recognises, detectron2.plan),
    _Family("detectron2", two_stage.recognises, two_stage.plan),
    _Family("adelaidet", adelaidet.recognises, adelaidet.plan),
    _Family("fcos", adelaidet.recognises_original, adelaidet.plan_original),
    _Family("course", course.recognises, course.plan),
    _Family("course", course.recognises_two_stage, course.plan_two_stage),
)


def convert_file(
    path: str | Path,
    *,
    variant: str | None = None,
    stride_in_1x1: bool | None = None,
    norm_eps: float | None = None,
    classes: Classes | None = None,
) -> Converted:
    """A checkpoint of torchvision, Detectron2, AdelaiDet, the original FCOS or the course, as ours.

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
    family, state, skipped = _detector_in(state, where)
    given = _Options(options or {})
    try:
        found = family.plan(state, given)
    except (ValueError, KeyError, IndexError, TypeError, ArithmeticError, RuntimeError) as error:
        reason = f"no entry {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ValueError(f"{where}: taken for {family.name}, but {reason}") from error
    for name, value in given.items():
        if value is not None and name not in given.read | {"file"}:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{where}: {option} says nothing of {family.name}'s {found.architecture}: leave it out")
    names = classes or found.classes
    if len(names) != len(found.classes):
        raise ValueError(f"{where}: {counted(len(found.classes), 'class')}, but {len(names)} names were given")
    recipe = check_recipe(
        {
            "name": f"{family.name}/{found.architecture}",
            "description": f"Converted from {Path(where).name} ({family.name}).",
            "model": found.model, "data": {"resize": found.resize}, "detect": found.detect,
            "schedule": {"steps": 90_000},
        },
        where,
    )  # fmt: skip
    empty = empty_state(MODELS[recipe.model.name].build, recipe.model_config_of(len(names)))
    wanted = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in empty.items()}
    for name in wanted:
        if name == "mean_positives":
            wanted[name].fill_(recipe.model.normaliser_start)
    weights, kept = take_weights(wanted, state, found.layout, where)
    check_finite(weights, where)
    origin = {"family": family.name, "architecture": found.architecture, "kept": kept}
    threshold = float(recipe.detect.score_threshold)
    return Converted(recipe, names, weights, threshold, origin, found.notes, skipped)


def _detector_in(state: State, where: str) -> tuple[_Family, State, tuple[str, ...]]:
    """The library of a detector's entries, these by its names, and what else is there.

    They may stand below a word or two of a trainer (`model.` of a LightningModule), beside what is no part of them.
    """
    parts = [("", dict(state))]
    for _ in range(4):
        found = []
        for prefix, part in parts:
            renamed = torchvision.new_names(part)
            known = next((family for family in FAMILIES if family.recognises(renamed)), None)
            if known is not None:
                found.append((known, renamed, prefix))
        if len(found) > 1:
            words = " and ".join(prefix for *_, prefix in found)
            raise ValueError(f"{where}: {len(found)} detectors, below {words}: save the one that is meant alone")
        if found:
            family, renamed, prefix = found[0]
            rest = [name for name in state if not name.startswith(prefix)]
            more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
            skipped = (f"what is not below {prefix} (", ", ".join(rest[:3]), more, ")")
            return family, renamed, ("".join(skipped),) if rest else ()
        parts = [(prefix + word, below) for prefix, part in parts for word, below in parts_of(part)]
    raise ValueError(f"{where}: {_what_instead(state)}")


def _what_instead(state: State) -> str:
    """What a file seems to be that is no detector known here."""
    if is_caffe2(state) or "stem.conv1.weight" in state or ("conv1.weight" in state and "fc.weight" in state):
        return "a classification network, no detector: give it as model.backbone_weights=FILE"
    return (
        f"no detector of torchvision, Detectron2, AdelaiDet, the original FCOS or the course: its entries are called "
        f"{', '.join(list(state)[:3])}"
    )
