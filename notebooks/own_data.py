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
# # Your own images in ten minutes
#
# From a folder of labelled images to a detector whose quality is known: check the data, train, evaluate, choose a
# threshold, predict.
#
# There is no published number for your images. What stands beside is a recorded run of ours: `fcos-small` on bccd
# (blood cells, 292 and 72 images) has AP 0.608 and AP50 0.912 after 14 minutes on two cores, from random weights
# (`python -m benchmarks.bccd`). To repeat it: `DATA = "bccd"` and `MINUTES = 14`.

# %% tags=["parameters"]
DATA = None  # a folder in VOC, COCO, YOLO or CVAT layout; None draws shapes
RECIPE = "fcos-shapes"  # for drawn images; "fcos" for your own, "fcos-lite" with ImageNet weights from pip
MINUTES = 4  # of training, with its validations and charts; None: as long as the recipe says
OVERRIDES = []  # settings such as "optim.lr=0.002"
TRAIN_IMAGES, VAL_IMAGES = 500, 100  # how many are drawn

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

import boxwright
from boxwright.data.checks.preflight import preflight
from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.visualize import contact_sheet

plt.rcParams["figure.constrained_layout.use"] = True
work = Path(tempfile.mkdtemp(prefix="own_data_"))

# %% [markdown]
# Without a folder of your own, one is drawn. One of its boxes is then spoiled on purpose, as it happens in practice: a
# minus sign before its right side.

# %%
if DATA is None:
    DATA = write_shapes(work / "shapes", TRAIN_IMAGES, VAL_IMAGES, "voc", ShapesConfig(size=160, max_objects=6))
    spoiled = sorted((DATA / "Annotations").glob("train_*.xml"))[0]
    spoiled.write_text(spoiled.read_text().replace("<xmax>", "<xmax>-", 1))

# %% [markdown]
# ## Check it
#
# Layout, splits and classes are recognised. `preflight` is what `boxwright inspect` prints, and what `train` does
# first: what is wrong is left out and reported, and nothing is written into the folder.

# %%
folder = open_folder(Path(DATA))
print(folder.format, {name: len(split) for name, split in folder.splits.items()}, folder.classes.names)
checked = preflight(folder)
for finding in checked.findings[:10]:
    print(f"{finding.severity}: {finding.kind}: {Path(finding.where).name}: {finding.message}")

# %% [markdown]
# How many objects each class has. A class with few of them is learnt badly, whatever the detector.

# %%
train_split = checked.dataset.splits["train"]
labels = torch.tensor([item.label for record in train_split.records for item in record.annotations])
counts = torch.bincount(labels, minlength=len(folder.classes))
figure, axes = plt.subplots(figsize=(7, 0.4 * len(counts) + 1))
axes.barh(folder.classes.names, counts)
axes.set(xlabel="objects to train on")
plt.show()

# %% [markdown]
# How large the objects are. Levels of a pyramid share the sizes among them, and objects below about ten pixels at the
# size that the network sees are hard for any detector: then a larger `data.resize` helps.

# %%
sides = [(x2 - x1, y2 - y1) for r in train_split.records for x1, y1, x2, y2 in (item.box for item in r.annotations)]
figure, axes = plt.subplots(figsize=(5, 4.5))
axes.scatter(*zip(*sides, strict=True), s=6, alpha=0.4)
axes.set(xlabel="width of an object, pixels", ylabel="height", xlim=(0, None), ylim=(0, None), aspect="equal")
plt.show()

# %% [markdown]
# And the images, with their ground truth. Boxes that are off are seen here, and nowhere else as soon.

# %%
drawings = []
for record in train_split.records[:6]:
    image = Image.open(record.path).convert("RGB")
    ground_truth = ground_truth_of(record, (image.height, image.width))
    drawings.append(ground_truth.draw(image, classes=folder.classes, scale=2))
contact_sheet(drawings, 3)

# %% [markdown]
# ## Train
#
# Before the first long run, ten images must be learnt by heart: `boxwright train fcos --data FOLDER --overfit 10`.
# Then a budget in minutes is enough; steps, learning rate and validations follow it.

# %%
result = boxwright.train(RECIPE, DATA, overrides=OVERRIDES, minutes=MINUTES, runs=work / "runs")
print(result.folder)
print({name: value for name, value in result.metrics.items() if name in ("AP", "AP50", "AP75")})

# %% [markdown]
# Losses must fall, and AP rise. If the loss of the validation images rises while the other falls, there are too few
# images: label more, augment more, or start from pretrained weights.

# %%
Image.open(result.folder / "results.png")

# %% [markdown]
# ## Evaluate
#
# On a split that was not used for any choice; here it is `val`, for there is no other. The interval says how far AP50
# depends on these images: what lies within it is no improvement.

# %%
evaluation = boxwright.evaluate(result.best, DATA, "val")
figures = evaluation.figures
print(f"AP {figures['AP']:.3f}, AP50 {figures['AP50']:.3f}")
print("interval of AP50:", figures["AP50_interval"])

# %%
known = {name: value for name, value in figures["per_class_AP50"].items() if value is not None}
figure, axes = plt.subplots(figsize=(7, 0.4 * len(known) + 1))
axes.barh(list(known), list(known.values()))
axes.set(xlabel="AP50", xlim=(0, 1))
plt.show()

# %% [markdown]
# What is taken for what: predicted classes by true ones. The last row counts objects that were missed, the last column
# detections where there is nothing.

# %%
Image.open(evaluation.save(work / "evaluated") / "confusion_matrix.png")

# %% [markdown]
# ## Choose a threshold, and predict
#
# Of all detections, those from a certain score on are reported. The score of the best F1 is what `predict` has as
# default; to miss less take a lower one, for fewer false alarms a higher one.

# %%
print(figures["best_f1"])
detector = boxwright.load(result.best)
print("the detector's own threshold:", detector.score_threshold)

# %%
paths = [record.path for record in folder.splits["val"].records[:6]]
found = detector.predict(paths)
contact_sheet([one.draw(path, scale=2) for one, path in zip(found, paths, strict=True)], 3)

# %% [markdown]
# Detections are tensors, single objects, or rows of a COCO result file, as you need them.

# %%
first = max(found, key=len)
print(len(first), "detections in", Path(first.path).name, first.names)
for one in first[:3]:
    print(one.name, round(one.score, 3), [round(side, 1) for side in one.box])
print(first.to_coco()[:1])

# %% [markdown]
# ## Go on
#
# - Another detector or size on the same images: `boxwright compare fcos retinanet --data FOLDER --minutes 10`.
# - A file for another runtime: `boxwright export RUN --format onnx`, which is compared with the checkpoint.
# - A server with a page to try it: `boxwright serve RUN`.
# - More images with the same settings: `boxwright train --weights RUN --data FOLDER` goes on from here.
