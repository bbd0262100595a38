"""The description inside an exported file: all that is needed to prepare its inputs and to read its outputs.

The same JSON text is in the metadata of an ONNX file, the runtime info of an OpenVINO model, and a file inside a
`torch.export` program.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from boxwright.checkpoint import Checkpoint
from boxwright.models import MODELS
from boxwright.recipes import check_stored_recipe, dump_recipe
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes, DetectSettings

FORMAT = "boxwright export"
VERSION = 1
KEY = "boxwright"
"""The name of the text in a file's metadata."""


@dataclass(frozen=True, slots=True)
class Description:
    """An exported detector: the recipe and classes of its checkpoint, its inputs, and what its graph includes.

    `pixels` is the type of the input: "uint8", or "float" in [0, 1]; without `normalise` it is float normalised by the
    caller with `mean` and `std` (in [0, 1]). Without `nms` the outputs are candidates, best first. `precision` is that
    of the computation.
    """

    recipe: Recipe
    classes: Classes
    score_threshold: float | None
    settings: DetectSettings
    pixels: str
    normalise: bool
    nms: bool
    precision: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        needs_proposals = MODELS[self.recipe.model.name].needs_proposals
        return ("images", "sizes", "proposals") if needs_proposals else ("images", "sizes")

    def checkpoint(self) -> Checkpoint:
        """A checkpoint without weights: recipe, classes and score threshold."""
        return Checkpoint(self.recipe, self.classes, {}, self.score_threshold)

    def to_json(self) -> str:
        """The JSON text."""
        data = {
            "format": FORMAT,
            "version": VERSION,
            "recipe": dump_recipe(self.recipe),
            "classes": self.classes.as_dict(),
            "score_threshold": self.score_threshold,
            "settings": asdict(self.settings),
            "input": {
                "pixels": self.pixels,
                "colour": "RGB",
                "normalise_in_graph": self.normalise,
                "mean": list(self.mean),
                "std": list(self.std),
                "padding": "right and bottom",
            },
            "nms_in_graph": self.nms,
            "precision": self.precision,
            "outputs": list(self.outputs),
        }
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None, path: Any) -> Description:
        """Parse the text of a file. Raises ValueError where it is not one of ours, damaged, or of another version."""
        try:
            data = json.loads(text or "")
        except (json.JSONDecodeError, RecursionError):
            data = {}
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(
                f"{path} was not exported by boxwright: it does not describe its classes and preprocessing"
            )
        if data.get("version") != VERSION:
            raise ValueError(
                f"{path}: export version {data.get('version')}, this boxwright reads {VERSION}; export it again"
            )
        try:
            fed = data["input"]
            return cls(
                recipe=check_stored_recipe(data["recipe"], str(path)),
                classes=Classes.from_dict(data["classes"]),
                score_threshold=data["score_threshold"],
                settings=DetectSettings(**data["settings"]),
                pixels=fed["pixels"],
                normalise=fed["normalise_in_graph"],
                nms=data["nms_in_graph"],
                precision=data["precision"],
                mean=tuple(fed["mean"]),
                std=tuple(fed["std"]),
                outputs=tuple(data["outputs"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: its description is damaged ({error}); export it again") from error
