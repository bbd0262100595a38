"""Which objects a detector can learn: those that own a location, an anchor or a proposal in its own assignment.

Decided by the functions that its loss calls, on the geometry of one image alone, without a network. Shape legend:
B = images,
P = locations, N = anchors, G = ground-truth boxes. Boxes are absolute (x1, y1, x2, y2) in network pixels; those of a
rotated detector are (cx, cy, w, h, degrees), see `ops.rotated`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from boxwright.models.faster_rcnn import FasterRCNNConfig
from boxwright.models.fcos import FCOSConfig
from boxwright.models.fcos_mask import FCOSMaskConfig
from boxwright.models.keypoint_rcnn import KeypointRCNNConfig
from boxwright.models.mask_rcnn import MaskRCNNConfig
from boxwright.models.panoptic_fpn import PanopticFPNConfig
from boxwright.models.proposal_network import ProposalSettings
from boxwright.models.retinanet import RetinaNetConfig, level_anchors
from boxwright.models.rotated_faster_rcnn import RotatedFasterRCNNConfig
from boxwright.models.rotated_proposal_network import RotatedProposalSettings, rotated_of
from boxwright.models.rpn import RPNConfig
from boxwright.ops.anchors import cell_anchors, pyramid_anchors
from boxwright.ops.assign import Assignment, assign_locations
from boxwright.ops.match import centred_outside, match_boxes
from boxwright.ops.points import grid_locations, level_ranges, pyramid_locations
from boxwright.ops.rotated_anchors import rotated_cell_anchors, rotated_pyramid_anchors
from boxwright.structures import Targets

Size = tuple[int, int]
AnchorConfig: TypeAlias = RetinaNetConfig | RPNConfig | FasterRCNNConfig | RotatedFasterRCNNConfig
_STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


class Other(NamedTuple):
    """Another setting of the detector under which more objects may be learnt: what to write, and the config."""

    words: str
    config: Any


def held_detector(config: Any) -> Any:
    """The part of a detector's config that decides which objects are learnt; None where every object is.

    Fast R-CNN puts the objects themselves among its proposals.
    """
    if isinstance(config, PanopticFPNConfig):
        config = config.instances
    if isinstance(config, FCOSMaskConfig | MaskRCNNConfig | KeypointRCNNConfig):
        config = config.detector
    known = FCOSConfig | RetinaNetConfig | RPNConfig | FasterRCNNConfig | RotatedFasterRCNNConfig
    return config if isinstance(config, known) else None


def holds_locations(config: Any) -> bool:
    """Whether the detector of a config predicts at locations: FCOS, with masks or without."""
    return isinstance(held_detector(config), FCOSConfig)


def is_rotated(config: Any) -> bool:
    """Whether the detector of a config has rotated anchors, and learns rotated boxes."""
    return isinstance(held_detector(config), RotatedFasterRCNNConfig)


def unit_of(config: Any) -> str:
    """What an object must own to be learnt."""
    return "location" if isinstance(config, FCOSConfig) else "anchor"


def claimed(config: Any, size_hw: Size, targets: Targets) -> Tensor:
    """Whether each object (B, G) of images of this network size owns something; ignored and padding rows do not."""
    boxes, valid, ignore = targets.boxes, targets.valid, targets.ignore
    owner = assigned(config, size_hw, targets).owner
    owns = torch.zeros(boxes.shape[0], boxes.shape[1] + 1, dtype=torch.bool)
    owns.scatter_(1, owner + 1, True)  # column 0 is background
    return owns[:, 1:] & valid & ~ignore


def assigned(config: Any, size_hw: Size, targets: Targets, sizes_hw: Tensor | None = None) -> Assignment:
    """The object (B, N) that each location or anchor of images of this network size must learn, as the loss has it.

    `sizes_hw` (B, 2) are the sizes within a padded batch, where they differ: some code bases leave its padding out.
    """
    boxes, valid, ignore = targets.boxes, targets.valid, targets.ignore
    if isinstance(config, FCOSConfig):
        locations, strides, ranges = _locations(config, size_hw)
        return assign_locations(
            locations, strides, ranges, boxes, valid, ignore,
            center_radius=config.assignment.center_radius, coarse_areas=config.compat.level_range_ends == "open",
        )  # fmt: skip
    anchors, outside = _anchors(config, size_hw), None
    if isinstance(config, RotatedFasterRCNNConfig):
        return match_boxes(
            anchors, rotated_of(targets), valid, ignore, positive_iou=config.rpn.positive_iou,
            negative_iou=config.rpn.negative_iou, low_quality=True,
        )  # fmt: skip
    if isinstance(config, RetinaNetConfig):
        rule: Any = config.assignment
        best_anchors, padding = config.compat.best_anchors, config.compat.padding
    else:
        rule, best_anchors, padding = config.rpn, config.rpn.best_anchors, config.rpn.padding
    if padding == "ignored" and sizes_hw is not None:
        outside = centred_outside(anchors, sizes_hw, config.compat.pad_multiple)
    return match_boxes(
        anchors, boxes, valid, ignore, positive_iou=rule.positive_iou, negative_iou=rule.negative_iou,
        low_quality=isinstance(config, RetinaNetConfig) or rule.low_quality,
        low_quality_iou=getattr(rule, "low_quality_iou", 0.0), claimed=best_anchors == "claimed", left_out=outside,
        low_inclusive=rule.low_inclusive, high_inclusive=rule.high_inclusive,
    )  # fmt: skip


class PlaceLevel(NamedTuple):
    """One feature map: its name, stride and size, its rows among all N places, and how many places each cell has."""

    name: str
    stride: int
    size_hw: Size
    rows: slice
    each: int


def place_levels(config: Any, size_hw: Size) -> tuple[PlaceLevel, ...]:
    """The maps whose cells have the locations or anchors of an image of this network size, finest first."""
    names: list[str] | None = None
    if isinstance(config, FCOSConfig | RetinaNetConfig):
        strides = [8 * 2**level for level in range(3 + config.fpn.extra_levels)]
    else:
        strides = _trunk_strides(config)
        if config.fpn.channels is None:  # the backbone's own map
            names = [level.upper() for level in config.fpn.levels]
    each = 1 if isinstance(config, FCOSConfig) else len(cell_shapes(config)[0])
    padded, start = _padded(size_hw, config.compat.pad_multiple), 0
    levels: list[PlaceLevel] = []
    for index, stride in enumerate(strides):
        cells = _cells(padded, stride)
        rows = slice(start, start := start + cells[0] * cells[1] * each)
        name = f"P{stride.bit_length() - 1}" if names is None else names[index]
        levels.append(PlaceLevel(name, stride, cells, rows, each))
    return tuple(levels)


def place_boxes(config: Any, size_hw: Size) -> Tensor:
    """The anchors (N, 4), or rotated ones (N, 5), of an image; locations are boxes without area."""
    if isinstance(config, FCOSConfig):
        return _locations(config, size_hw)[0].repeat(1, 2)
    return _anchors(config, size_hw)


def cell_shapes(config: AnchorConfig) -> list[Tensor]:
    """The anchors (A, 4), or rotated ones (A, 5), at one cell of each level, around the origin."""
    if isinstance(config, RetinaNetConfig):
        return [level_anchors(config, size) for size in config.anchors.sizes]
    if isinstance(config, RotatedFasterRCNNConfig):
        ratios, angles = config.rpn.anchor_ratios, config.rpn.anchor_angles
        return [rotated_cell_anchors(sizes, ratios, angles) for sizes in config.rpn.anchor_sizes]
    rpn: ProposalSettings = config.rpn
    return [cell_anchors(sizes, rpn.anchor_ratios, rounded=rpn.anchors_rounded) for sizes in rpn.anchor_sizes]


@lru_cache(maxsize=64)  # most images of a data set are of few sizes
def _locations(config: FCOSConfig, size_hw: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Locations (P, 2), their strides (P,) and ranges (P, 2)."""
    padded = _padded(size_hw, config.compat.pad_multiple)
    strides = [8 * 2**level for level in range(3 + config.fpn.extra_levels)]
    sizes = [_cells(padded, stride) for stride in strides]
    locations, of_level = pyramid_locations(sizes, strides, grid=config.compat.locations, padded_hw=padded)
    pairs = torch.tensor(level_ranges(config.assignment.level_bounds, config.compat.level_range_ends))
    ranges = torch.cat([pair.expand(h * w, 2) for pair, (h, w) in zip(pairs, sizes, strict=True)])
    return locations, of_level, ranges


@lru_cache(maxsize=64)
def _anchors(config: AnchorConfig, size_hw: Size) -> Tensor:
    """Anchors (N, 4), rotated ones (N, 5)."""
    grid = config.compat.anchor_grid if isinstance(config, RetinaNetConfig) else config.rpn.anchor_grid
    padded = _padded(size_hw, config.compat.pad_multiple)
    grids = [
        grid_locations(level.size_hw, level.stride, grid=grid, padded_hw=padded)
        for level in place_levels(config, size_hw)
    ]
    if isinstance(config, RotatedFasterRCNNConfig):
        return rotated_pyramid_anchors(grids, cell_shapes(config))
    return pyramid_anchors(grids, cell_shapes(config))


def places(config: Any, size_hw: Size) -> int:
    """How many locations or anchors an image of this network size has."""
    return len(_locations(config, size_hw)[0] if isinstance(config, FCOSConfig) else _anchors(config, size_hw))


def _trunk_strides(config: RPNConfig | FasterRCNNConfig | RotatedFasterRCNNConfig) -> list[int]:
    strides = [_STRIDES[level] for level in config.fpn.levels]
    if config.backbone.dilated_c5 and config.fpn.levels[-1] == "c5":
        strides[-1] = 16
    return strides + [2 * strides[-1]] * (config.fpn.channels is not None and config.rpn.pooled_level)


def _padded(size_hw: Size, multiple: int) -> Size:
    height, width = (-(-side // multiple) * multiple for side in size_hw)
    return height, width


def _cells(size_hw: Size, stride: int) -> Size:
    """Cells of the map of this stride: each halving rounds up."""
    return -(-size_hw[0] // stride), -(-size_hw[1] // stride)


def others(config: Any) -> list[Other]:
    """Settings of the detector itself that may let it learn more objects."""
    found: list[Other] = []
    if isinstance(config, FCOSConfig):
        if config.assignment.center_radius is not None:
            anywhere = replace(config, assignment=replace(config.assignment, center_radius=None))
            found.append(Other("model.assignment.center_radius=null", anywhere))
    elif isinstance(config, RetinaNetConfig):
        anchors = config.anchors
        finer = tuple(size / 2 for size in anchors.sizes)
        changed = replace(config, anchors=replace(anchors, sizes=finer))
        found.append(Other(f"model.anchors.sizes={_listed(finer)}", changed))
        ratios = _more_ratios(anchors.ratios)
        changed = replace(config, anchors=replace(anchors, ratios=ratios))
        found.append(Other(f"model.anchors.ratios={_listed(ratios)}", changed))
    else:
        rpn: ProposalSettings | RotatedProposalSettings = config.rpn
        smaller = tuple(tuple(side / 2 for side in sizes) for sizes in rpn.anchor_sizes)
        changed = replace(config, rpn=replace(rpn, anchor_sizes=smaller))
        found.append(Other(f"model.rpn.anchor_sizes={_listed(smaller)}", changed))
        ratios = _more_ratios(rpn.anchor_ratios)
        changed = replace(config, rpn=replace(rpn, anchor_ratios=ratios))
        found.append(Other(f"model.rpn.anchor_ratios={_listed(ratios)}", changed))
        if isinstance(rpn, RotatedProposalSettings):
            angles = _more_angles(rpn.anchor_angles)
            changed = replace(config, rpn=replace(rpn, anchor_angles=angles))
            found.append(Other(f"model.rpn.anchor_angles={_listed(angles)}", changed))
        elif not rpn.low_quality:
            changed = replace(config, rpn=replace(rpn, low_quality=True))
            found.append(Other("model.rpn.low_quality=true", changed))
    return found


def _more_ratios(ratios: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({*ratios, min(ratios) / 4, max(ratios) * 4}))


def _more_angles(angles: tuple[float, ...]) -> tuple[float, ...]:
    """The angles and those half-way to the next, half a turn on from the last to the first."""
    ends = sorted(angles)
    middles = [(one + other) / 2 for one, other in zip(ends, [*ends[1:], ends[0] + 180], strict=True)]
    return tuple(sorted({*angles, *(angle if angle < 180 else angle - 180 for angle in middles)}))


def _listed(values: Any) -> str:
    return f"{values:g}" if isinstance(values, float | int) else f"[{','.join(map(_listed, values))}]"
