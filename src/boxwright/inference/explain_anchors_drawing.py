"""The images of an explanation of a detector with anchors or proposals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from boxwright.inference.explain_anchors import (
    AnchorExplanation,
    Regions,
    ground_truth_box_of,
    nearest_box,
    nearest_words,
    proposal_words,
    sample_words,
    source_box,
    source_words,
)
from boxwright.inference.explain_keypoints import draw_keypoint_panels
from boxwright.inference.explain_masks import draw_masks
from boxwright.inference.explain_panels import (
    FOUND_COLOUR,
    GROUND_TRUTH_COLOUR,
    POINT_COLOUR,
    Scene,
    box_colour,
    draw_overview,
    heat_map,
    heat_scale,
    legend_line,
    number_tag,
    open_panels,
    rectangle,
    save_figures,
    show_image,
    thin_box,
    thin_boxes,
    zoom_to,
)
from boxwright.inference.owners import boxes_of
from boxwright.inference.owners_drawing import draw_owned_box, draw_owners, draw_places
from boxwright.models.box_branch import SampledRegions
from boxwright.ops.box_kinds import around, overlaps
from boxwright.structures import GroundTruth

BEST = 100
"""Proposals that are drawn."""


def write_anchor_explanation(
    made: AnchorExplanation,
    folder: Path,
    *,
    box: int | None = None,
    detection: int | None = None,
    label: int | None = None,
    masks: GroundTruth | None = None,
) -> list[Path]:
    """Write the images of an explanation as PNG files; their paths in reading order.

    `label` chooses the class of the score maps (the best class of each cell if not given); a ground truth box and a
    detection are drawn where their numbers are given; `masks` is ground truth with masks or keypoints, in the image's
    own pixels.
    """
    drawn = [("1_overview", draw_overview(made, made.found, made.ground_truth, made.classes, made.score_threshold))]
    if made.owners is not None:
        drawn.append(("2_anchors", draw_places(made.owners)))
        if made.ground_truth is not None:
            drawn.append(("3_owners", draw_owners(made.owners)))
        drawn.append(("4_scores", _scores(made, label)))
    if made.regions is not None:
        drawn.append(("5_proposals", _proposals(made, made.regions)))
        if made.regions.sampled is not None:
            assert made.ground_truth is not None
            drawn.append(("6_regions", draw_sampled(made, made.ground_truth, made.regions.sampled)))
    if box is not None:
        ground_truth_box_of(made, box)
        if made.owners is not None:
            drawn.append((f"7_box_{box}", draw_owned_box(made.owners, box)))
    if detection is not None:
        drawn.append((f"8_detection_{detection}", _detection(made, detection)))
    if made.restored.masks is not None:
        drawn.append(("9_masks", draw_masks(made.image, made.restored, masks, detection)))
    if made.restored.keypoints is not None:
        drawn.append(("9_keypoints", draw_keypoint_panels(made.image, made.restored, masks, detection)))
    return save_figures(drawn, folder)


def _scores(made: AnchorExplanation, label: int | None) -> Any:
    assert made.scores is not None
    assert made.owners is not None
    objectness = made.regions is not None or made.scores.shape[1] == 1
    what = "objectness" if objectness else "class score, best class"
    if label is not None and not objectness:
        what = f"class score, {made.classes.names[label]}"
    heading = f"{what[0].upper()}{what[1:]}: at each cell that of its best anchor."
    if objectness:
        heading += " The proposal network knows no classes."
    chosen = made.scores.amax(1) if label is None or objectness else made.scores[:, label]
    titles = [f"{level.name}: up to {float(chosen[level.rows].max()):.2f}" for level in made.owners.levels]
    figure, panels = open_panels(made, titles, heading)
    for axes, level in zip(panels, made.owners.levels, strict=True):
        show_image(axes, made, faded=True)
        cells = chosen[level.rows].reshape(-1, level.each).amax(1)
        heat_map(axes, level, cells.numpy())
        for box in boxes_of(made.ground_truth) if made.ground_truth is not None else ():
            axes.add_patch(thin_box(box, ignored=False))
    heat_scale(figure, panels)
    return figure


def _proposals(made: AnchorExplanation, regions: Regions) -> Any:
    best = regions.boxes[:BEST]
    heading = f"{proposal_words(made)} Green: ground truth that one of those drawn overlaps by IoU 0.5; dashed: none."
    figure, panels = open_panels(made, ["the best ten", f"the best {len(best)}"], heading)
    for axes, shown in zip(panels, (best[:10], best), strict=True):
        show_image(axes, made, faded=len(shown) > 10)
        if len(shown):
            thin_boxes(axes, shown, POINT_COLOUR, 1.0 if len(shown) > 10 else 1.6)
        _covered(axes, made, shown)
    return figure


def _covered(axes: Any, made: AnchorExplanation, shown: torch.Tensor) -> None:
    """Ground truth, green where a proposal covers it, else dashed."""
    if made.ground_truth is None:
        return
    for box, ignored in zip(boxes_of(made.ground_truth), made.ground_truth.ignore.tolist(), strict=True):
        covered = len(shown) > 0 and float(overlaps(box[None], shown).max()) >= 0.5
        if not ignored:
            rectangle(axes, box, GROUND_TRUTH_COLOUR if covered else "white", dashed=not covered, width=1.4)


def draw_sampled(scene: Scene, ground_truth: GroundTruth, sampled: SampledRegions, heading: str = "") -> Any:
    """The regions of an image that were drawn to learn from, in the colours of their objects, and the background."""
    positive = sampled.positive
    titles = [f"{int(positive.sum())} that must learn an object", f"{int((~positive).sum())} that are background"]
    text = f"{heading}{sample_words(sampled)} A region has the colour of its object."
    figure, panels = open_panels(scene, titles, text)
    for axes, chosen in zip(panels, (positive, ~positive), strict=True):
        show_image(axes, scene, faded=True)
        if axes is panels[1]:
            thin_boxes(axes, sampled.boxes[chosen][:BEST], "#303030", 0.8)
        for index, box in enumerate(boxes_of(ground_truth)):
            mine = chosen & (sampled.owner == index)
            if axes is panels[0] and bool(mine.any()):
                thin_boxes(axes, sampled.boxes[mine], box_colour(index), 0.9)
            rectangle(axes, box, box_colour(index), dashed=bool(ground_truth.ignore[index]), width=1.4)
            number_tag(axes, scene, box, index, box_colour(index))
    return figure


def _detection(made: AnchorExplanation, index: int) -> Any:
    found, source, nearest = made.found, source_box(made, index), nearest_box(made, index)
    heading = (
        f"Detection {index}, {found.names[index]}, score {float(found.scores[index]):.2f}, comes from "
        f"{source_words(made, index)}. {nearest_words(made, index) or ''}"
    )
    unit = "proposal" if made.regions is not None else "anchor"
    figure, panels = open_panels(made, ["in the image", f"the {unit} and what it was refined to"], heading.strip())
    box = boxes_of(found)[index]
    for number, axes in enumerate(panels):
        show_image(axes, made)
        if number:
            zoom_to(axes, made, around(torch.stack([box, source])))
        if nearest is not None and made.ground_truth is not None:
            rectangle(axes, boxes_of(made.ground_truth)[nearest], GROUND_TRUTH_COLOUR, dashed=True, width=1.4)
        rectangle(axes, source, POINT_COLOUR, width=4.5)  # seen also where it was hardly changed
        rectangle(axes, box, FOUND_COLOUR)
    handles = [legend_line(panels[0], "detection", FOUND_COLOUR), legend_line(panels[0], unit, POINT_COLOUR)]
    if nearest is not None:
        handles.append(legend_line(panels[0], "ground truth", GROUND_TRUTH_COLOUR, style="--"))
    panels[0].legend(handles=handles, fontsize=8, loc="lower left", facecolor="#404040", labelcolor="white")
    return figure
