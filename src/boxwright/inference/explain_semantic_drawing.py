"""The drawings of an explanation of maps: labels, confidence, the probability of each class, mistakes and segments.

Shape legend: H W = height and width of a map, which is in the pixels of its scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwright.inference.explain_masks import overlay
from boxwright.inference.explain_panels import (
    MOST_PIXELS,
    Scene,
    box_colour,
    heat_plane,
    heat_scale,
    legend_line,
    open_panels,
    own_pixels,
    save_figures,
    show_image,
    tag,
)
from boxwright.inference.explain_semantic import (
    SegmentComparison,
    SemanticExplanation,
    compare_segments,
    describe_segments,
    share_words,
)
from boxwright.ops.semantic import IGNORED
from boxwright.structures import Classes, CroppedMask
from boxwright.visualize.drawing import NUM_COLOURS
from boxwright.visualize.stuff import Region, label_colour, label_name
from boxwright.wording import counted

SHOWN = 9
"""Classes whose probabilities are drawn."""
IN_LEGEND = 12
UNKNOWN = (0.12, 0.12, 0.12)
"""Of pixels without a label."""
WRONG = (1.0, 0.18, 0.18)
GREY = (0.55, 0.55, 0.55)
"""Of a segment that counts for nothing: most of it lies where the ground truth knows nothing."""


def write_semantic_explanation(made: SemanticExplanation, folder: Path, *, label: int | None = None) -> list[Path]:
    """Write the images of a Semantic FPN's explanation as PNG files; their paths in reading order.

    `label` chooses the class whose probability is drawn; all that the image has if not given.
    """
    named = dict(semantic_figures(made, label))
    order = ("map", "confidence", "classes", "mistakes")
    names = ("1_overview", "2_confidence", "3_classes", "4_mistakes")
    return save_figures([(name, named[key]) for name, key in zip(names, order, strict=True) if key in named], folder)


def semantic_figures(made: SemanticExplanation, label: int | None = None) -> list[tuple[str, Any]]:
    """The drawings by what they show: map, confidence, classes, mistakes and segments, where there are such."""
    drawn = [
        ("map", _map(made)),
        ("confidence", _confidence(made)),
        ("classes", _classes(made, label)),
    ]
    if made.wrong is not None:
        drawn.append(("mistakes", _mistakes(made, made.wrong)))
    compared = compare_segments(made)
    if compared is not None:
        drawn.append(("segments", _segments(made, compared)))
    return drawn


def draw_label_maps(
    scene: Scene, maps: Sequence[Tensor], titles: Sequence[str], heading: str, classes: Classes, *, opaque: bool = False
) -> Any:
    """Maps of labels (H, W) over an image, each in a panel of its own, with the colours of their classes.

    A pixel of label 255 is dark, or where `opaque` maps show some pixels only, left out.
    """
    figure, panels = open_panels(scene, titles, heading, foot=0.4)
    for axes, semantic in zip(panels, maps, strict=True):
        show_image(axes, scene, faded=opaque)
        small = semantic[:: _step(semantic), :: _step(semantic)].numpy()
        colours = np.zeros((IGNORED + 1, 4), dtype=np.float32)
        present = [label for label in np.unique(small).tolist() if label != IGNORED]
        for label in present:
            colours[label] = (*box_colour(label_colour(label, classes)), 0.9 if opaque else 0.6)
        colours[IGNORED] = (*UNKNOWN, 0.0 if opaque else 0.75)
        _over(axes, colours[small], semantic)
        handles = [
            legend_line(axes, label_name(label, classes), box_colour(label_colour(label, classes)))
            for label in present[:IN_LEGEND]
        ]
        if not opaque and bool((semantic == IGNORED).any()):
            handles.append(legend_line(axes, "without a label", UNKNOWN))
        if handles:
            axes.legend(
                handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False
            )
    return figure


def _step(plane: Tensor) -> int:
    """Every so manieth pixel is drawn of a large map."""
    return -(-max(plane.shape) // MOST_PIXELS)


def _over(axes: Any, canvas: Any, plane: Tensor) -> None:
    height, width = plane.shape
    axes.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", zorder=2)


def _map(made: SemanticExplanation) -> Any:
    figures, maps, titles = made.figures(), [made.labels], ["predicted"]
    if made.wanted is not None and figures is not None:
        maps.insert(0, made.wanted)
        titles.insert(0, "ground truth")
        if figures.mean_iou is not None:
            titles[1] += f": mIoU {figures.mean_iou:.2f}, {figures.pixel_accuracy:.1%} of the labels right"
    heading = "The semantic map: the class of each pixel, in the image's own pixels."
    return draw_label_maps(own_pixels(made.image), maps, titles, heading, made.classes)


def _confidence(made: SemanticExplanation) -> Any:
    scene, confidence = own_pixels(made.image), made.confidence()
    titles = [f"mean {float(confidence.mean()):.2f}, least {float(confidence.min()):.2f}"]
    figure, panels = open_panels(scene, titles, "Confidence: the probability of the class that each pixel gets.")
    _heat(panels[0], scene, confidence)
    heat_scale(figure, panels)
    return figure


def _classes(made: SemanticExplanation, label: int | None) -> Any:
    scene = own_pixels(made.image)
    present = made.present()
    chosen = present[:SHOWN] if label is None else [label]
    heading = "Probability of each class."
    if len(present) > len(chosen) and label is None:
        heading = f"Probability of the {counted(len(chosen), 'class')} of most pixels; --class draws another."
    if label is not None:
        heading = f"Probability of {label_name(label, made.classes)}."
    if made.wanted is not None:
        heading += " Green lines: where the ground truth has it."
    titles = []
    for one in chosen:
        title = f"{label_name(one, made.classes)}: {share_words(made.labels == one)} of the pixels get it"
        titles.append(title + ("" if made.wanted is None else f", {share_words(made.wanted == one)} should"))
    figure, panels = open_panels(scene, titles, heading)
    for axes, one in zip(panels, chosen, strict=True):
        _heat(axes, scene, made.confidence(one))
        if made.wanted is not None:
            _outline(axes, made.wanted == one)
    heat_scale(figure, panels)
    return figure


def _heat(axes: Any, scene: Scene, plane: Tensor) -> None:
    show_image(axes, scene, faded=True)
    heat_plane(axes, plane[:: _step(plane), :: _step(plane)].numpy(), (plane.shape[0], plane.shape[1]))


def _outline(axes: Any, inside: Tensor) -> None:
    """The border of what the ground truth says."""
    small = inside[:: _step(inside), :: _step(inside)].float().numpy()
    if 0 < small.mean() < 1:
        rows, columns = ((np.arange(side) + 0.5) * _step(inside) for side in small.shape)
        axes.contour(columns, rows, small, levels=[0.5], colors=["#2bff88"], linewidths=0.9, zorder=3)


def _mistakes(made: SemanticExplanation, wrong: Tensor) -> Any:
    wanted = made.wanted
    assert wanted is not None
    nothing = torch.full_like(wanted, IGNORED)
    maps = [torch.where(wrong, wanted, nothing), torch.where(wrong, made.labels, nothing)]
    known = int((wanted != IGNORED).sum())
    heading = (
        f"Mistakes: {counted(int(wrong.sum()), 'pixel')}, {int(wrong.sum()) / max(1, known):.1%} of those with a known "
        "label. The others are grey."
    )
    titles = ["what they are in the ground truth", "what they are predicted as"]
    return draw_label_maps(own_pixels(made.image), maps, titles, heading, made.classes, opaque=True)


def _reddish(colour: tuple[float, float, float]) -> bool:
    """Whether a colour may be taken for that of what is wrong."""
    red, green, blue = colour
    return red > 0.5 and max(green, blue) < 0.6 * red


def _segments(made: SemanticExplanation, compared: SegmentComparison) -> Any:
    found, true, matches, _ = compared
    scene, names = own_pixels(made.image), (*made.classes.names, *made.classes.stuff)
    sides, titles = [found], [f"{counted(len(found.labels), 'predicted segment')}"]
    heading = f"{describe_segments(made)[0]} Grey: no segment."
    calm = [colour for colour in map(box_colour, range(NUM_COLOURS)) if not _reddish(colour)]

    def tint_of(number: int) -> tuple[float, float, float]:
        return calm[number % len(calm)]

    colours: list[list[Any]] = [[tint_of(number) for number in range(len(found.labels))]]
    if true is not None and matches is not None:
        sides.insert(0, true)
        titles.insert(0, f"{counted(len(true.labels), 'segment')} of the ground truth")
        missed, wrong = matches.missed.tolist(), matches.wrong.tolist()
        own = [WRONG if flag else tint_of(number) for number, flag in enumerate(missed)]
        pairs = dict((column, row) for row, column in matches.match.nonzero().tolist())
        theirs = [
            tint_of(pairs[number]) if number in pairs else WRONG if flag else GREY for number, flag in enumerate(wrong)
        ]
        colours = [own, theirs]
        heading += " Matched segments have one colour; red: missed on the left, wrong on the right."
    figure, panels = open_panels(scene, titles, heading)
    hw = (int(made.image.shape[1]), int(made.image.shape[2]))
    for axes, side, tints in zip(panels, sides, colours, strict=True):
        show_image(axes, scene, faded=True)
        planes = [side.map == number for number in range(1, len(side.labels) + 1)]
        overlay(axes, [CroppedMask(0, 0, plane).tight() for plane in planes], tints, hw)
        for plane, label, tint in zip(planes, side.labels, tints, strict=True):
            x, y = Region(plane, "", 0).middle()
            x = min(max(x, round(0.06 * hw[1])), round(0.94 * hw[1]))  # wholly inside the panel
            tag(axes, x, y, names[label], tint, size=7, anchor="center")
    return figure
