"""One detection as a row of a COCO result file, and many as another library's record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from boxwright.ops.mask_paste import mask_polygons
from boxwright.ops.rotated import rotated_corners
from boxwright.structures.masks import CroppedMask


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
