"""What to do next: sentences that follow from the findings of a run, the most useful first."""

from __future__ import annotations

from typing import NamedTuple

from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.mistakes import CONFUSED, FALSE, MISPLACED, MISSED, TWICE
from boxwright.wording import counted
from boxwright.writing import printable

FEW_OBJECTS = 50
"""Training objects of a class below which more labels help first."""
WIDE = 0.1
"""Width of the interval of AP50 from which the validation images are too few."""
LITTLE = 0.2
"""AP50 below which nothing but training matters."""
SHARE = 0.3
"""Share of all mistakes from which a kind is named."""


class Advice(NamedTuple):
    """What to do, and the finding that it follows from."""

    do: str
    because: str


def advice(facts: RunFacts) -> list[Advice]:
    """What to do next; never empty."""
    diagnosis = [Advice("Look at this first", sentence) for sentence in facts.evaluation.diagnosis]
    found = [*diagnosis, *_of_data(facts), *_of_curves(facts)]
    if facts.inputs.objects:
        found += [*_of_sizes(facts), *_of_mistakes(facts)]
    if facts.split == "test":
        last = Advice("Choose nothing by these figures", "a test split that choices were made by is one no more")
    else:
        last = Advice(
            "Evaluate once on images that no choice was made by",
            "if the folder has a test split: boxwright report RUN --split test",
        )
    return [*found, last]


def _of_data(facts: RunFacts) -> list[Advice]:
    found, findings = [], (facts.check or {}).get("findings", [])
    errors = [one for one in findings if one.get("severity") == "error"]
    shared = [one for one in findings if one.get("kind") == "image-in-two-splits"]
    if shared:
        found.append(
            Advice(
                "Remove images from one of the two splits that hold them",
                f"{counted(len(shared), 'image')} of one split came up in another, so the figures flatter the model",
            )
        )
    if errors:
        found.append(
            Advice(
                f"Mend the {counted(len(errors), 'error')} in the labels",
                f"what is wrong is left out of training; the first: {errors[0].get('message', '')}",
            )
        )
    per_class = facts.statistics(facts.train_split).get("per_class", {})
    rare = sorted((count, name) for name, count in per_class.items() if count < FEW_OBJECTS)
    if rare:
        names = ", ".join(f"{printable(name)} ({count})" for count, name in rare[:5])
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        found.append(
            Advice(
                "Label more objects of the rare classes",
                f"fewer than {FEW_OBJECTS} training objects: {names}{more}. Until then data.repeat_threshold shows "
                "their images more often",
            )
        )
    interval = facts.evaluation.figures.get("AP50_interval")
    if interval and interval[1] - interval[0] > WIDE:
        found.append(
            Advice(
                "Validate on more images",
                f"with these {len(facts.inputs.paths)} AP50 may be anything from {interval[0]:.2f} to "
                f"{interval[1]:.2f} (95 %): small gains cannot be told from chance",
            )
        )
    return found


def _of_curves(facts: RunFacts) -> list[Advice]:
    steps, losses = facts.column("val/loss")
    known = [(step, loss) for step, loss in zip(steps, losses, strict=True) if loss is not None]
    _, aps = facts.column("val/AP")
    figures = [ap for ap in aps if ap is not None]
    found = []
    if len(known) >= 3:
        step, least = min(known, key=lambda pair: pair[1])
        if step < 0.7 * known[-1][0] and known[-1][1] > 1.05 * least:
            found.append(
                Advice(
                    "Use more images or stronger augmentation, or stop earlier",
                    f"the validation loss was least at step {step:.0f} and rose by "
                    f"{known[-1][1] / least - 1:.0%} since: the model learns its training images by heart",
                )
            )
    ap50 = facts.evaluation.figures["AP50"]
    if ap50 is not None and ap50 < LITTLE and not facts.evaluation.diagnosis:
        found.append(
            Advice(
                "Train longer, or begin from trained weights: train --weights, or a recipe with a pretrained backbone",
                f"AP50 is {ap50:.2f}: the model has learned little yet, and the advice below is about noise",
            )
        )
    elif len(figures) >= 3 and figures[-1] >= max(figures) and figures[-1] - figures[-1 - len(figures) // 3] > 0.02:
        found.append(
            Advice(
                "Train longer",
                "AP was still rising at the end: give a larger schedule.steps (or schedule.epochs, or --minutes)",
            )
        )
    return found


def _of_sizes(facts: RunFacts) -> list[Advice]:
    small, large = (facts.evaluation.figures.get(key) for key in ("APs", "APl"))
    medium = facts.evaluation.figures.get("APm")
    most = max((value for value in (medium, large) if value is not None), default=None)
    if small is None or most is None or small >= 0.5 * most or most < 0.1:
        return []
    return [
        Advice(
            "Train on larger images: data.resize.size",
            f"AP of objects below 32 x 32 pixels is {small:.2f}, that of larger ones {most:.2f}",
        )
    ]


def _of_mistakes(facts: RunFacts) -> list[Advice]:
    counts = facts.mistakes.counts()
    total = sum(counts.values())
    at = f"of the mistakes at score {facts.score:.2f}"
    texts = {
        MISSED: "Look at the missed objects: are they labelled as the others are, and are there enough like them?",
        FALSE: "Look at the false detections: label what is really there, and add images without objects like them",
        MISPLACED: "Look at the badly placed boxes: labels that are not tight teach boxes that are not",
        TWICE: "Lower detect.nms_iou, so that one object keeps one box",
    }
    found = []
    for kind, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        if not count or count < SHARE * total:
            continue
        if kind != CONFUSED:
            found.append(Advice(texts[kind], f"{count} {at} are of the kind {kind!r} ({count / total:.0%})"))
        elif pairs := facts.confused_pairs(1):
            actual, taken, times = (*map(printable, pairs[0][:2]), pairs[0][2])
            found.append(
                Advice(
                    f"Tell {actual} from {taken}: check their labels, or merge them with --classes",
                    f"{counted(times, 'object')} of {actual} are taken for {taken}, the most frequent confusion",
                )
            )
    return found
