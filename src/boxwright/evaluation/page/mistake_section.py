"""The section about mistakes: how many of each kind, and the images with the worst of them, drawn."""

from __future__ import annotations

import numpy as np

from boxwright.evaluation.page.drawn import Mark, marked_image
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.html import table, text
from boxwright.evaluation.page.mistakes import CONFUSED, KINDS, MISPLACED, MISSED, TWICE
from boxwright.wording import counted

TAGS = 6
"""Tags drawn in an image at most; the boxes are all drawn."""
_KEYS = (("right", "right detection"), ("wrong", "wrong detection"), ("missed", "missed object"),
         ("object", "other object of the ground truth"), ("ignored", "ignored"))  # fmt: skip
TITLES = {
    MISSED: "Missed objects",
    "false": "False detections",
    MISPLACED: "Badly placed boxes",
    CONFUSED: "Wrong classes",
    TWICE: "Duplicates",
}


def mistake_section(facts: RunFacts, most: int) -> str:
    """Counts of the kinds, then at most `most` images of each, the worst first."""
    counts = facts.mistakes.counts()
    right = sum(1 for kind, row in zip(facts.mistakes.of_detection, facts.mistakes.partner, strict=True)
                if not kind and row >= 0)  # fmt: skip
    rows = [[text(TITLES[kind]), str(counts[kind]), text(words)] for kind, words in KINDS.items()]
    rows.append(["Right detections", str(right), "of their class, with an IoU of at least 0.5"])
    caption = f"Mistakes at score {facts.score:.3f}, IoU {facts.mistakes.iou:g}"
    parts = [table(caption, ["kind", "number", "what they are"], rows, words=(2,)), _legend()]
    for kind in KINDS:
        images = facts.mistakes.worst_images(kind, most)
        if images:
            figures = "".join(_figure(facts, image, kind) for image in images)
            parts.append(f'<h3>{TITLES[kind]}: the worst images</h3><div class="gallery">{figures}</div>')
    if not sum(counts.values()):
        parts.append("<p>No mistakes at this score.</p>")
    return "".join(parts)


def _legend() -> str:
    keys = "".join(
        f'<li class="boxkey"><svg class="key" viewBox="0 0 26 16" aria-hidden="true"><rect class="{style}" x="3" y="2" '
        f'width="20" height="12"/></svg>{words}</li>'
        for style, words in _KEYS
    )
    return f'<ul class="legend" aria-label="Boxes in the images">{keys}</ul>'


def _figure(facts: RunFacts, image: int, kind: str) -> str:
    """One image with its ground truth and detections; tags stand at the mistakes of the kind."""
    all_mistakes, names = facts.mistakes, facts.classes.names
    one = all_mistakes.gathered
    marks: list[Mark] = []
    found = np.flatnonzero(one.images == image).tolist()
    shown = [row for row in found if all_mistakes.of_detection[row] == kind]
    about = {int(all_mistakes.partner[row]) for row in shown}
    of_image = np.flatnonzero(one.ground_truth_images == image).tolist()
    if kind == MISSED:
        about = {row for row in of_image if all_mistakes.of_object[row] == MISSED}
    mine = len(about if kind == MISSED else shown)
    tags = set(sorted(about)[:TAGS] if kind == MISSED else shown[:TAGS])
    for row in of_image:
        lost = all_mistakes.of_object[row] == MISSED
        style = "ignored" if one.ground_truth_ignore[row] else "missed" if lost else "object"
        words = names[int(one.ground_truth_labels[row])] if kind == MISSED and row in tags else ""
        turned = None if one.ground_truth_rotated is None else one.ground_truth_rotated[row].tolist()
        box = _corners(one.ground_truth_boxes[row].tolist())
        marks.append(Mark(box, style, words, dim=row not in about, rotated=turned))
    for row in found:
        own = all_mistakes.of_detection[row]
        words = f"{names[int(one.labels[row])]} {one.scores[row]:.2f}" if kind != MISSED and row in tags else ""
        style = "wrong" if own else "right"
        turned = None if one.rotated is None else one.rotated[row].tolist()
        box = _corners(one.boxes[row].tolist())
        marks.append(Mark(box, style, words, dim=own != kind or kind == MISSED, rotated=turned))
    marks.sort(key=lambda mark: not mark.dim)  # what the image is shown for lies on top
    path = facts.inputs.paths[image]
    objects = int(np.sum((one.ground_truth_images == image) & ~one.ground_truth_ignore))
    said = f"{counted(mine, 'mistake')} of this kind; {counted(objects, 'object')}"
    drawn = marked_image(facts.small(path), marks, f"{path.name}: {TITLES[kind]}, {said}, ground truth and detections")
    return f"<figure>{drawn}<figcaption>{text(path.name)}: {said}</figcaption></figure>"


def _corners(box: list[float]) -> tuple[float, float, float, float]:
    return box[0], box[1], box[2], box[3]
