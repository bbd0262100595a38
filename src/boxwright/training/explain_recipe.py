"""A recipe explained on labelled images, before anything is trained: in words, and as drawings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright.data.class_selection import ONE_CLASS
from boxwright.data.formats.folder import open_folder
from boxwright.data.image_io.decode import read_image
from boxwright.data.proposals import read_proposals
from boxwright.data.transforms import resize_ground_truth, resize_proposals
from boxwright.inference.explain_anchors import sample_words
from boxwright.inference.explain_anchors_drawing import draw_sampled
from boxwright.inference.explain_panels import save_figures
from boxwright.inference.explain_semantic import label_shares
from boxwright.inference.explain_semantic_drawing import draw_label_maps
from boxwright.inference.labelled import labelled_image
from boxwright.inference.owners import (
    describe_batch,
    describe_owned_box,
    describe_owners,
    owners_of,
)
from boxwright.inference.owners_drawing import draw_ground_truth, draw_owned_box, draw_owners, draw_places
from boxwright.models import MODELS
from boxwright.ops.image import resize_plan
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes, Proposals, Targets
from boxwright.training.first_batch import FirstBatch, SeenImage, check_known, sampled_regions
from boxwright.wording import counted


def see_image(
    recipe: Recipe, image: str, data: Path, *, classes: str | None, split: str | None, proposals: Path | None
) -> FirstBatch:
    """One image of a data folder with a recipe, as `predict` would see it.

    Raises FileNotFoundError or ValueError where there is no such image, or no proposals where they are needed.
    """
    check_known(recipe)
    entry = MODELS[recipe.model.name]
    if entry.needs_proposals != (proposals is not None):
        wants = "needs a proposal file: --proposals FILE" if entry.needs_proposals else "takes no proposal file"
        raise ValueError(f"{recipe.name} {wants}")
    known = ONE_CLASS if entry.one_class else open_folder(data, classes=classes).classes
    if recipe.needs_semantic and not known.semantic_names:
        raise ValueError(f"{data}: {recipe.name} learns the label of every pixel, but the data has none")
    path, ground_truth = labelled_image(
        image, data, known, split=split, classes=classes, semantic=recipe.needs_semantic, rotated=recipe.needs_rotated
    )
    pixels = read_image(path, value_range=recipe.data.value_range)
    hw, rule = (int(pixels.shape[1]), int(pixels.shape[2])), recipe.data.resize.rule()
    plan, resized = resize_plan(hw, rule), resize_ground_truth(ground_truth, hw, rule)
    sampled = None
    if proposals is not None:
        rows = resize_proposals(read_proposals(proposals).of(path, hw), hw, rule)
        assert rows is not None
        (sampled,) = sampled_regions(recipe, Proposals.of([rows[:, :4]], [rows[:, 4]]), Targets.of([resized]))
    owners = owners_of(recipe.model, pixels, plan, known, resized)
    return FirstBatch((SeenImage(pixels, plan, plan.size_hw, path, resized, owners, sampled),), known, alone=True)


def describe_seen(recipe: Recipe, seen: FirstBatch, box: int | None) -> list[str]:
    """Lines on what the images ask of a detector of this recipe; for one image alone also on a ground truth box."""
    first, entry = seen.images[0], MODELS[recipe.model.name]
    height, width = first.plan.size_hw
    size = f"{width} x {height} pixels (width x height)"
    if seen.alone:
        lines = [f"{first.path}: with {recipe.name} the network sees {size}."]
        if first.owners is not None:
            lines += describe_owners(first.owners)
            index = box_number(seen, box)
            lines += [] if index is None else describe_owned_box(first.owners, index)
        if first.ground_truth.semantic is not None:
            lines.append(label_shares(first.ground_truth.semantic, seen.classes))
    else:
        lines = [
            f"The first batch of {recipe.name}: {counted(len(seen.images), 'image')} of {size}, as training sees them."
        ]
        lines += [
            f"  {number}: {one.path.name}" + (f", {counted(len(one.ground_truth), 'object')}" if entry.detects else "")
            for number, one in enumerate(seen.images)
        ]
        owners = [one.owners for one in seen.images if one.owners is not None]
        lines += describe_batch(owners) if owners else []
        maps = [_shown_map(one).flatten() for one in seen.images if one.ground_truth.semantic is not None]
        lines += [label_shares(torch.cat(maps), seen.classes)] if maps else []
    lines += [
        f"{one.path.name}: {sample_words(one.sampled)}" for one in seen.images if one.sampled is not None
    ]  # fmt: skip
    held = entry.holds or recipe.model.name
    if held in ("faster_rcnn", "mask_rcnn", "rotated_faster_rcnn"):
        lines.append("Which proposals it would learn from depends on its network: a checkpoint draws them.")
    return lines


def _shown_map(one: SeenImage) -> Tensor:
    """The labels of an image without the padding of its batch."""
    assert one.ground_truth.semantic is not None
    return one.ground_truth.semantic[: one.size_hw[0], : one.size_hw[1]]


def _draw_map(one: SeenImage, classes: Classes) -> Any:
    assert one.ground_truth.semantic is not None
    heading = "Ground truth: the class of each pixel."
    return draw_label_maps(one, [one.ground_truth.semantic], [one.path.name], heading, classes)


def box_number(seen: FirstBatch, box: int | None) -> int | None:
    """The ground truth box that is explained: 0 if there is one and none was asked for; ValueError where it is not."""
    count = len(seen.images[0].ground_truth)
    if box is None:
        return 0 if count else None
    if not 0 <= box < count:
        known = f"{count} ground truth boxes, numbered from 0" if count else "no ground truth boxes"
        raise ValueError(f"box {box}: this image has {known}")
    return box


def write_seen(recipe: Recipe, seen: FirstBatch, folder: Path, *, most: int, box: int | None) -> list[Path]:
    """Write the drawings as PNG files: of one image alone, or of at most so many images of a batch."""
    first, names = seen.images[0], seen.classes.names
    objects = MODELS[recipe.model.name].detects
    drawn: list[tuple[str, Any]] = []
    if seen.alone and objects:
        heading = "Ground truth. The numbers are those that --box takes. Colours are classes."
        drawn.append(("1_ground_truth", draw_ground_truth(first, first.ground_truth, names, heading)))
    if first.owners is not None:
        drawn.append((f"2_{first.owners.unit}s", draw_places(first.owners)))
    for number, one in enumerate(seen.images[:most]):
        name = "3_owners" if seen.alone else f"3_image_{number}"
        heading = "" if seen.alone else f"Image {number}, {one.path.name}, as training sees it. "
        if one.owners is not None:
            drawn.append((name, draw_owners(one.owners, heading)))
        elif one.sampled is not None:
            drawn.append((name, draw_sampled(one, one.ground_truth, one.sampled, heading)))
    index = box_number(seen, box) if seen.alone and objects else None
    if index is not None and first.owners is not None:
        drawn.append((f"4_box_{index}", draw_owned_box(first.owners, index)))
    for number, one in enumerate(seen.images[:most]):
        if one.ground_truth.semantic is not None:
            name = "5_semantic" if seen.alone else f"5_semantic_{number}"
            drawn.append((name, _draw_map(one, seen.classes)))
    return save_figures(drawn, folder)
