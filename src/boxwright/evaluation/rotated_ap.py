"""The overlap of rotated boxes inside the COCO tools: everything else of AP is counted as for upright boxes.

An ignored object counts as COCO's crowd: the overlap with it is the share of the detection that lies inside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwright.ops.rotated import rotated_area
from boxwright.ops.rotated_iou import rotated_intersection, rotated_iou
from boxwright.structures import Detections, GroundTruth


def have_rotated(detections: Sequence[Detections], ground_truths: Sequence[GroundTruth]) -> bool:
    """Whether all ground truth objects and all detections have rotated boxes (and there are some)."""
    known = all(one.rotated is not None for one in ground_truths if len(one))
    return known and any(one.rotated is not None for one in detections) and all(
        one.rotated is not None for one in detections if len(one)
    )  # fmt: skip


def rotated_fields(rotated: Tensor) -> dict[str, Any]:
    """What the row of an object with the rotated box (5,) has: the box, and its own area instead of its hull's."""
    return {"rotated": rotated.tolist(), "area": float(rotated_area(rotated))}


def rotated_overlaps(found: Tensor, ground_truth: Tensor, crowd: Tensor) -> Tensor:
    """IoU (D, G) of rotated boxes (D, 5) and (G, 5); with a crowd (G,) bool the share of the detection in it.

    >>> square, half = torch.tensor([[1.0, 1, 2, 2, 0]]), torch.tensor([[1.0, 1, 2, 4, 90]])
    >>> rotated_overlaps(square, half, torch.tensor([False])), rotated_overlaps(square, half, torch.tensor([True]))
    (tensor([[0.5000]]), tensor([[1.]]))
    """
    overlaps = rotated_iou(found, ground_truth)
    if bool(crowd.any()):
        area = rotated_area(found)[:, None]
        share = rotated_intersection(found, ground_truth) / torch.where(area > 0, area, 1.0)
        overlaps = torch.where(crowd, share, overlaps)
    return overlaps


def by_rotated_overlap(
    evaluator: type[Any], ground_truth_rows: Sequence[dict[str, Any]], found_rows: Sequence[dict[str, Any]]
) -> type[Any]:
    """The COCO tools' evaluator, with the overlaps of the rotated boxes of these rows (`rotated_fields`)."""
    known, found_of = ({row["id"]: row["rotated"] for row in rows} for rows in (ground_truth_rows, found_rows))

    class ByRotatedOverlap(evaluator):  # type: ignore[misc]
        def computeIoU(self, imgId: int, catId: int) -> NDArray[np.float64] | list[float]:  # noqa: N802, N803
            """Overlaps of an image's objects of a class, by falling score, as the method of this name gives them."""
            objects, found = (
                table.get_instances([imgId], [catId], True)[0][0] for table in (self.gt_dataset, self.dt_dataset)
            )
            if not objects or not found:
                return []
            order = np.argsort([-row["score"] for row in found], kind="mergesort")[: self.params.maxDets[-1]]
            boxes = torch.tensor([found_of[int(found[index]["id"])] for index in order], dtype=torch.float64)
            wanted = torch.tensor([known[int(row["id"])] for row in objects], dtype=torch.float64)
            crowd = torch.tensor([bool(row.get("iscrowd", 0)) for row in objects])
            overlaps: NDArray[np.float64] = rotated_overlaps(boxes, wanted, crowd).numpy()
            return overlaps

    return ByRotatedOverlap
