"""Law: a centre crop gives the boxes that the course's notebook prints, from sizes and boxes of VOC 2007."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.dataset import DetectionDataset, SampleKey
from boxwright.data.drawn import DrawnCollate, DrawnDataset
from boxwright.data.loader import Collate
from boxwright.data.records import Annotation, LabelledFolder, Record, Split
from boxwright.data.stored import store_images, store_objects
from boxwright.data.transforms import Sample, resize_ground_truth, resize_proposals, resize_sample
from boxwright.inference.claims import unclaimed_findings
from boxwright.ops.image import ResizeRule, fit_image, resize_plan
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, CroppedMask, GroundTruth

RULE = ResizeRule("centre_crop", size=224)


@pytest.mark.parametrize(
    ("hw", "box", "printed"),
    [
        ((333, 500), (156, 97, 351, 270), (48.9369, 65.2493, 180.1081, 181.6216)),  # image 000012
        ((364, 480), (185, 62, 279, 199), (78.8462, 38.1538, 136.6923, 122.4615)),  # 000017: 295 wide, so 35 and 36
        ((366, 500), (9, 107, 499, 263), (0.0, 65.4863, 224.0, 160.9617)),  # 000033, cut on both sides
    ],
)
def test_boxes_are_those_that_the_notebook_prints(hw, box, printed):
    found = resize_ground_truth(GroundTruth.of([box], [6]), hw, RULE)
    assert found.boxes[0].tolist() == pytest.approx(printed, abs=1e-4)
    assert found.labels.tolist() == [6]


def test_what_lies_outside_is_dropped_and_slivers_stay():
    boxes = [[0, 0, 60, 50], [0, 10, 100.5, 20], [150, 20, 150.4, 20.4], [350, 0, 400, 90], [90, 0, 310, 100]]
    found = resize_ground_truth(GroundTruth.of(boxes, [0, 1, 2, 3, 4]), (100, 400), ResizeRule("centre_crop", size=50))
    assert found.labels.tolist() == [2, 4]  # the window is 150 to 250 of 400 wide
    torch.testing.assert_close(found.boxes, torch.tensor([[0, 10, 0.2, 10.2], [0, 0, 50, 50]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("hw", [(90, 130), (130, 90), (80, 80), (64, 97), (97, 64)])
@pytest.mark.parametrize("rounding", ["nearest", "down"])
def test_boxes_masks_and_proposals_lie_on_the_pixels_of_their_object(hw, rounding):
    """Within a pixel: as in the course, boxes are not scaled by the rounded side."""
    rule = ResizeRule("centre_crop", size=64, rounding=rounding)
    image = torch.zeros(3, *hw, dtype=torch.uint8)
    y, x = hw[0] // 3, hw[1] // 3
    image[:, y : y + 30, x : x + 24] = 255
    mask = CroppedMask(x, y, torch.ones(30, 24, dtype=torch.bool))
    ground_truth = GroundTruth.of([[x, y, x + 24, y + 30]], [0], None, [mask])
    proposals = torch.tensor([[x, y, x + 24, y + 30, 0.5], [0, 0, 1, 1, 0.5]])
    sample = resize_sample(Sample(image, ground_truth, proposals), rule)
    assert sample.size_hw == (64, 64)
    shown = (sample.pixels[0] > 127).nonzero()
    seen = torch.cat([shown.amin(0).flip(0), shown.amax(0).flip(0) + 1]).float()
    assert (sample.ground_truth.boxes[0] - seen).abs().max() <= 1.0
    assert (resize_proposals(proposals, hw, rule)[0, :4] - seen).abs().max() <= 1.0
    (placed,) = sample.ground_truth.masks
    height, width = placed.bitmap.shape
    assert (torch.tensor([placed.x, placed.y, placed.x + width, placed.y + height]) - seen).abs().max() <= 1


def test_the_crop_shows_the_middle_of_the_resized_image():
    image = torch.randint(0, 256, (3, 60, 99), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plan = resize_plan((60, 99), ResizeRule("centre_crop", size=40))
    assert plan.image_hw == (40, 66)
    whole = fit_image(image, plan._replace(size_hw=plan.image_hw, offset_xy=(0.0, 0.0)))
    assert torch.equal(fit_image(image, plan), whole[:, :, 13:53])


def test_batches_made_on_a_device_are_those_of_the_loader(tmp_path):
    """And training batches have one shape, whatever the images."""
    rng, records = np.random.default_rng(0), []
    for index, (height, width) in enumerate([(50, 70), (70, 50), (48, 48)]):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        box = Annotation((10.0, 5.0, 40.0, 44.0), 0, path.name)
        records.append(Record(path, index, (height, width), (box,), path.name))
    split = Split("train", tuple(records), Classes.named(["a"]))
    images = DetectionDataset(split, ResizeRule("centre_crop", size=32))
    assert images.network_sizes() == [(32, 32)] * 3
    stored, objects = store_images(images, torch.device("cpu")), store_objects(images)
    drawn = DrawnDataset(images, objects, send_images=False)
    keys = [SampleKey(index, index) for index in range(3)]
    made = DrawnCollate(images, stored.starts)([drawn[key] for key in keys]).to(
        torch.device("cpu"), stored.pixels, objects
    )
    loaded = Collate(images.rule)([images[key] for key in keys])
    assert torch.equal(made.images.pixels, loaded.images.pixels)
    assert torch.equal(made.targets.boxes[made.targets.valid], loaded.targets.boxes[loaded.targets.valid])
    assert torch.equal(made.images.offset_xy, loaded.images.offset_xy)


@pytest.mark.parametrize("name", ["fcos-regnetx400mf-224", "faster-rcnn-regnetx400mf-224"])
def test_the_course_recipes_train_on_squares_and_detect_in_whole_images(name):
    resize = load_recipe(name).data.resize
    assert resize_plan((333, 500), resize.training_rule()).size_hw == (224, 224)
    assert resize_plan((333, 500), resize.rule()).size_hw == (224, 336)


def test_objects_that_are_cut_off_are_told(tmp_path):
    boxes = [(0.0, 0.0, 20.0, 20.0), (100.0, 10.0, 190.0, 90.0), (150.0, 0.0, 250.0, 90.0)]
    rows = tuple(Annotation(box, 0, "x") for box in boxes)
    split = Split("train", (Record(tmp_path / "x.jpg", 0, (100, 400), rows, "x"),), Classes.named(["a"]))
    folder = LabelledFolder(tmp_path, "voc", split.classes, {"train": split})
    found = {
        finding.kind: finding.message for finding in unclaimed_findings(folder, load_recipe("fcos-regnetx400mf-224"))
    }
    assert "1 of 3 objects lie outside of the centred square" in found["objects-cut-off"]
    whole = load_recipe("fcos-regnetx400mf-224", ["data.resize.mode=short_side"])
    assert "objects-cut-off" not in {finding.kind for finding in unclaimed_findings(folder, whole)}
