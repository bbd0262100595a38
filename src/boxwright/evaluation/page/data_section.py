"""The section about the data: statistics of the splits, the findings of the preflight, sample images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from boxwright.evaluation.page.drawn import LONGEST, Mark, embedded, marked_image
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.html import table, text
from boxwright.structures import GroundTruth
from boxwright.visualize.drawing import draw
from boxwright.wording import counted

FINDINGS_SHOWN = 5
CLASSES_SHOWN = 60


def data_section(facts: RunFacts, samples: int) -> str:
    """Splits, classes, findings, and `samples` validation images with their ground truth."""
    parts = []
    if facts.check is None:
        parts.append('<p class="quiet">The run folder has no dataset_check.json: nothing is known of the check.</p>')
    else:
        splits = facts.check.get("splits", {})
        folder = f"Folder {facts.check.get('root', '')}, layout {facts.check.get('format', '')}"
        parts.append(f'<p class="quiet">{text(folder)}</p>')
        parts += [_splits(splits), _classes(splits), _findings(facts.check.get("findings", []))]
    parts.append(_samples(facts, samples))
    return "".join(parts)


def _splits(splits: Mapping[str, Any]) -> str:
    rows = []
    for name, one in splits.items():
        sides = "/".join(f"{side:.0f}" for side in one["side_px"]) if one.get("side_px") else "–"
        small, large = one.get("smallest_hw"), one.get("largest_hw")
        size = f"{small[1]} x {small[0]}" if small else "–"
        size += f" to {large[1]} x {large[0]}" if large and large != small else ""
        rows.append([text(name), *(str(one[key]) for key in ("images", "empty", "objects", "ignored")), size, sides])
    heads = ["split", "images", "without objects", "objects", "ignored", "width x height", "side of an object"]
    return table("Splits; the side is the root of the area, smallest/median/largest, in pixels", heads, rows)


def _classes(splits: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for one in splits.values() for name in one.get("per_class", {})))
    first: Mapping[str, int] = {}
    if splits:
        first = next(iter(splits.values())).get("per_class", {})
    most = max([1, *first.values()])
    rows = []
    for name in sorted(names, key=lambda name: -first.get(name, 0))[:CLASSES_SHOWN]:
        counts = [str(one.get("per_class", {}).get(name, 0)) for one in splits.values()]
        bar = f'<span class="bar" style="width:{90 * first.get(name, 0) / most:.0f}px"></span>'
        rows.append([text(name), bar + counts[0], *counts[1:]])
    shown = f", the {CLASSES_SHOWN} most frequent of {len(names)}" if len(names) > CLASSES_SHOWN else ""
    return table(f"Objects by class{shown}", ["class", *splits], rows)


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return "<h3>Check of the data</h3><p>No findings.</p>"
    by_kind: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for finding in findings:
        by_kind[str(finding["kind"])].append(finding)
    rows = []
    for kind, found in by_kind.items():
        severity = str(found[0]["severity"])
        lines = [f"{text(one['where'])}: {text(one['message'])}" for one in found[:FINDINGS_SHOWN]]
        more = f"<br>and {len(found) - FINDINGS_SHOWN} more" if len(found) > FINDINGS_SHOWN else ""
        rows.append([text(kind), f'<span class="{text(severity)}">{text(severity)}</span>', str(len(found)),
                     "<br>".join(lines) + more])  # fmt: skip
    caption = f"Check of the data before training: {counted(len(findings), 'finding')}"
    return table(caption, ["kind", "severity", "number", "where and what"], rows, words=(3,))


def _samples(facts: RunFacts, most: int) -> str:
    """Images evenly taken from those with objects, or with labels of pixels."""
    labelled = [row for row, one in enumerate(facts.inputs.ground_truths) if len(one) or one.semantic is not None]
    step = max(1, len(labelled) // most)
    figures = [_sample(facts, row) for row in labelled[::step][:most]]
    if not figures:
        return '<p class="quiet">No validation image has an object.</p>'
    return (
        f'<h3>Images of {text(facts.split)} with their ground truth</h3><div class="gallery">{"".join(figures)}</div>'
    )


def _sample(facts: RunFacts, row: int) -> str:
    """One image with its ground truth: boxes as sharp lines; masks, keypoints and maps as they are drawn."""
    path, ground_truth = facts.inputs.paths[row], facts.inputs.ground_truths[row]
    alt = f"{path.name} with {counted(len(ground_truth), 'object')} of the ground truth"
    further = (ground_truth.masks, ground_truth.keypoints, ground_truth.semantic)
    if all(part is None for part in further):
        shown = marked_image(facts.small(path), ground_truth_marks(ground_truth, facts.classes.names), alt)
    else:
        image = facts.read(path)
        longest = max(image.shape[1:])
        scale = LONGEST // longest or LONGEST / longest  # as large as it is shown: labels of a larger one get too small
        uri = embedded(draw(image, ground_truth, classes=facts.classes, scale=scale))
        shown = f'<img class="image" src="{uri}" alt="{text(alt)}">'
    return f"<figure>{shown}<figcaption>{text(path.name)}</figcaption></figure>"


def ground_truth_marks(ground_truth: GroundTruth, names: Sequence[str]) -> list[Mark]:
    """The objects of an image; of a crowd only the boxes."""
    turned = [None] * len(ground_truth) if ground_truth.rotated is None else ground_truth.rotated.tolist()
    rows = zip(
        ground_truth.boxes.tolist(), ground_truth.labels.tolist(), ground_truth.ignore.tolist(), turned, strict=True
    )
    tagged = len(ground_truth) <= 8
    return [
        Mark(
            (box[0], box[1], box[2], box[3]), "ignored" if ignored else "object", names[label] if tagged else "",
            rotated=rotated,
        )
        for box, label, ignored, rotated in rows
    ]  # fmt: skip
