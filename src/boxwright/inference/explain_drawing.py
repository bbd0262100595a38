"""The images of an explanation: locations, owners, centerness and classes level by level, a box, a detection.

Everything is drawn in network pixels over the image as it is in its file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from boxwright.inference.explain import (
    Explanation,
    Lesson,
    learners,
    most_central,
    nearest_ground_truth,
    place,
    score_sum,
)
from boxwright.inference.explain_masks import draw_masks
from boxwright.inference.explain_panels import (
    FOUND_COLOUR,
    GROUND_TRUTH_COLOUR,
    POINT_COLOUR,
    arrows,
    box_colour,
    dots,
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
    zoom_to,
)
from boxwright.structures import GroundTruth
from boxwright.wording import counted


def write_explanation(
    explanation: Explanation,
    folder: Path,
    *,
    box: int | None = None,
    detection: int | None = None,
    label: int | None = None,
    masks: GroundTruth | None = None,
) -> list[Path]:
    """Write the images of an explanation as PNG files; their paths in reading order.

    `label` chooses the class of the class maps (the best class of each location if not given); a ground truth box and a
    detection are drawn where their numbers are given; `masks` is ground truth with masks, in the image's own pixels.
    """
    lesson = explanation.lesson
    known = None if lesson is None else lesson.ground_truth
    overview = draw_overview(
        explanation, explanation.found, known, explanation.classes, explanation.score_threshold
    )  # fmt: skip
    drawn = [("1_overview", overview), ("2_locations", _locations(explanation))]
    if lesson is not None:
        drawn.append(("3_owners", _owners(explanation, lesson)))
    drawn += [("4_centerness", _centerness(explanation)), ("5_classes", _classes(explanation, label))]
    if box is not None:
        drawn.append((f"6_box_{box}", _box(explanation, explanation.ground_truth_box(box), box)))
    if detection is not None:
        drawn.append((f"7_detection_{detection}", _detection(explanation, detection)))
    if explanation.restored.masks is not None:
        drawn.append(("9_masks", draw_masks(explanation.image, explanation.restored, masks, detection)))
    return save_figures(drawn, folder)


def _locations(explanation: Explanation) -> Any:
    titles = [
        f"{x.name}: stride {x.stride}, {x.size_hw[1]} x {x.size_hw[0]} locations\n"
        f"for boxes whose farthest side is {x.reach} pixels away"
        for x in explanation.levels
    ]
    heading = (
        "Locations: each dot is a place where the network predicts classes, a box and centerness. One dot "
        "stands in the middle of each cell of a feature map, one stride from the next."
    )
    figure, panels = open_panels(explanation, titles, heading)
    for axes, level in zip(panels, explanation.levels, strict=True):
        show_image(axes, explanation, faded=True)
        dots(axes, explanation.locations[level.rows], level.stride, POINT_COLOUR, 0.3)
    return figure


def _owners(explanation: Explanation, lesson: Lesson) -> Any:
    titles = []
    for level in explanation.levels:
        owner = lesson.owner[level.rows]
        ignored = int(lesson.ignored[level.rows].sum())
        titles.append(
            f"{level.name}: of {counted(len(owner), 'location')}, {learners(owner)}"
            + (f"\n{ignored} ignored (x)" if ignored else "")
        )
    radius = explanation.config.assignment.center_radius
    near = "" if radius is None else f", nearer than {radius:g} strides to its centre"
    heading = (
        f"Which box each location must learn: a dot has the colour of its box. It lies inside that box{near}, and the "
        "box's size suits its level; of several such boxes the smallest wins. Grey dots are background."
    )
    figure, panels = open_panels(explanation, titles, heading)
    for axes, level in zip(panels, explanation.levels, strict=True):
        show_image(axes, explanation, faded=True)
        owner, points = lesson.owner[level.rows], explanation.locations[level.rows]
        ignored_here = lesson.ignored[level.rows]
        dots(axes, points[(owner < 0) & ~ignored_here], level.stride, "#707070", 0.12)
        crosses = points[ignored_here]
        axes.scatter(crosses[:, 0], crosses[:, 1], marker="x", s=14, linewidths=0.8, color="black", zorder=4)
        for index in range(len(lesson.ground_truth)):
            mine = points[owner == index]
            box, colour = lesson.ground_truth.boxes[index], box_colour(index)
            if not len(mine):
                axes.add_patch(thin_box(box, ignored=bool(lesson.ground_truth.ignore[index])))
                continue
            rectangle(axes, box, colour)
            dots(axes, mine, level.stride, colour, 0.55, edge="black")
            number_tag(axes, explanation, box, index, colour)
    return figure


def _centerness(explanation: Explanation) -> Any:
    lesson, levels = explanation.lesson, explanation.levels
    titles = [f"{x.name}: predicted" for x in levels]
    if lesson is not None:
        titles = [f"{x.name}: target" for x in levels] + titles
    heading = (
        "Centerness: 1 in the middle of a box, 0 at its border. It is learnt inside boxes only, so what is "
        "predicted outside means nothing; there the class scores are low."
    )
    figure, panels = open_panels(explanation, titles, heading, rows=1 if lesson is None else 2)
    for number, axes in enumerate(panels):
        level = levels[number % len(levels)]
        target = lesson is not None and number < len(levels)
        show_image(axes, explanation, faded=True)
        values = (lesson.centerness if target and lesson is not None else explanation.centerness)[level.rows].numpy()
        heat_map(axes, level, np.ma.masked_less(values, 0))
        for box in lesson.ground_truth.boxes if lesson is not None else ():
            axes.add_patch(thin_box(box, ignored=False))
    heat_scale(figure, panels)
    return figure


def _classes(explanation: Explanation, label: int | None) -> Any:
    levels = explanation.levels
    what = "best class" if label is None else explanation.classes.names[label]
    titles = [f"{x.name}: class score, {what}" for x in levels] + [f"{x.name}: final score, {what}" for x in levels]
    heading = (
        "Class scores, and final scores = sqrt(class score x centerness), which rank the detections: centerness "
        "takes away from locations far from the middle of their object."
    )
    figure, panels = open_panels(explanation, titles, heading, rows=2)
    for number, axes in enumerate(panels):
        level = levels[number % len(levels)]
        scores = explanation.class_scores if number < len(levels) else explanation.scores
        chosen = scores.amax(1) if label is None else scores[:, label]
        show_image(axes, explanation, faded=True)
        heat_map(axes, level, chosen[level.rows].numpy())
    heat_scale(figure, panels)
    return figure


def _box(explanation: Explanation, lesson: Lesson, index: int) -> Any:
    box, name = lesson.ground_truth.boxes[index], explanation.classes.names[int(lesson.ground_truth.labels[index])]
    counts = [int((lesson.owner[level.rows] == index).sum()) for level in explanation.levels]
    titles = [
        f"{x.name}: learnt by {counted(count, 'location')}\n(a level for a farthest side {x.reach} pixels away)"
        for x, count in zip(explanation.levels, counts, strict=True)
    ]
    central = most_central(lesson, index) if sum(counts) else None
    heading = (
        f"Ground truth box {index}, {name}. Green dots must learn it, grey dots belong to other boxes or to background."
    )
    if central is not None:
        target = float(lesson.centerness[central])
        heading += (
            f" Arrows: the four distances in network pixels from its most central location, "
            f"{place(explanation, central)}; centerness target {target:.2f}."
        )
    figure, panels = open_panels(explanation, titles, heading)
    for axes, level in zip(panels, explanation.levels, strict=True):
        show_image(axes, explanation)
        zoom_to(axes, explanation, box)
        rectangle(axes, box, GROUND_TRUTH_COLOUR)
        points, mine = explanation.locations[level.rows], lesson.owner[level.rows] == index
        dots(axes, points[~mine], level.stride, "#8c8c8c", 0.16)
        dots(axes, points[mine], level.stride, GROUND_TRUTH_COLOUR, 0.4, edge="black")
        if central is not None and explanation.level_of(central) is level:
            arrows(axes, explanation, explanation.locations[central], lesson.distances[central])
    return figure


def _detection(explanation: Explanation, index: int) -> Any:
    found = explanation.found
    location = int(explanation.source[index])
    box, level = found.boxes[index], explanation.level_of(location)
    heading = f"Detection {index}, {found.names[index]}: {score_sum(explanation, index)}, "
    heading += f"from {place(explanation, location)}."
    nearest = nearest_ground_truth(explanation, index)
    if nearest:
        heading += f" {nearest[1]}"
    titles = [f"the locations of {level.name}, and the one that speaks (red)", "its four distances in network pixels"]
    figure, panels = open_panels(explanation, titles, heading)
    for number, axes in enumerate(panels):
        show_image(axes, explanation)
        if number:
            zoom_to(axes, explanation, box)
        if nearest and explanation.lesson is not None:
            rectangle(
                axes, explanation.lesson.ground_truth.boxes[nearest[0]], GROUND_TRUTH_COLOUR, dashed=True, width=1.4
            )
        rectangle(axes, box, FOUND_COLOUR)
        dots(axes, explanation.locations[level.rows], level.stride, "#8c8c8c", 0.14)
        dots(axes, explanation.locations[location][None], level.stride, POINT_COLOUR, 0.5)
    arrows(panels[1], explanation, explanation.locations[location], explanation.distances[location])
    handles = [legend_line(panels[0], "detection", FOUND_COLOUR)]
    if nearest:
        handles.append(legend_line(panels[0], "ground truth", GROUND_TRUTH_COLOUR, style="--"))
    panels[0].legend(handles=handles, fontsize=8, loc="lower left", facecolor="#404040", labelcolor="white")
    return figure
