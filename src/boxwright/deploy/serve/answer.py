"""What the server says, as JSON data: of the model that it serves, and of an image."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from boxwright.deploy.serve.uploads import Limits
from boxwright.inference.predictor import Detector
from boxwright.models import MODELS
from boxwright.runtime.exported import ExportedEngine
from boxwright.structures import Classes, Detections, Skeleton
from boxwright.structures.written import Masks, segment_rows
from boxwright.visualize.drawing import class_colour
from boxwright.visualize.label_images import panoptic_image, png_bytes, semantic_image
from boxwright.visualize.stuff import THINGS_COLOUR


def described(detector: Detector, path: Path, score: float | None, limits: Limits) -> dict[str, Any]:
    """The description of what is served: classes with ids and colours, scores, runtime and limits.

    `classes` are those of the objects, none of a model that finds none; `stuff` are the labels of a semantic map.
    """
    engine: Any = detector.engine
    exported = isinstance(engine, ExportedEngine)
    skeleton = skeleton_of(detector)
    classes, recipe = detector.classes, detector.recipe
    objects = zip(classes.names, classes.ids, strict=True) if MODELS[recipe.model.name].detects else ()
    return {
        "name": path.name,
        "recipe": recipe.name,
        "detector": recipe.model.name,
        "masks": recipe.needs_masks,
        "segments": recipe.needs_semantic,
        "keypoints": None if skeleton is None else {"names": skeleton.names, "lines": skeleton.lines},
        "classes": [_class(name, number, index) for index, (name, number) in enumerate(objects)],
        "stuff": _stuff(classes) if recipe.needs_semantic else [],
        "score": detector.score_threshold if score is None else score,
        "least_score": detector.settings.score_threshold if exported else 0.0,
        "runtime": engine.runtime if exported else "torch",
        "precision": (engine.description if exported else engine).precision,
        "device": str(detector.device),
        "limits": {"bytes": limits.num_bytes, "pixels": limits.num_pixels, "images": limits.num_images},
    }


def _class(name: str, number: int | None, colour: int) -> dict[str, Any]:
    hexadecimal = "#{:02x}{:02x}{:02x}".format(*class_colour(colour))
    return {"label": name, "category_id": number, "colour": hexadecimal}


def _stuff(classes: Classes) -> list[dict[str, Any]]:
    """What segments may be beside objects; "things" are objects that are not told apart, without an id of their own."""
    first = len(classes.names)
    pairs = enumerate(zip(classes.stuff, classes.stuff_ids, strict=True), start=first)
    things = [_class(classes.semantic_names[0], None, THINGS_COLOUR)] if classes.names and classes.stuff else []
    return things + [_class(name, number, index) for index, (name, number) in pairs]


def skeleton_of(detector: Detector) -> Skeleton | None:
    """Names and lines of the keypoints that a detector predicts; names are numbers where it knows none."""
    if not detector.recipe.num_keypoints:
        return None
    return detector.classes.skeleton or Skeleton(tuple(str(number) for number in range(detector.recipe.num_keypoints)))


def listed(found: Detections, masks: Masks, maps: bool = False) -> dict[str, Any]:
    """The size of an image and its detections, best first, as JSON data; boxes are x1, y1, x2, y2.

    Keypoints are x, y, score of each, in pixels as boxes are; rotated boxes cx, cy, w, h and degrees. `segments` are
    those of the panoptic map, or of the semantic map one for each label; with `maps` both are also PNG files in base64,
    as `boxwright predict --format semantic,panoptic` writes them.
    """
    height, width = found.size_hw
    rows = found.to_coco("", polygons=masks == "polygons")
    keypoints = [None] * len(found) if found.keypoints is None else found.keypoints.tolist()
    answer: dict[str, Any] = {
        "width": width,
        "height": height,
        "detections": [
            {"label": name, "category_id": row["category_id"], "score": row["score"], "box": box}
            | ({"rotated": row["rotated"]} if "rotated" in row else {})
            | ({"segmentation": row["segmentation"]} if masks != "none" and "segmentation" in row else {})
            | ({} if points is None else {"keypoints": points})
            for name, box, row, points in zip(found.names, found.boxes.tolist(), rows, keypoints, strict=True)
        ],
    }
    if found.semantic is not None:
        assert found.classes is not None  # a `Detector` names what it finds
        answer["segments"] = segment_rows(found.semantic, found.panoptic, found.classes, masks)
    if maps and found.semantic is not None:
        answer["semantic"] = b64encode(png_bytes(semantic_image(found.semantic))).decode()
    if maps and found.panoptic is not None:
        answer["panoptic"] = b64encode(png_bytes(panoptic_image(found.panoptic.map))).decode()
    return answer
