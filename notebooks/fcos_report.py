# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The report on FCOS, at small scale
#
# An assignment (KAIST EE898, PA1) asks for a report on FCOS: the baseline's AP, which is row 4 of the paper's Table 3,
# with detections to look at; the improvements of rows 5 to 9 against it; and FCOS with a mask head against Mask R-CNN.
#
# Published numbers beside it, AP on COCO minival with ResNet-50 and 90,000 steps (Tian et al. 2019, Table 3): row 4
# **36.5**, row 5 **37.1**, row 6 **37.4**, row 7 **38.1**, row 8 **38.3**, row 9 **38.6**. Mask R-CNN R50-FPN has
# **38.6** box AP and **35.2** mask AP (Detectron2's zoo, 1x).
#
# With COCO and GPUs the same is one command, with the recipes of the paper's size: `boxwright compare fcos-r50-fpn-1x
# fcos-r50-fpn-1x-gn fcos-r50-fpn-1x-improved --data COCO --steps 90000`. Here the rows are put on a small network and
# drawn images, so that all of it takes a quarter of an hour on a laptop. At this scale differences of a point are not
# to be seen: the intervals say so.

# %% tags=["parameters"]
DATA = None  # a folder with masks (COCO layout, or VOC's SegmentationObject); None draws shapes
BASE, MASKS = "fcos-shapes", ("fcos-mask-shapes", "mask-rcnn-shapes")  # for images of your own: "fcos-small", ...
SIDE = 128  # pixels of a drawn image
TRAIN_IMAGES, VAL_IMAGES = 600, 150  # how many are drawn
STEPS = 500  # of each training
ROWS = (4, 5, 6, 7, 8, 9)  # of Table 3

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

import boxwright
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training.compare import compare, markdown

plt.rcParams["figure.constrained_layout.use"] = True
work = Path(tempfile.mkdtemp(prefix="fcos_report_"))
if DATA is None:
    config = ShapesConfig(size=SIDE, max_objects=6, min_pixels=12)
    DATA = write_shapes(work / "shapes", TRAIN_IMAGES, VAL_IMAGES, "coco", config)

# %% [markdown]
# ## The rows of Table 3
#
# Each row adds one setting to the row before. Row 4 is the baseline: no group norm in the head, centerness beside the
# classes, every location inside a box learns it, IoU loss, and distances in pixels as exp of the output.

# %%
PUBLISHED = {4: 36.5, 5: 37.1, 6: 37.4, 7: 38.1, 8: 38.3, 9: 38.6}
BASELINE = {
    "model.head.norm": "none",
    "model.head.centerness_on": "class",
    "model.assignment.center_radius": "null",
    "model.loss.box": "iou",
    "model.head.normalise_targets": "false",
    "model.head.box_output": "exp",
    "model.head.box_bias": "0.0",
}
ADDED = {
    5: ("group norm", {"model.head.norm": "gn"}),
    6: ("centerness on the box branch", {"model.head.centerness_on": "box"}),
    7: ("centre sampling", {"model.assignment.center_radius": "1.5"}),
    8: ("GIoU", {"model.loss.box": "giou"}),
    9: ("distances in strides", {"model.head.normalise_targets": "true", "model.head.box_output": "relu"}),
}

# %% [markdown]
# A ReLU whose raw outputs are all negative learns nothing; a positive start of the output keeps it alive where
# training is as short as here (`box_bias`).

# %%
ADDED[9][1]["model.head.box_bias"] = "1.0"
settings, words, titles = dict(BASELINE), {}, {4: "baseline"}
for row in range(4, 10):
    if row > 4:
        titles[row], more = ADDED[row]
        settings |= more
    words[row] = " ".join([BASE, *(f"{key}={value}" for key, value in settings.items())])
print(words[4])

# %% [markdown]
# The settings of row 9 beside those of the recipe of the paper's size:

# %%
ours, theirs = boxwright.load_recipe(BASE, words[9].split()[1:]), boxwright.load_recipe("fcos-r50-fpn-1x-improved")
for section in ("head", "assignment", "loss"):
    for key in ("norm", "centerness_on", "normalise_targets", "box_output", "center_radius", "box", "box_weighting"):
        if hasattr(getattr(ours.model, section), key):
            pair = getattr(getattr(ours.model, section), key), getattr(getattr(theirs.model, section), key)
            assert pair[0] == pair[1], (section, key, pair)
            print(section, key, pair[0])

# %% [markdown]
# ## Train and compare
#
# `compare` trains each candidate with the same number of steps, evaluates all on the same images, and draws the images
# anew 200 times for the intervals. On the command line it is `boxwright compare "..." "..." --data F --steps N`.

# %%
rows = compare([words[row] for row in ROWS], DATA, steps=STEPS, out=work / "rows", images=4)
for row, result in zip(ROWS, rows.rows, strict=True):
    gain = "" if result.difference is None else f"  {100 * result.difference:+.1f} against row {ROWS[0]}"
    print(f"row {row}: AP {100 * result.ap:.1f}{gain}  ({titles[row]}; published {PUBLISHED[row]})")

# %%
figure, panels = plt.subplots(1, 2, figsize=(11, 0.5 * len(ROWS) + 1.5), sharey=True)
labels = [f"row {row}: {titles[row]}" for row in ROWS]
panels[0].plot([PUBLISHED[row] for row in ROWS], labels, "o", color="black")
panels[0].set(title="published, COCO minival", xlabel="AP")
for label, result in zip(labels, rows.rows, strict=True):
    low, high = result.ap_interval or (result.ap, result.ap)
    panels[1].plot([100 * low, 100 * high], [label, label], color="tab:blue")
    panels[1].plot(100 * result.ap, label, "o", color="tab:blue")
panels[1].set(title="here, with 95 % intervals", xlabel="AP")
panels[1].invert_yaxis()
plt.show()

# %% [markdown]
# The whole row of the table, for the baseline and the last: AP at all thresholds, at 0.5 and at 0.75, and of small,
# middle and large objects. Published for row 4: 36.5, 54.5, 39.2, 19.8, 40.0, 48.9; for row 9: 38.6, 57.4, 41.4, 22.3,
# 42.5, 49.8.

# %%
for row, result in ((ROWS[0], rows.rows[0]), (ROWS[-1], rows.rows[-1])):
    figures = boxwright.evaluate(result.checkpoint, DATA, "val").figures
    shown = (figures[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"))
    print(f"row {row}:", "  ".join("-" if value is None else f"{100 * value:.1f}" for value in shown))

# %% [markdown]
# The table as `compare` writes it, to `comparison.md`, with speed and size:

# %%
print(markdown(rows))

# %% [markdown]
# ## Detections, side by side
#
# The ground truth, then what each detector finds above its own best score. (`side_by_side.jpg` in the folder of the
# comparison has the same, below the whole words of each candidate, which are long here.)

# %%
from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.visualize import contact_sheet, side_by_side

split = open_folder(Path(DATA)).splits["val"]


def beside(names, checkpoints, count=3):
    """The ground truth of the first images beside the detections of some checkpoints."""
    detectors = [boxwright.load(checkpoint) for checkpoint in checkpoints]
    strips = []
    for record in split.records[:count]:
        image = Image.open(record.path).convert("RGB")
        objects = ground_truth_of(record, (image.height, image.width), masks=detectors[0].recipe.model.name != "fcos")
        drawn = [objects.draw(image, classes=split.classes, scale=2)]
        drawn += [one.predict(image)[0].draw(image, scale=2) for one in detectors]
        strips.append(side_by_side(drawn, ["ground truth", *names]))
    return contact_sheet(strips, 1)


beside([f"row {row}" for row in ROWS], [result.checkpoint for result in rows.rows])

# %% [markdown]
# ## FCOS with masks against Mask R-CNN
#
# FCOS as the proposal generator of a mask head: its detections are the final boxes, RoIAlign pools them, and the head
# of Mask R-CNN predicts a mask of 28 x 28 in each. There is no box head between them.

# %%
masks = compare(list(MASKS), DATA, steps=STEPS, out=work / "masks", images=4)
for result in masks.rows:
    print(
        f"{result.name}: box AP {100 * result.ap:.1f}, mask AP {100 * (result.segm_ap or 0):.1f}, "
        f"{1000 * result.seconds_per_image:.1f} ms an image, {result.parameters / 1e6:.2f} M parameters"
    )

# %%
beside(MASKS, [result.checkpoint for result in masks.rows])

# %% [markdown]
# ## For the report
#
# Everything is in two folders: `comparison.json` and `comparison.md`, the images, and the runs with their checkpoints
# and curves. Say with each number what it was trained on, for how long, and how wide its interval is; and repeat with
# another `seed`, which the intervals do not cover.

# %%
print(sorted(path.name for path in rows.folder.iterdir()))
print(list(json.loads((rows.folder / "comparison.json").read_text())["rows"][0]))
