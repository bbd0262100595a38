"""The section about pixels: figures of labels and segments class by class, and images with the most wrong pixels."""

from __future__ import annotations

from boxwright.evaluation.page.drawn import embedded
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.html import fraction, table, text
from boxwright.evaluation.pixel_tables import pixel_tables
from boxwright.structures import Detections, GroundTruth
from boxwright.structures.classes import IGNORED
from boxwright.visualize.drawing import draw

_CAPTIONS = {
    "label": "Labels of pixels: intersection over union, and the share of the label's pixels that have it",
    "class": "Segments: panoptic quality, the mean overlap of found ones, and the F1 of finding them",
}


def pixel_section(facts: RunFacts, most: int) -> str:
    """The tables, then at most `most` images, the worst first, each as it is labelled and as the model sees it."""
    pixels = facts.evaluation.pixels
    if pixels is None:
        return "<p>No image of the split has labels of pixels.</p>"
    parts = []
    for one in pixel_tables(pixels):
        rows = [[text(name), str(amount), *map(fraction, values)] for name, amount, values in one.rows]
        parts.append(table(_CAPTIONS[one.rows_are], [one.rows_are, *one.columns], rows))
    figures = "".join(_figure(facts, row, wrong) for row, wrong in _worst(facts)[:most])
    if figures:
        parts.append(
            "<h3>Images with the most wrong pixels: labels (left), and what the model gives (right)</h3>"
            f'<div class="gallery">{figures}</div>'
        )
    return "".join(parts)


def _worst(facts: RunFacts) -> list[tuple[int, float]]:
    """Images whose maps are still there, with the share of their labelled pixels that is wrong, most first."""
    found = []
    pairs = zip(facts.inputs.detections, facts.inputs.ground_truths, strict=True)
    for row, (one, ground_truth) in enumerate(pairs):
        if one.semantic is None or ground_truth.semantic is None:
            continue
        known = ground_truth.semantic != IGNORED
        if bool(known.any()):
            found.append((row, float((one.semantic.cpu() != ground_truth.semantic)[known].float().mean())))
    return sorted(found, key=lambda pair: -pair[1])


def _figure(facts: RunFacts, row: int, wrong: float) -> str:
    path = facts.inputs.paths[row]
    image = facts.read(path)
    shown: list[str] = []
    both: tuple[tuple[Detections | GroundTruth, str], ...] = (
        (facts.inputs.ground_truths[row], "labels"), (facts.inputs.detections[row].above(facts.score), "prediction"),
    )  # fmt: skip
    for one, what in both:
        drawn = embedded(draw(image, one, classes=facts.classes), 280)
        shown.append(f'<img src="{drawn}" alt="{text(f"{path.name}: {what}")}">')
    caption = f"{text(path.name)}: {wrong:.1%} of the pixels are wrong"
    halves = "".join(shown)
    return f'<figure><div class="halves">{halves}</div><figcaption>{caption}</figcaption></figure>'
