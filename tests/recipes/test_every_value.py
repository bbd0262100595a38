"""Every value that a recipe's fields can take by name is trained with: two steps, from files to a report."""

from __future__ import annotations

import itertools
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.inference.predictor import Detector
from boxwright.models import MODELS
from boxwright.recipes import load_recipe
from boxwright.training.run import train

pytestmark = pytest.mark.usefixtures("without_charts")

TINY = (
    "model.backbone.weights=null", "model.fpn.channels=16", "data.batch_size=2", "data.workers=0",
    "optim.reference_batch=2", "schedule.steps=2", "validation.times=1", "optim.lr=0.0001",
)  # fmt: skip
SIZES = {"short_side": ("data.resize.size=48", "data.resize.max_size=96"), "none": (),
         "centre_crop": ("data.resize.size=48",),
         "letterbox": ("data.resize.height=48", "data.resize.width=64"),
         "fixed": ("data.resize.height=48", "data.resize.width=64")}  # fmt: skip
RECIPES = {"fcos": "fcos-small", "retinanet": "retinanet-small", "rpn": "rpn-small", "faster_rcnn": "faster-rcnn-small",
           "mask_rcnn": "mask-rcnn-small", "fcos_mask": "fcos-mask-small",
           "keypoint_rcnn": "keypoint-rcnn-shapes", "semantic_fpn": "semantic-fpn-small",
           "panoptic_fpn": "panoptic-fpn-small", "rotated_faster_rcnn": "rotated-faster-rcnn-small"}  # fmt: skip
LAYOUTS = {"semantic-fpn-small": "panoptic", "panoptic-fpn-small": "panoptic", "rotated-faster-rcnn-small": "dota"}
"""Of the data of a recipe; COCO's for any other."""
NOT_HERE = {
    "precision": ("fp16",),  # needs a GPU; tests/training/test_fp16.py
    "norm": ("sync_bn",), "stem_norm": ("sync_bn",),
    "compat": ("torchvision", "detectron2", "adelaidet", "mmdetection"),  # not of small ones; test_compat.py
    "speed": ("graphs", "compiled"),  # needs a GPU, and minutes; tests/training/test_speed.py
}  # fmt: skip
"""Values that a single process on a CPU refuses, or needs long for."""


def literals(annotation: Any) -> list[Any]:
    """The values of a type that are written out."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [value for part in get_args(annotation) for value in literals(part)]
    return []


def fields_of(section: type[Any]) -> dict[str, Any]:
    """The type of each field of a section."""
    if issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items() if name != "model"}
    return get_type_hints(section)


def named_values(section: type[Any], prefix: str = "") -> dict[str, list[Any]]:
    """Each field below a section that takes named values, with all of them."""
    found: dict[str, list[Any]] = {}
    for name, annotation in fields_of(section).items():
        if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
            found |= named_values(annotation, f"{prefix}{name}.")
        elif name not in ("name", "version"):
            values = [value for value in literals(annotation) if value not in NOT_HERE.get(name, ())]
            if prefix == "data." and bool in get_args(annotation):
                values = [None, False, True]
            if len(values) > 1:
                found[prefix + name] = values
    return found


def settings_of(recipe: str) -> list[dict[str, Any]]:
    """As few settings as have every value once, each with as many other values as there are fields."""
    loaded = load_recipe(recipe)
    fields = named_values(type(loaded.model), "model.")
    if recipe == "fcos-small":
        fields |= named_values(type(loaded))
    columns = itertools.zip_longest(*fields.values())
    return [
        {name: value for name, value in zip(fields, column, strict=True) if value is not None} for column in columns
    ]


CASES = [
    (recipe, number, settings) for recipe in RECIPES.values() for number, settings in enumerate(settings_of(recipe))
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for layout in ("coco", "panoptic", "dota"):
        config = ShapesConfig(
            size=64, num_classes=3, max_objects=3, stuff=layout == "panoptic", rotated=layout == "dota"
        )  # fmt: skip
        found[layout] = tmp_path_factory.mktemp("data") / layout
        write_shapes(found[layout], 4, 2, layout, config, seed=0)
    return found


def test_every_detector_that_can_be_trained_alone_is_here() -> None:
    assert set(RECIPES) == {name for name, entry in MODELS.items() if not entry.needs_proposals}
    assert sum(len(settings) for *_, settings in CASES) > 70
    tried = {(key, value) for *_, settings in CASES for key, value in settings.items()}
    assert {("data.resize.filter", "plain"), ("data.resize.mode", "letterbox"), ("model.loss.box", "l1")} <= tried


def marks(recipe: str, number: int) -> tuple[pytest.MarkDecorator, ...]:
    """Models that hold another one have its values too: all but their first settings are for `make test-long`."""
    return (pytest.mark.slow,) if recipe in LAYOUTS and number else ()


@pytest.mark.parametrize(
    ("recipe", "number", "settings"),
    [pytest.param(*case, id=f"{case[0]}-{case[1]}", marks=marks(*case[:2])) for case in CASES],
)
def test_trains_two_steps_and_predicts(
    recipe: str, number: int, settings: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()]
    overrides += [*TINY, *SIZES[settings.get("data.resize.mode", "short_side")]]
    data = folders[LAYOUTS.get(recipe, "coco")]
    result = train(recipe, data, overrides=overrides, runs=tmp_path, device="cpu")
    assert result.finished
    assert 0 <= result.metrics["mIoU" if recipe == "semantic-fpn-small" else "AP"] <= 1
    image = next(iter(sorted(data.rglob("*.jpg"))))
    assert Detector.load(result.last, "cpu").predict(image, score=0.0)[0].size_hw == (64, 64)
