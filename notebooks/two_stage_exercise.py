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
# # Faster R-CNN, from anchors to mAP
#
# The second exercise of the course: a region proposal network on P3 to P5, RoIAlign, and a classifier of the
# proposals. As in the notebook on FCOS, every step is done with the parts that the library's detector is made of.
#
# The exercise's document prints no mAP. The published number beside the detector is **37.9 AP** on COCO val2017 for
# Faster R-CNN with ResNet-50 and a pyramid (Detectron2's model zoo, 1x schedule; recipe `faster-rcnn-r50-fpn-1x`). The
# exercise's own network is the recipe `faster-rcnn-regnetx400mf-224`.

# %% tags=["parameters"]
DATA = None  # a folder of VOC layout, such as "VOCdevkit/VOC2007"; None draws shapes
RECIPE = "faster-rcnn-shapes"  # for drawn images; "faster-rcnn-regnetx400mf-224" is the exercise's
SIDE = 224  # pixels of a drawn image
TRAIN_IMAGES, VAL_IMAGES = 400, 100  # how many are drawn
TRAIN_STEPS = 600  # the exercise: 9000

# %%
import math
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torchvision
from PIL import Image

import boxwright
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.data.loader import make_loader
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.visualize import class_colour, contact_sheet

torch.manual_seed(0)
plt.rcParams["figure.constrained_layout.use"] = True
work = Path(tempfile.mkdtemp(prefix="two_stage_exercise_"))

# %% [markdown]
# ## Data

# %%
if DATA is None:
    config = ShapesConfig(size=SIDE, max_objects=4, min_pixels=SIDE // 6, max_pixels=SIDE)
    DATA = write_shapes(work / "shapes", TRAIN_IMAGES, VAL_IMAGES, "voc", config)
folder = open_folder(Path(DATA))
classes = folder.classes
recipe = boxwright.load_recipe("faster-rcnn-regnetx400mf-224")
train_set = DetectionDataset(folder.splits["train"], recipe.data.resize.rule())  # short side 224
(batch,) = make_loader(train_set, [list(range(min(8, len(train_set))))], workers=0)
images, targets = batch.images, batch.targets
print("pixels", tuple(images.pixels.shape), "boxes", tuple(targets.boxes.shape))

# %% [markdown]
# ## RPN head
#
# One stem for objectness and offsets, shared by all levels, and two 1x1 convolutions: of each anchor one logit, and
# four numbers. There are three anchors at a cell, so 3 and 12 channels.

# %%
model = boxwright.build("faster-rcnn-regnetx400mf-224", num_classes=20).eval()
print(model.rpn)

# %% [markdown]
# At 224 x 224 pixels there are (28 x 28 + 14 x 14 + 7 x 7) cells, so 3087 anchors.

# %%
with torch.no_grad():
    outputs = model(boxwright.ImageBatch.of([torch.zeros(3, 224, 224)] * 2))
anchors = outputs.anchors.anchors  # (N, 4)
print("objectness", tuple(outputs.anchors.objectness.shape), "offsets", tuple(outputs.anchors.offsets.shape))
print("anchors of each level", outputs.anchors.level_counts)
assert outputs.anchors.level_counts == (3 * 784, 3 * 196, 3 * 49)

# %% [markdown]
# ## Anchors
#
# An anchor has the area (stride_scale * stride) squared, and a ratio of height to width of 0.5, 1 or 2: width =
# sqrt(area / ratio), height = area / width. The exercise's network has stride_scale 8: 64, 128 and 256 pixels.

# %%
from boxwright.ops.anchors import cell_anchors

cell = cell_anchors([8 * 8], [0.5, 1.0, 2.0])
width, height = (cell[:, 2] - cell[:, 0]), (cell[:, 3] - cell[:, 1])
print("widths", width.tolist(), "heights", height.tolist())
assert torch.allclose(width * height, torch.full((3,), 64.0**2))
assert torch.allclose(height / width, torch.tensor([0.5, 1.0, 2.0]))

# %% [markdown]
# Their centres are the locations of FCOS: the middle of each cell. Here are the three anchors of one cell of each
# level, and how many of that level there are.


# %%
def draw_box(axes, box, colour, style="-", line=2):
    """A box x1, y1, x2, y2 on a panel."""
    x1, y1, x2, y2 = (float(side) for side in box)
    axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=line, ls=style))


levels = anchors.split([3 * 784, 3 * 196, 3 * 49])
figure, panels = plt.subplots(1, 3, figsize=(12, 4.6))
for axes, stride, own in zip(panels, (8, 16, 32), levels, strict=True):
    axes.imshow(images.pixels[0].permute(1, 2, 0))
    columns = 224 // stride
    middle = 3 * (columns // 2 * columns + columns // 2)
    for box, colour in zip(own[middle : middle + 3], ("cyan", "yellow", "magenta"), strict=True):
        draw_box(axes, box, colour)
    axes.set(xlim=(-90, 314), ylim=(314, -90), title=f"stride {stride}: {len(own)} anchors")
plt.show()

# %% [markdown]
# ## IoU
#
# The overlap of every pair of boxes: shared area over the area of both together.

# %%
from boxwright.ops.boxes import pairwise_iou

first = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
second = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
print(pairwise_iou(first, second))
assert torch.allclose(pairwise_iou(first, second), torchvision.ops.box_iou(first, second))
assert abs(float(pairwise_iou(first, second)[0, 1]) - 1 / 3) < 1e-6

# %% [markdown]
# ## Matching
#
# An anchor learns the object that it overlaps most, if by 0.6 or more; below 0.3 it is background; between, it is
# neutral and costs nothing. There are no low-quality matches in the exercise: an object that no anchor overlaps by 0.6
# is learnt by none. (Detectron2 and torchvision give such an object its best anchor, and so does our default,
# `rpn.low_quality`.)

# %%
from boxwright.ops.match import match_boxes, sample_balanced

with torch.no_grad():
    of_batch = model(images).anchors  # the batch may be larger than 224 x 224
anchors = of_batch.anchors
thresholds = {"positive_iou": 0.6, "negative_iou": 0.3}
owner, neutral = match_boxes(anchors, targets.boxes, targets.valid, targets.ignore, **thresholds, low_quality=False)
positive = owner >= 0  # (B, N)
print("positive", positive.sum(1).tolist(), "neutral", neutral.sum(1).tolist(), "of", len(anchors))
found = [set(row[row >= 0].tolist()) for row in owner]
objects = int(targets.valid.sum())
print(f"{objects - sum(map(len, found))} of {objects} objects have no anchor")

# %% [markdown]
# The positive anchors of one image in the colour of their object. It is easy to see here which sizes are badly
# covered.


# %%
def colour_of(index):
    """The colour of a number, for matplotlib."""
    return [part / 255 for part in class_colour(int(index))]


level_of = torch.arange(3).repeat_interleave(torch.tensor(of_batch.level_counts))
used = torch.stack([(positive & (level_of == number)).any(1) for number in range(3)]).sum(0)  # levels of an image
chosen = int((1000 * used + positive.sum(1)).argmax())
figure, panels = plt.subplots(1, 3, figsize=(12, 4.6))
for axes, number in zip(panels, range(3), strict=True):
    axes.imshow(images.pixels[chosen].permute(1, 2, 0), alpha=0.6)
    here = (positive[chosen] & (level_of == number)).nonzero()[:, 0]
    for row in here.tolist():
        draw_box(axes, anchors[row], colour_of(owner[chosen, row]), line=0.8)
    for index, box in enumerate(targets.boxes[chosen][targets.valid[chosen]]):
        draw_box(axes, box, colour_of(index), "--", line=3)
    axes.set_title(f"anchors of {64 * 2**number} pixels: {len(here)} positive")
    axes.axis("off")
plt.show()

# %% [markdown]
# Both ends of the rule, over all anchors of the batch: their best overlap with an object.

# %%
overlap = torch.where(targets.valid[:, None], pairwise_iou(anchors, targets.boxes), 0.0).amax(-1)
figure, axes = plt.subplots(figsize=(7, 3.5))
axes.hist(overlap.flatten(), bins=50, log=True)
for edge, text in ((0.3, "background below"), (0.6, "positive from here on")):
    axes.axvline(edge, color="black", linestyle=":")
    axes.text(edge, axes.get_ylim()[1] * 0.5, f" {edge}: {text}", fontsize=9)
axes.set(xlabel="best overlap of an anchor", ylabel="anchors")
plt.show()

# %% [markdown]
# ## Offsets, there and back
#
# (dx, dy, dw, dh): the shift of the centre in widths and heights of the anchor, and the logarithm of the ratio of
# sides. In decoding, sides may grow 28-fold at most in the exercise, from 8 to 224 pixels; our default is Detectron2's
# 62.5.

# %%
from boxwright.ops.coding import decode_boxes, encode_boxes

anchor = torch.tensor([[10.0, 10, 50, 90]])
box = torch.tensor([[20.0, 0, 100, 80]])
offsets = encode_boxes(anchor, box)
print(offsets.tolist())
assert torch.allclose(decode_boxes(anchor, offsets), box)
assert torch.allclose(offsets, torch.tensor([[30 / 40, -10 / 80, math.log(2), 0.0]]))

# %%
huge = decode_boxes(anchor, torch.tensor([[0.0, 0, 9, 9]]), largest_log_ratio=math.log(224 / 8))
print("sides", (huge[0, 2:] - huge[0, :2]).tolist(), "are 28 times", (anchor[0, 2:] - anchor[0, :2]).tolist())
assert torch.allclose(huge[0, 2:] - huge[0, :2], 28 * (anchor[0, 2:] - anchor[0, :2]))

# %% [markdown]
# ## Sampling
#
# Nearly all anchors are background, so a few of each kind are drawn: 64 an image, at most half of them positive, the
# rest filled with background. Neutral ones are never drawn.

# %%
drawn = sample_balanced(positive, ~positive & ~neutral, 64, 0.5)
print("drawn", drawn.real.sum(1).tolist(), "of them positive", drawn.positive.sum(1).tolist())
assert (drawn.positive.sum(1) <= 32).all()
assert not (neutral.gather(1, drawn.rows) & drawn.real).any()

# %% [markdown]
# ## RoIAlign
#
# A region is cut out of a map and averaged to 7 x 7 cells, whatever its size. On a map whose values are the x of each
# cell's middle, the pooled values are the x of the bins' middles: no rounding, no shift by half a cell.

# %%
from boxwright.ops.roi import pool_regions, region_levels

ramp = (torch.arange(28) + 0.5).expand(1, 1, 28, 28) * 8  # stride 8
region = torch.tensor([[40.0, 40, 110, 110]])
zero = torch.zeros(1, dtype=torch.int64)
pooled = pool_regions([ramp], [8], region, zero, zero, 7)
print(pooled[0, 0, 0].tolist())
assert torch.allclose(pooled[0, 0, 0], 40 + 10 * (torch.arange(7) + 0.5), atol=1e-3)

# %% [markdown]
# What the classifier gets, if the image itself is the map: each object in 7 x 7 cells (and in 28 x 28, to compare).

# %%
pixels = images.pixels[chosen : chosen + 1].float() / 255
boxes = targets.boxes[chosen][targets.valid[chosen]][:4]
zeros = torch.zeros(len(boxes), dtype=torch.int64)
figure, panels = plt.subplots(2, len(boxes), figsize=(2.6 * len(boxes), 5.4), squeeze=False)
for row, size in zip(panels, (28, 7), strict=True):
    for axes, one in zip(row, pool_regions([pixels], [1], boxes, zeros, zeros, size), strict=True):
        axes.imshow(one.permute(1, 2, 0).clamp(0, 1))
        axes.set_title(f"{size} x {size}")
        axes.axis("off")
plt.show()

# %% [markdown]
# Which level a box is pooled from: the exercise pools a proposal from the level that proposed it, and puts ground
# truth, which is mixed in while training, at floor(5 + log2(sqrt(area) / 224)), from 3 to 5.

# %%
sides = torch.tensor([20.0, 56, 111, 112, 223, 224, 600])
squares = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], dim=1)
print(dict(zip(sides.tolist(), region_levels(squares, 3, 5, canonical=5).tolist(), strict=True)))
assert region_levels(squares, 3, 5, canonical=5).tolist() == [3, 3, 3, 4, 4, 5, 5]

# %% [markdown]
# ## The classifier
#
# Two convolutions over the 7 x 7 maps, flattened, and one linear layer to the classes and background. There is no
# second refinement: proposals are the final boxes.

# %%
print(model.box.head)
print(model.box.class_logits)
assert model.box.class_logits.out_features == 20 + 1
assert model.box.offsets is None

# %% [markdown]
# ## Losses
#
# One forward pass with ground truth: anchors are matched and drawn, proposals are made, ground truth is mixed in, 64
# of them are drawn, at most a quarter of them with an object, and classified.

# %%
model = boxwright.build("faster-rcnn-regnetx400mf-224", num_classes=len(classes)).train()
outputs = model(images, targets)
sampled = outputs.sampled
print("regions", tuple(sampled.boxes.shape), "of them with an object", sampled.positive.sum(1).tolist())
print("logits", tuple(outputs.sampled_logits.class_logits.shape))
assert (sampled.positive.sum(1) <= 16).all()

# %% [markdown]
# Before training, objectness costs ln 2: the network knows nothing, and says so. The loss of the classes is near ln(K
# + 1).

# %%
losses = model.loss(outputs, targets)
for name, value in losses.items():
    print(f"{name}: {float(value.detach()):.4f}")
assert set(losses) == {"objectness", "proposal_box", "classification"}
assert abs(float(losses["objectness"].detach()) - math.log(2)) < 0.05

# %% [markdown]
# ## Training

# %%
overrides = [f"schedule.steps={TRAIN_STEPS}", "validation.times=2"]
result = boxwright.train(RECIPE, DATA, overrides=overrides, runs=work / "runs")

# %%
Image.open(result.folder / "results.png")

# %% [markdown]
# ## Proposals
#
# The best anchors of each level, moved by their offsets, clipped to the image, after NMS at 0.7. What counts is
# recall: an object that no proposal covers cannot be classified.

# %%
detector = boxwright.load(result.best)
val_set = DetectionDataset(folder.splits["val"], detector.resize)
(val_batch,) = make_loader(val_set, [list(range(min(4, len(val_set))))], workers=0)
with torch.no_grad():
    proposals = detector.model.eval()(val_batch.images).proposals
overlap = pairwise_iou(val_batch.targets.boxes, proposals.boxes)  # (B, G, R)
for count in (10, 50, 100):
    best = overlap[..., :count].amax(-1)[val_batch.targets.valid]
    print(f"recall of objects at IoU 0.5 with {count} proposals: {(best >= 0.5).float().mean():.2f}")

# %%
figure, panels = plt.subplots(1, len(val_batch.images), figsize=(3.2 * len(val_batch.images), 3.6), squeeze=False)
for number, axes in enumerate(panels[0]):
    axes.imshow(val_batch.images.pixels[number].permute(1, 2, 0))
    for box in proposals.boxes[number, :12]:
        draw_box(axes, box, "yellow", line=1)
    for box in val_batch.targets.boxes[number][val_batch.targets.valid[number]]:
        draw_box(axes, box, "black", "--")
    axes.set_title("12 best proposals")
    axes.axis("off")
plt.show()

# %% [markdown]
# ## Inference, and mAP

# %%
paths = [record.path for record in folder.splits["val"].records[:6]]
started = time.perf_counter()
found = detector.predict(paths, score=0.3, nms_iou=0.5, batch=1)
print(f"Total inference time: {time.perf_counter() - started:.1f}s")
contact_sheet([one.draw(path, scale=1.5) for one, path in zip(found, paths, strict=True)], 3)

# %%
evaluation = boxwright.evaluate(result.best, DATA, "val", metric="voc", score_threshold=0.4, nms_iou=0.6)
print(f"mAP = {evaluation.figures['mAP']:.2%}, {evaluation.inputs.seconds:.1f}s")
Image.open(evaluation.save(work / "mAP") / "mAP.png")
