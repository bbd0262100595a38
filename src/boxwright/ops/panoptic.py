"""The panoptic map: instances and semantic labels merged so that each pixel belongs to one segment, or none.

Paper: Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, section 3 ("Panoptic inference"), after
Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 7. Details follow Detectron2's
`combine_semantic_and_instance_outputs`.

Shape legend: D = detections, H W = height and width of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.ops.mask_paste import Pasted
from boxwright.ops.semantic import IGNORED


class Segment(NamedTuple):
    """What became a segment of the map: the row of a detection, or a semantic label."""

    row: int | None
    label: int | None
    area: int


def merge_segments(
    masks: Sequence[Pasted],
    scores: Sequence[float],
    semantic: Tensor,
    *,
    min_score: float = 0.5,
    max_overlap: float = 0.5,
    min_stuff_area: int = 4096,
) -> tuple[Tensor, list[Segment]]:
    """The map (H, W) int32, in which pixels of segment k are k + 1 and others 0, and its segments.

    Detections take pixels that are free, best first, down to a score of `min_score`; one of which more than
    `max_overlap` is taken already, or without a pixel, is left out. Then each label of the semantic map (H, W) takes
    what is free of it, where that is at least `min_stuff_area` pixels; label 0 is that of things and makes no segment.

    >>> free = torch.tensor([[1, 1, 2, 2]], dtype=torch.uint8)
    >>> thing = Pasted(1, 0, torch.ones(1, 2, dtype=torch.bool))
    >>> merge_segments([thing], [0.9], free, min_stuff_area=1)[0].tolist()
    [[2, 1, 1, 3]]
    """
    found = torch.zeros(semantic.shape, dtype=torch.int32)
    segments: list[Segment] = []
    for row in sorted(range(len(scores)), key=lambda row: -scores[row]):
        if scores[row] < min_score:
            break
        x, y, bitmap = masks[row]
        area = int(bitmap.sum())
        part = found[y : y + bitmap.shape[0], x : x + bitmap.shape[1]]
        free = bitmap & (part == 0)
        taken = int(free.sum())
        if not area or (area - taken) / area > max_overlap:
            continue
        segments.append(Segment(row, None, taken))
        part[free] = len(segments)
    nothing = found == 0
    areas = torch.bincount(semantic[nothing].flatten().to(torch.int64), minlength=IGNORED + 1).tolist()
    for label, area in enumerate(areas):
        if label not in (0, IGNORED) and area and area >= min_stuff_area:
            segments.append(Segment(None, label, area))
            found[nothing & (semantic == label)] = len(segments)
    return found, segments
