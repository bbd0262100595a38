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
# # Coming from torchvision and Detectron2
#
# The same detector in both words: a file of theirs is loaded, gives the same detections and the same losses, is taken
# apart with our records, and is written back.
#
# Published numbers beside the detectors that are named here, box AP on COCO val2017: torchvision's FCOS ResNet-50
# **39.2** (its `DEFAULT` weights); Detectron2's Faster R-CNN R50-FPN **40.2** (3x) and RetinaNet R50 **38.7** (3x). As
# it stands, this notebook fetches nothing and uses random weights, which find nonsense, but find the same nonsense on
# both sides.

# %% tags=["parameters"]
WEIGHTS = None  # "DEFAULT" fetches torchvision's COCO weights (124 MB)
IMAGE = None  # a path; None draws shapes
SHORT_SIDE, LONG_SIDE = 320, 533  # of the network's image; torchvision's own are 800 and 1333

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torchvision.models.detection import fcos_resnet50_fpn

import boxwright
from boxwright import Classes, Detections, GroundTruth, ImageBatch, Targets
from boxwright.data.image_io.decode import read_image
from boxwright.data.synthetic.shapes import ShapesConfig, draw_shapes
from boxwright.visualize import side_by_side

torch.manual_seed(0)
plt.rcParams["figure.constrained_layout.use"] = True
work = Path(tempfile.mkdtemp(prefix="coming_from_"))

# %% [markdown]
# ## torchvision
#
# A model of theirs, and its weights in a file, as `torch.save(model.state_dict())` leaves them.

# %%
pretrained = WEIGHTS is not None
theirs = fcos_resnet50_fpn(
    weights=WEIGHTS,
    weights_backbone=None,
    num_classes=None if pretrained else 4,
    min_size=SHORT_SIDE,
    max_size=LONG_SIDE,
).eval()
if not pretrained:  # random weights say nothing: lift scores and distances, so that there is something to compare
    torch.nn.init.normal_(theirs.head.classification_head.cls_logits.weight, std=0.1)
    torch.nn.init.constant_(theirs.head.classification_head.cls_logits.bias, -1.0)
    torch.nn.init.constant_(theirs.head.regression_head.bbox_reg.bias, 1.7)
torch.save(theirs.state_dict(), work / "mine.pth")

# %% [markdown]
# The file says itself what it is: library, architecture and number of classes are recognised. Only names are not in
# it. (`boxwright.load("torchvision/fcos_resnet50_fpn")` fetches theirs by name.)

# %%
names = None if pretrained else Classes.named(["cat", "dog", "cow", "fox"])
detector = boxwright.load(work / "mine.pth", device="cpu", precision="fp32", classes=names)
print(detector.recipe.model.name, detector.classes.names[:4], detector.resize)

# %%
if IMAGE is None:
    pixels, _ = draw_shapes(ShapesConfig(size=240), seed=0, index=0)
    image = torch.from_numpy(pixels).permute(2, 0, 1)  # (3, H, W) uint8
else:
    image = read_image(Path(IMAGE))
print(tuple(image.shape), image.dtype)

# %% [markdown]
# ### The same detections
#
# Theirs takes a list of float images and gives a list of dicts; ours takes anything that is an image (a path, PIL,
# NumPy, uint8 or float) and gives a list of `Detections`. The size of the network's image belongs to the model there,
# and to the call or the recipe here.

# %%
from boxwright.ops.image import ResizeRule

rule = ResizeRule("short_side", size=SHORT_SIDE, max_size=LONG_SIDE, filter="plain", rounding="down")
with torch.no_grad():
    (output,) = theirs([image / 255])
(found,) = detector.predict(image / 255, resize=rule)
print(len(output["boxes"]), "there,", len(found), "here")
assert len(found) == len(output["boxes"])
assert torch.allclose(found.scores, output["scores"], atol=1e-4)
assert torch.allclose(found.boxes[:5], output["boxes"][:5], atol=0.05)

# %% [markdown]
# Their output as a record of ours is drawn in the same way.

# %%
ids = list(detector.classes.ids)
labels = torch.tensor([ids.index(label) for label in output["labels"].tolist()], dtype=torch.int64)
as_ours = Detections(output["boxes"], output["scores"], labels, tuple(image.shape[1:]), detector.classes)
drawings = [one[:8].draw(image, scale=2) for one in (as_ours, found)]
side_by_side(drawings, ["torchvision", "boxwright"])

# %% [markdown]
# Labels here are always 0 to K - 1, whatever the ids in files are: `classes.ids` has those, and result files are
# written with them.

# %%
print(found.labels[:5].tolist(), found.names[:5], [ids[label] for label in found.labels[:5].tolist()])

# %% [markdown]
# ### The same losses
#
# Ground truth there is a list of dicts. Here `GroundTruth` is that of one image and is checked when it is built: a box
# without area is refused in the line that makes it, and not found as NaN an hour later.

# %%
images = [torch.rand(3, 128, 160), torch.rand(3, 128, 160)]
boxes = [torch.tensor([[8.0, 10, 70, 80], [40, 20, 120, 100]]), torch.tensor([[20.0, 5, 60, 90]])]
own = [torch.tensor([0, 2]), torch.tensor([1])]
dicts = [{"boxes": b, "labels": torch.tensor([ids[k] for k in n])} for b, n in zip(boxes, own, strict=True)]
targets = Targets.of([GroundTruth.of(b, n) for b, n in zip(boxes, own, strict=True)])
try:
    GroundTruth.of([[10, 10, 10, 40]], [0])
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# `model.loss(model(images, targets), targets)` are two steps, so that outputs can be looked at between them. The
# network is given a batch as it is; theirs resizes inside the model, which is turned off by its own size here.

# %%
model = detector.model.train()
theirs.train()
for part in [*theirs.modules(), *model.modules()]:
    if isinstance(part, torch.nn.BatchNorm2d):  # their random weights come without frozen statistics
        part.eval()
theirs.transform.min_size, theirs.transform.max_size = (128,), 160
with torch.no_grad():
    expected = theirs(images, dicts)
    losses = model.loss(model(ImageBatch.of(images), targets), targets)
theirs.eval()
for name, own_name in (("classification",) * 2, ("bbox_regression", "box"), ("bbox_ctrness", "centerness")):
    print(f"{name}: {float(expected[name]):.5f} there, {float(losses[own_name]):.5f} here")
    assert torch.allclose(expected[name], losses[own_name], rtol=2e-3)

# %% [markdown]
# ### And back
#
# Weights trained here can be loaded there, key by key (`boxwright convert RUN --to torchvision` on the command line).
# What the other library cannot express is refused, with its name.

# %%
from boxwright.convert.export import export_state
from boxwright.convert.files import convert_file
from boxwright.recipes import dump_recipe

ours = convert_file(work / "mine.pth", classes=names)
settings, kept = dump_recipe(ours.recipe)["model"], ours.origin.get("kept")
state = export_state(settings, len(ours.classes), ours.weights, "torchvision", kept)
original = theirs.state_dict()
differing = [name for name, value in state.items() if not torch.equal(value, original[name])]
print(len(state), "of", len(original), "tensors are written, of them different:", differing)
assert not differing

# %% [markdown]
# ## Detectron2
#
# A config is a recipe, `_BASE_` is `base`, `merge_from_list` are overrides, and `build_model(cfg)` is `build`.

# %%
for name in ("faster-rcnn-r50-fpn-1x", "faster-rcnn-r50-fpn-3x", "retinanet-r50-fpn-3x", "mask-rcnn-r50-fpn-3x"):
    print(f"{name}: {boxwright.load_recipe(name).reference}")
recipe = boxwright.load_recipe("faster-rcnn-r50-fpn-3x", ["optim.lr=0.01", "data.batch_size=8"])
print(recipe.optim.lr, recipe.schedule.steps)

# %% [markdown]
# A file of theirs is loaded as `boxwright.load("model_final.pkl")`, or by its name in the zoo,
# `boxwright.load("detectron2://COCO-Detection/...")`. Here such a file is made of a narrow RetinaNet with the settings
# that Detectron2 has: stride in the 1x1 convolutions, anchors at the corners of cells, clipping at the end.

# %%
from boxwright.convert.export import write_state
from boxwright.recipes import check_recipe

section = {
    "name": "retinanet",
    "backbone": {"stride_in_1x1": True, "widths": [16, 32, 8, 1], "pixel_std": [1 / 255] * 3},
    "fpn": {"channels": 32},
    "head": {"stem_channels": [32, 32]},
    "loss": {"normaliser": "ema"},
    "compat": {"anchor_grid": "corner", "clip": "after_nms", "pad_multiple": 32},
}
narrow = check_recipe({"model": section, "schedule": {"steps": 1}}, "narrow")
weights = narrow.build_model(80).state_dict()
pickled = export_state(dump_recipe(narrow)["model"], 80, weights, "detectron2")
write_state(pickled, work / "model_final.pkl", "detectron2")
print([name for name in pickled if "res2.0.conv1" in name])

# %%
second = boxwright.load(work / "model_final.pkl", device="cpu")
print(second.recipe.model.name, len(second.classes), second.classes.names[:3])
assert all(torch.equal(second.model.state_dict()[name], value) for name, value in weights.items())

# %% [markdown]
# ### `Instances`, `Boxes`, `ImageList`
#
# `Detections` has the fields of `Instances` in plain tensors: index it with a number, a slice, flags or numbers.

# %%
print(len(found), found[0].name, tuple(found.boxes.shape))  # pred_boxes.tensor
print(len(found[:3]), len(found[found.scores > 0.4]), len(found[[0, 2]]))
assert found[:3].scores.tolist() == found.scores[:3].tolist()

# %% [markdown]
# `ImageBatch` is `ImageList`: padded pixels, and the size of each image in them; and it knows the way back to the
# originals.

# %%
both = ImageBatch.of([torch.rand(3, 90, 160), torch.rand(3, 128, 100)], multiple_of=32)
print(tuple(both.pixels.shape), both.sizes_hw.tolist())
assert both.pixels.shape[2:] == (128, 160)

# %% [markdown]
# Two things to watch: images are RGB here (`detector.predict(bgr[..., ::-1])` for what OpenCV read), and background is
# no class, where it is class K in Detectron2 and 0 in torchvision's two-stage detectors.
#
# ### Scores side by side
#
# To the last digit two libraries never agree: sums are taken in another order. This is how far they are apart.

# %%
figure, axes = plt.subplots(figsize=(6, 3.6))
axes.hist((found.scores - output["scores"]).numpy(), bins=30)
axes.set(xlabel="score here minus score in torchvision", ylabel="detections")
plt.show()

# %% [markdown]
# ## Where to look up the rest
#
# docs/coming_from_torchvision.md and docs/coming_from_detectron2.md list calls and settings with their equivalents,
# and docs/conventions.md every number on which the libraries differ. To go on training from such a file: `boxwright
# train --weights mine.pth --data FOLDER`.
