"""Keypoints as heatmaps over regions: the cell to learn, the loss, and the way back to points.

Paper: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017, section 5: one map a keypoint, one cell in it is right,
softmax over all cells. Rounding and decoding follow Detectron2 and torchvision, which agree but for the score.

Shape legend: R = regions, K = keypoints of an object, S = side of a heatmap. Boxes are absolute (x1, y1, x2, y2),
points (x, y, visibility): 0 is not annotated, 1 hidden, 2 visible; both of the last two are learnt.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def heatmap_cells(keypoints: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The cell (R, K) of each keypoint (R, K, 3) in the heatmap over its box (R, 4), and which ones (R, K) are learnt.

    A cell is row * side + column. A point exactly on the right or lower edge belongs to the last cell; a point outside
    the box or of visibility 0 is not learnt, and its cell is 0.

    >>> heatmap_cells(torch.tensor([[[8.0, 0, 2], [4, 4, 1], [9, 1, 2]]]), torch.tensor([[0.0, 0, 8, 8]]), 4)
    (tensor([[ 3, 10,  0]]), tensor([[ True,  True, False]]))
    """
    corner, sides = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    points = keypoints[..., :2]
    cell = ((points - corner) * (side / sides)).floor().to(torch.int64)  # (R, K, 2)
    cell = torch.where(points == boxes[:, None, 2:], side - 1, cell)
    learnt = ((cell >= 0) & (cell < side)).all(-1) & (keypoints[..., 2] > 0)
    return torch.where(learnt, cell[..., 1] * side + cell[..., 0], 0), learnt


def heatmap_loss(heatmaps: Tensor, cells: Tensor, learnt: Tensor) -> Tensor:
    """Cross-entropy of heatmaps (R, K, S, S) over their S * S cells, the mean over keypoints (R, K) learnt; or 0."""
    entropy = F.cross_entropy(heatmaps.flatten(0, 1).flatten(1), cells.flatten(), reduction="none")
    return (entropy * learnt.flatten()).sum() / learnt.sum().clamp(min=1)


def decode_heatmaps(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """Points (R, K, 3) x, y, score of heatmaps (R, K, S, S) over boxes (R, 4).

    A heatmap is resized to the pixels of its box (bicubic, sides rounded up, at least 1), and the point is the centre
    of its highest pixel. The score is exp(highest) over the sum of exp of the S * S logits, as Detectron2 has it
    (torchvision gives the highest logit): above 0, and perhaps above 1, since the resized map overshoots.
    """
    corners = boxes[:, :2]
    sides = (boxes[:, 2:] - corners).clamp(min=1)
    pixels = sides.ceil()
    points = heatmaps.new_zeros((*heatmaps.shape[:2], 3))
    for row, (width, height) in enumerate(pixels.to(torch.int64).tolist()):
        resized = F.interpolate(heatmaps[row][None], (height, width), mode="bicubic", align_corners=False)[0]
        peak, place = resized.flatten(1).max(1)  # (K,)
        cell = torch.stack([place % width, place // width], 1)
        points[row, :, :2] = (cell + 0.5) * (sides[row] / pixels[row]) + corners[row]
        points[row, :, 2] = 1 / (heatmaps[row].flatten(1) - peak[:, None]).exp().sum(1)
    return points
