"""How sure an AP is: the same images drawn again and again, and the spread of AP over these draws (Efron 1979).

Matching is done per image, so it is not repeated. Every function draws the same images for the same seed and number of
images: the draws of two detectors are paired, and the spread of their difference is that on equal images.

Shape legend: N = images, S = draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from boxwright.evaluation.curves import curves_of, envelope_at_recalls
from boxwright.evaluation.matching import Floats, Matches

SAMPLES = 200
LEVEL = 0.95


def redrawn_ap(matches: Matches, images: int, *, samples: int = SAMPLES, seed: int = 0) -> Floats:
    """AP (S,) of as many images, drawn with replacement: the mean over the classes that the drawn images hold.

    Empty where there is no ground truth.
    """
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(images, np.full(images, 1 / images), size=samples)  # (S, N)
    figures = np.full((samples, len(matches.totals)), np.nan)
    for label in np.flatnonzero(matches.totals):
        rows = np.flatnonzero((matches.labels == label) & ~matches.ignored)
        rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
        homes = matches.total_images[matches.total_labels == label]
        for sample in range(samples):
            times = draws[sample]
            total = int(times[homes].sum())
            if total:
                copies = np.repeat(matches.hit[rows], times[matches.images[rows]])
                figures[sample, label] = envelope_at_recalls(np.cumsum(copies), total).mean()
    known = figures[~np.isnan(figures).all(1)]
    return np.nanmean(known, axis=1) if len(known) else np.zeros(0)


def interval(figure: float, redrawn: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a figure from its values in the draws (S,), at confidence `level`.

    Shifted to the figure itself, because an image drawn twice raises the precision envelope slightly.
    """
    low, high = np.quantile(redrawn, [(1 - level) / 2, (1 + level) / 2]) + figure - redrawn.mean()
    return float(low), float(high)


def bootstrap_ap(
    matches: Matches, *, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap confidence interval of the mean AP at confidence `level`; (0, 0) without ground truth.

    If the intervals of two models overlap much, these images do not tell which one is better.
    """
    images = 1 + int(max(matches.images.max(initial=0), matches.total_images.max(initial=0)))
    redrawn = redrawn_ap(matches, images, samples=samples, seed=seed)
    if not len(redrawn):
        return 0.0, 0.0
    low, high = interval(float(np.nanmean(curves_of(matches).average_precision)), redrawn, level)
    return max(0.0, low), min(1.0, high)


def redrawn_coco_ap(matches: Sequence[Matches], images: int, *, samples: int = SAMPLES, seed: int = 0) -> Floats:
    """The same (S,) for AP over several overlaps (`matching.match_at`): the mean over them."""
    values = [redrawn_ap(one, images, samples=samples, seed=seed) for one in matches]
    return np.mean(values, axis=0) if values else np.zeros(0)
