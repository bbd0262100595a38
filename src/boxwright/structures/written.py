"""Detections and segments as rows of COCO result files, and detections as another library's record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from boxwright.ops.mask_paste import mask_polygons
from boxwright.ops.rotated import rotated_corners
from boxwright.structures.classes import IGNORED, Classes
from boxwright.structures.masks import CroppedMask
from boxwright.structures.panoptic import Panoptic

Masks: TypeAlias = Literal["rle", "polygons", "none"]
"""How pixels are written: as COCO's run-length codes, as polygons along their edges, or not."""


def coco_row(
    image_id: int | str,
    category_id: int,
    box: Tensor,
    score: float,
    mask: CroppedMask | None,
    size_hw: tuple[int, int],
    keypoints: Tensor | None,
    *,
    polygons: bool,
    rotated: Tensor | None = None,
) -> dict[str, Any]:
    """A detection in an image of `size_hw`: its box (4,) as x, y, width, height, and what else it has."""
    x1, y1, x2, y2 = box.tolist()
    row: dict[str, Any] = {
        "image_id": image_id, "category_id": category_id, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score
    }  # fmt: skip
    if mask is not None:
        row["segmentation"] = mask_polygons(mask.bitmap, mask.x, mask.y) if polygons else mask.encoded(size_hw)
    if keypoints is not None:  # (P, 3), from the corner of a pixel to its centre
        row["keypoints"] = (keypoints.double() - keypoints.new_tensor([0.5, 0.5, 0.0])).flatten().tolist()
    if rotated is not None:  # (5,)
        row["rotated"] = rotated.tolist()
    return row


def segments_info(panoptic: Panoptic, classes: Classes | None) -> list[dict[str, Any]]:
    """The segments of an image as COCO's panoptic results have them, with the category ids of the user's own files.

    >>> from boxwright.structures.panoptic import PanopticSegment
    >>> sky = PanopticSegment(id=1, label=0, thing=False, score=None, row=None, area=1)
    >>> segments_info(Panoptic(torch.ones(1, 1, dtype=torch.int32), (sky,)), Classes(("cat",), (7,), stuff=("sky",)))
    [{'id': 1, 'category_id': 8, 'area': 1, 'isthing': 0}]
    """
    rows = []
    for one in panoptic.segments:
        ids = None if classes is None else classes.ids if one.thing else classes.stuff_ids
        row: dict[str, Any] = {"id": one.id, "category_id": ids[one.label] if ids else one.label, "area": one.area}
        rows.append(row | {"isthing": int(one.thing)} | ({} if one.score is None else {"score": one.score}))
    return rows


def segment_rows(
    semantic: Tensor, panoptic: Panoptic | None, classes: Classes, masks: Masks = "rle"
) -> list[dict[str, Any]]:  # fmt: skip
    """The segments of an image as data of their own: those of the panoptic map, else each label of the semantic one.

    As `segments_info`, with the `label`, the `detection` of an object by its row, and a `segmentation` as run-length
    code or polygons. The label "things" of a semantic map (H, W) has no category id.
    """
    if panoptic is not None:
        return [
            {"label": (classes.names if one.thing else classes.stuff)[one.label]}
            | row
            | ({"detection": one.row} if one.thing else {})
            | _pixels(panoptic.mask(one.id), masks)
            for one, row in zip(panoptic.segments, segments_info(panoptic, classes), strict=True)
        ]
    names, rows = classes.semantic_names, list[dict[str, Any]]()
    numbers = [*[None] * (len(names) - len(classes.stuff)), *classes.stuff_ids]
    for label in torch.unique(semantic).tolist():
        if label != IGNORED:
            plane = semantic == label
            row = {"label": names[label], "id": len(rows) + 1, "category_id": numbers[label]}
            rows.append(row | {"area": int(plane.sum()), "isthing": 0} | _pixels(plane, masks))
    return rows


def _pixels(plane: Tensor, masks: Masks) -> dict[str, Any]:
    """The pixels (H, W) bool of a segment, as they are asked for."""
    if masks == "none":
        return {}
    mask, size_hw = CroppedMask(0, 0, plane).tight(), (plane.shape[0], plane.shape[1])
    polygons = masks == "polygons"
    return {"segmentation": mask_polygons(mask.bitmap, mask.x, mask.y) if polygons else mask.encoded(size_hw)}


def as_supervision(
    boxes: Tensor, scores: Tensor, labels: Tensor, names: Sequence[str], masks: Tensor | None,
    keypoints: Tensor | None, rotated: Tensor | None = None,
) -> Any:  # fmt: skip
    """`supervision.Detections` of boxes (D, 4) and masks (D, H, W) bool. Raises ImportError without that package."""
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision() needs the package supervision: pip install supervision") from error
    data: dict[str, Any] = {"class_name": list(names)}
    if keypoints is not None:
        data["keypoints"] = keypoints.cpu().numpy()
    if rotated is not None:
        data["xyxyxyxy"] = rotated_corners(rotated).cpu().numpy()
    return supervision.Detections(
        xyxy=boxes.cpu().numpy(),
        confidence=scores.cpu().numpy(),
        class_id=labels.cpu().numpy(),
        mask=None if masks is None else masks.cpu().numpy(),
        data=data,
    )
