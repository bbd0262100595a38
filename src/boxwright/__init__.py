"""boxwright: object detectors to read, train on your own images, trust and ship.

>>> import boxwright
>>> detector = boxwright.load("runs/fcos-small")  # doctest: +SKIP
>>> detector.predict("street.jpg")[0].draw("street.jpg").save("drawn.jpg")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Classes",
    "Detection",
    "Detections",
    "Detector",
    "ExportOptions",
    "GroundTruth",
    "Hook",
    "ImageBatch",
    "Proposals",
    "Targets",
    "__version__",
    "build",
    "draw",
    "evaluate",
    "export",
    "list_recipes",
    "load",
    "load_recipe",
    "train",
]

if TYPE_CHECKING:  # what type checkers and editors see; `_HOMES` says the same to Python
    from boxwright.deploy.export.export_checkpoint import ExportOptions
    from boxwright.deploy.export.export_checkpoint import export_checkpoint as export
    from boxwright.inference.evaluate import evaluate
    from boxwright.inference.predictor import Detector
    from boxwright.recipes import load_recipe
    from boxwright.recipes import recipe_names as list_recipes
    from boxwright.recipes.building import build
    from boxwright.structures import Classes, Detection, Detections, GroundTruth, ImageBatch, Proposals, Targets
    from boxwright.training.hooks import Hook
    from boxwright.training.run import train
    from boxwright.visualize import draw

    load = Detector.load

_HOMES = {
    "Classes": "structures:Classes",
    "Detection": "structures:Detection",
    "Detections": "structures:Detections",
    "Detector": "inference.predictor:Detector",
    "ExportOptions": "deploy.export.export_checkpoint:ExportOptions",
    "GroundTruth": "structures:GroundTruth",
    "Hook": "training.hooks:Hook",
    "ImageBatch": "structures:ImageBatch",
    "Proposals": "structures:Proposals",
    "Targets": "structures:Targets",
    "build": "recipes.building:build",
    "draw": "visualize:draw",
    "evaluate": "inference.evaluate:evaluate",
    "export": "deploy.export.export_checkpoint:export_checkpoint",
    "list_recipes": "recipes:recipe_names",
    "load": "inference.predictor:Detector.load",
    "load_recipe": "recipes:load_recipe",
    "train": "training.run:train",
}
"""Public names, and where in the package each is defined."""


if not TYPE_CHECKING:  # to which a module with this function would have any name

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used, so that `import boxwright` stays quick (no torch)."""
        if name not in _HOMES:
            raise AttributeError(f"module 'boxwright' has no attribute {name!r}")
        home, _, attribute = _HOMES[name].partition(":")
        return attrgetter(attribute)(importlib.import_module(f"boxwright.{home}"))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
