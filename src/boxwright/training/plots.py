"""The images of a run folder: curves of a run, statistics of the labels, and sheets of drawn images.

Everything here takes plain data and writes one file. Shape legend: B = images, G = boxes of a whole dataset,
H W = height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from boxwright.evaluation.report import plain_figure
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.training.columns import FLOOR, is_floor
from boxwright.visualize import class_colour, contact_sheet, draw, save
from boxwright.wording import counted
from boxwright.writing import printable, writing

Values = npt.NDArray[np.float64]

TRAIN_COLOUR, VALIDATION_COLOUR, FLOOR_COLOUR = "#1f5fbf", "#d9541e", "#6b6b6b"
SHOWN_SCORES = (
    "AP",
    "AP50",
    "AP75",
    "segm_AP",
    "segm_AP50",
    "keypoint_AP",
    "keypoint_AP50",
    "rotated_AP",
    "rotated_AP50",
    "mIoU",
    "PQ",
    "precision",
    "recall",
    "F1",
)
MOST_CLASSES_SHOWN = 40
CELL_SIDE = 480  # pixels of an image on a contact sheet


def _clean(axes: Any, title: str, x_label: str = "", y_label: str = "") -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


# ---- curves of a run ------------------------------------------------------------------------------------------------


def plot_results(rows: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Write the curves of a run against its steps: each loss for train and val, AP, learning rate and speed.

    `rows` are the logged rows; a key may be absent from any of them. Of the losses in training the single steps are
    drawn where any are logged, else the means that rows of validations hold. A loss that has a floor is drawn above it:
    cross-entropy with soft targets cannot fall below their entropy, so only the part between the two can be learned.
    """
    # The row of a validation has the mean of all steps since the one before; beside single steps it would draw teeth.
    single = [row for row in rows if not any(key.startswith("val/") for key in row)]
    shown = {key: single if key.startswith("train/") and any(key in row for row in single) else rows
             for row in rows for key in row}  # fmt: skip
    series = {key: _series(logged, key) for key, logged in shown.items()}
    series = {key: (steps, values) for key, (steps, values) in series.items() if len(steps)}
    names = dict.fromkeys(
        key.removeprefix("train/") for key in series if key.startswith("train/") and not is_floor(key, series)
    )
    losses = (["loss"] if "loss" in names or "val/loss" in series else []) + [name for name in names if name != "loss"]
    scores = [name for name in SHOWN_SCORES if f"val/{name}" in series and name not in names]
    singles = [(key, title) for key, title in (("lr", "learning rate"), ("images_per_second", "images a second"))
               if key in series]  # fmt: skip
    count = len(losses) + bool(scores) + len(singles)
    columns = min(max(count, 1), 3 if count <= 6 else 4)
    figure = plain_figure(4.4 * columns, 3.3 * max(1, -(-count // columns)))
    if not count:
        figure.text(0.5, 0.5, "nothing logged yet", ha="center", va="center", fontsize=14)
    panels = iter([figure.add_subplot(-(-count // columns), columns, place + 1) for place in range(count)])
    last_step = max((float(steps.max()) for steps, _ in series.values()), default=1.0)
    for name in losses:
        floor = series.get(f"train/{name}{FLOOR}")
        _plot_loss(next(panels), name, series.get(f"train/{name}"), series.get(f"val/{name}"), floor)
    if scores:
        _plot_scores(next(panels), {name: series[f"val/{name}"] for name in scores})
    for key, title in singles:
        axes = next(panels)
        axes.plot(*series[key], color=TRAIN_COLOUR, linewidth=1.5, **_marks(series[key][0]))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _clean(axes, title, "step")
    for axes in figure.axes:  # the same steps under all curves, so that they can be compared
        axes.set_xlim(0, 1.02 * (last_step or 1.0))
    with writing(Path(path)) as file:
        figure.savefig(file)


def _series(rows: Sequence[Mapping[str, float]], key: str) -> tuple[Values, Values]:
    """Steps and finite values of one logged key; a row without a step counts by its place."""
    pairs = [(row.get("step", place), row[key]) for place, row in enumerate(rows) if row.get(key) is not None]
    found = np.array([(float(step), float(value)) for step, value in pairs if _finite(value)]).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _finite(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(float(value))


def _marks(steps: Values) -> dict[str, Any]:
    """Points as well as a line where there are few, so that a single one is seen."""
    return {"marker": "o", "markersize": 3.5} if len(steps) <= 12 else {}


def _smooth(values: Values) -> Values:
    """A running mean over a twentieth of the curve, centred, shorter at its ends."""
    reach = len(values) // 40
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    means: Values = (total[last] - total[first]) / (last - first)
    return means


def _plot_loss(
    axes: Any,
    name: str,
    train: tuple[Values, Values] | None,
    val: tuple[Values, Values] | None,
    floor: tuple[Values, Values] | None,
) -> None:
    shown = []
    if train is not None:
        steps, values = train
        smooth = _smooth(values)
        if len(values) >= 40:
            axes.plot(steps, values, color=TRAIN_COLOUR, linewidth=0.6, alpha=0.3)
        axes.plot(steps, smooth, color=TRAIN_COLOUR, linewidth=1.6, label="train", **_marks(steps))
        shown.append(smooth)
    if floor is not None and train is not None:
        low = _smooth(floor[1])
        axes.plot(floor[0], low, color=FLOOR_COLOUR, linewidth=1.3, linestyle="--",
                  label="entropy floor (train)", **_marks(floor[0]))  # fmt: skip
        axes.fill_between(train[0], _smooth(train[1]), np.interp(train[0], floor[0], low), color=TRAIN_COLOUR,
                          alpha=0.12, linewidth=0, label="what can be learned")  # fmt: skip
        shown.append(low)
    if val is not None:
        axes.plot(*val, color=VALIDATION_COLOUR, linewidth=1.6, label="val", **_marks(val[0]))
        shown.append(val[1])
    everything = np.concatenate(shown)
    if everything.min() > 0 and everything.max() > 30 * everything.min():
        axes.set_yscale("log")
    elif floor is None and everything.min() >= 0:
        axes.set_ylim(0, 1.08 * float(everything.max()) or 1)
    title = "total loss" if name == "loss" else f"{name} loss"
    _clean(axes, title, "step")
    axes.legend(fontsize=8, frameon=False)


def _plot_scores(axes: Any, scores: Mapping[str, tuple[Values, Values]]) -> None:
    colours = ("#d9541e", "#1f5fbf", "#2e8b57", "#8b5fbf", "#b8860b", "#444444")
    for (name, (steps, values)), colour in zip(scores.items(), colours, strict=False):
        axes.plot(steps, values, color=colour, linewidth=1.6, label=name, **_marks(steps))
    first, (steps, values) = next(iter(scores.items()))
    best = int(values.argmax())
    axes.plot(steps[best], values[best], marker="*", markersize=11, color=colours[0], markeredgecolor="white")
    highest = max(float(values.max()) for _, values in scores.values())
    axes.set_ylim(0, max(0.05, 1.1 * highest))
    _clean(axes, f"val: best {first} {values[best]:.3f} at step {steps[best]:g}", "step")
    axes.legend(fontsize=8, frameon=False)


# ---- statistics of the labels --------------------------------------------------------------------------------------


def plot_labels(
    boxes: Tensor,
    labels: Tensor,
    sizes_hw: Tensor,
    classes: Classes,
    path: str | Path,
    *,
    level_ranges: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Write statistics of a dataset's boxes (G, 4) with labels (G,) on images of sizes_hw (G, 2).

    Four panels: boxes per class; width against height as shares of the image; where box centres lie; and how large
    boxes are. `level_ranges` maps pyramid level names to the range of largest distances to a side that they regress;
    with it, give boxes and sizes in the pixels that the network sees.
    """
    corners, sizes = boxes.cpu().double().numpy().reshape(-1, 4), sizes_hw.cpu().double().numpy().reshape(-1, 2)
    if not len(corners) == len(labels) == len(sizes):
        raise ValueError(f"{len(corners)} boxes, {len(labels)} labels and {len(sizes)} image sizes: expected as many")
    wide_high = corners[:, 2:] - corners[:, :2]
    centres = (corners[:, 2:] + corners[:, :2]) / 2
    counts = np.bincount(labels.cpu().numpy().astype(np.int64), minlength=len(classes))
    bars = min(len(classes), MOST_CLASSES_SHOWN)
    figure = plain_figure(11, max(8.0, 4.6 + 0.17 * bars))
    grid = figure.add_gridspec(2, 2, height_ratios=(max(3.8, 0.6 + 0.17 * bars), 3.8))
    _plot_counts(figure.add_subplot(grid[0, 0]), counts, classes)
    shares, places = wide_high / sizes[:, ::-1], centres / sizes[:, ::-1]
    extent = min(1.0, 1.05 * float(shares.max())) if len(shares) else 1.0
    axes = figure.add_subplot(grid[0, 1])
    _plot_density(figure, axes, shares, extent)
    _clean(axes, "box size, as a share of the image", "width", "height")
    axes = figure.add_subplot(grid[1, 0])
    _plot_density(figure, axes, places, 1.0)
    axes.invert_yaxis()
    _clean(axes, "box centres in the image", "x (left to right)", "y (top to bottom)")
    _plot_reach(figure.add_subplot(grid[1, 1]), wide_high.max(1, initial=0.0) / 2, level_ranges or {})
    jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
    with writing(Path(path)) as file:
        figure.savefig(file, pil_kwargs={"quality": 92} if jpeg else None)


def _plot_counts(axes: Any, counts: npt.NDArray[np.int64], classes: Classes) -> None:
    """Bars in label order; where there are too many classes, the most frequent only."""
    order = np.arange(len(classes))
    title = f"{counted(int(counts.sum()), 'box')} of {counted(len(classes), 'class')}"
    if len(order) > MOST_CLASSES_SHOWN:
        order = np.sort(np.argsort(-counts[: len(classes)], kind="stable")[:MOST_CLASSES_SHOWN])
        title += f" (the {MOST_CLASSES_SHOWN} most frequent)"
    names = [
        name if len(name) <= 24 else name[:23] + "…" for name in (printable(classes.names[label]) for label in order)
    ]
    shown = counts[order]
    colours = [tuple(channel / 255 for channel in class_colour(int(label))) for label in order]
    axes.barh(np.arange(len(order)), shown, color=colours, height=0.75 if len(order) > 3 else 0.5)
    for place, count in enumerate(shown):
        axes.text(count, place, f" {count}", va="center", fontsize=8)
    _clean(axes, title, "boxes")
    axes.set_yticks(np.arange(len(order)), names, fontsize=8 if len(order) > 12 else 9, parse_math=False)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 1.15 * max(1, int(shown.max(initial=0))))


def _plot_density(figure: Any, axes: Any, points: Values, extent: float) -> None:
    """How many of the points (G, 2) lie in each cell of the square from 0 to `extent`; empty cells stay white."""
    bins = min(40, max(10, round(math.sqrt(len(points)) / 2)))
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=bins, range=[[0, extent], [0, extent]])
    if counts.any():
        shown = axes.imshow(np.ma.masked_equal(counts.T, 0), origin="lower", extent=(0, extent, 0, extent),
                            cmap="viridis_r", interpolation="nearest", vmin=0)  # fmt: skip
        figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03).ax.tick_params(labelsize=8)
    else:
        axes.text(0.5, 0.5, "no boxes", ha="center", va="center", transform=axes.transAxes)
    axes.set_xlim(0, extent)
    axes.set_ylim(0, extent)
    axes.set_aspect("equal")


def _plot_reach(axes: Any, reach: Values, level_ranges: Mapping[str, tuple[float, float]]) -> None:
    """Half of each box's longer side, on a logarithmic axis, with the limits of the levels and each level's share."""
    _clean(axes, "half of the longer side of a box", "pixels", "boxes")
    limits = [edge for span in level_ranges.values() for edge in span if 0 < edge < math.inf]
    known = np.concatenate([reach[reach > 0], limits])
    if not len(known):
        axes.text(0.5, 0.5, "no boxes", ha="center", va="center", transform=axes.transAxes)
        return
    low, high = 0.8 * float(known.min()), 1.25 * float(known.max())
    if limits:  # room for the names of the outer levels
        low, high = min(low, 0.4 * min(limits)), max(high, 2.5 * max(limits))
    heights, _, _ = axes.hist(reach, bins=np.geomspace(low, high, 50), color=TRAIN_COLOUR, alpha=0.8)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [tick for tick in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if low <= tick <= high]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, max(1.0, 1.25 * float(np.max(heights))))
    for edge in sorted(set(limits)):
        axes.axvline(edge, color=VALIDATION_COLOUR, linewidth=1.2, linestyle="--")
    for name, (start, end) in level_ranges.items():
        share = float(((reach >= start) & (reach < end)).mean()) if len(reach) else 0.0
        middle = math.sqrt(max(start, low) * min(end, high))
        percent = "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
        axes.text(middle, 0.97, f"{name}\n{percent}", ha="center", va="top", fontsize=9,
                  color=VALIDATION_COLOUR, transform=axes.get_xaxis_transform())  # fmt: skip


# ---- sheets of drawn images ---------------------------------------------------------------------------------------


def save_batch(
    images: Tensor | Sequence[Tensor],
    found: Sequence[Detections | GroundTruth],
    classes: Classes,
    path: str | Path,
    max_images: int = 16,
    min_score: float = 0.0,
) -> None:
    """Write a contact sheet of images (B, 3, H, W) uint8, or B images (3, H, W), with their objects drawn.

    The objects are in the coordinates of the images given. Each image is drawn about 480 pixels long, so that tags
    can be read whatever its own size.
    """
    if len(images) != len(found):
        raise ValueError(f"{len(images)} images but objects of {len(found)}")
    drawn = []
    for index in range(min(len(images), max_images)):
        scale = CELL_SIDE / max(images[index].shape[1:])
        drawn.append(draw(images[index], found[index], classes=classes, min_score=min_score, scale=scale))
    sheet = contact_sheet(drawn)
    with writing(Path(path)) as file:
        save(sheet, file)
