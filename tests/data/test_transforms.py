"""Law: whatever a step does to the pixels, boxes, labels, ignore flags and masks still say where each object is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from boxwright.data.transforms import (
    ColourJitter,
    Compose,
    HorizontalFlip,
    Placement,
    RandomIoUCrop,
    Sample,
    ScaleJitter,
    Step,
    VerticalFlip,
    place_ground_truth,
    resize_sample,
)
from boxwright.ops.image import PAD_COLOUR, ResizeRule, fit_image, resize_image, resize_plan
from boxwright.structures import CroppedMask, GroundTruth, Targets

BACKGROUND = 90
COLOURS = torch.tensor(
    [[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10], [250, 10, 250], [10, 250, 250], [250, 130, 10]]
)
MOVING: list[Step] = [
    HorizontalFlip(1.0),
    VerticalFlip(1.0),
    ScaleJitter(1.0, 2.0),
    ScaleJitter(0.5, 1.0),
    RandomIoUCrop(1.0),
    Compose([HorizontalFlip(0.5), RandomIoUCrop(0.5), ScaleJitter(0.6, 1.6), VerticalFlip(0.5)]),
]
RULES = [
    ResizeRule("short_side", size=80, max_size=120),
    ResizeRule("short_side", size=200),
    ResizeRule("letterbox", height=150, width=150),
    ResizeRule("fixed", height=90, width=210),
    ResizeRule("none"),
]


def painted(seed: int, *, hw: tuple[int, int] = (120, 160), masks: bool = True) -> Sample:
    """Corners, ellipses and rectangles on grey, one to a cell of a grid, each label in its own colour, some ignored."""
    generator = torch.Generator().manual_seed(seed)
    height, width = hw
    image = torch.full((3, height, width), BACKGROUND, dtype=torch.uint8)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    boxes, labels, planes = [], [], []
    for label in range(len(COLOURS)):
        if torch.rand((), generator=generator) < 0.3:
            continue
        cell_w, cell_h = width // 4, height // 2
        size = (torch.rand(2, generator=generator) * 0.5 + 0.4) * torch.tensor([cell_w, cell_h])
        w, h = (int(value) for value in size)
        x, y = (label % 4) * cell_w + 2, (label // 4) * cell_h + 2
        plane = (columns > x) & (columns < x + w) & (rows > y) & (rows < y + h)
        if label % 3 == 0:  # a shape without symmetry, so that a mask that was not mirrored shows
            plane &= (columns < x + w / 2) | (rows > y + h / 2)
        elif label % 3 == 1:
            plane &= ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
        image[:, plane] = COLOURS[label][:, None].to(torch.uint8)
        boxes.append([x, y, x + w, y + h])
        labels.append(label)
        planes.append(CroppedMask(x, y, plane[y : y + h, x : x + w].clone()))
    flags = [label in (2, 3) for label in labels]
    return Sample(image, GroundTruth.of(boxes, labels, flags, planes if masks else None))


def full_plane(mask: CroppedMask, hw: tuple[int, int]) -> Tensor:
    plane = torch.zeros(hw, dtype=torch.bool)
    height, width = mask.bitmap.shape
    assert mask.x >= 0
    assert mask.y >= 0
    assert mask.x + width <= hw[1]
    assert mask.y + height <= hw[0]
    plane[mask.y : mask.y + height, mask.x : mask.x + width] = mask.bitmap
    return plane


def shrunk(plane: Tensor) -> Tensor:
    """A mask without its outermost two pixels, where interpolation mixes colours."""
    return torch.nn.functional.max_pool2d((~plane).float()[None], 5, 1, 2)[0] == 0


def assert_consistent(sample: Sample) -> None:
    """Mask, box and pixels of every object agree, and no object that still shows has been forgotten."""
    ground_truth, hw = sample.ground_truth, sample.size_hw
    assert ground_truth.masks is not None
    covered = torch.zeros(hw, dtype=torch.bool)
    for box, label, flag, mask in zip(
        ground_truth.boxes.tolist(),
        ground_truth.labels.tolist(),
        ground_truth.ignore.tolist(),
        ground_truth.masks,
        strict=True,
    ):
        plane = full_plane(mask, hw)
        ys, xs = plane.nonzero(as_tuple=True)
        tight = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        assert torch.tensor(tight).sub(torch.tensor(box)).abs().max() <= 2, (tight, box)
        core = shrunk(plane)
        if core.any():
            error = (sample.image[:, core].float() - COLOURS[label][:, None]).abs().max()
            assert error <= 12, f"label {label}: another colour under its mask"
        assert flag == (label in (2, 3))
        covered |= plane
    for label in ground_truth.labels.tolist():
        alike = (sample.image.float() - COLOURS[label][:, None, None]).abs().amax(0) < 3
        assert not (shrunk(alike) & ~covered).any(), f"label {label} shows outside its mask"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("step", MOVING, ids=lambda step: f"{type(step).__name__}")
def test_moving_steps_keep_pixels_boxes_and_masks_together(step: Step, seed: int) -> None:
    torch.manual_seed(seed)
    moved = step(painted(seed))
    assert moved.size_hw == (120, 160)
    assert moved.image.dtype == torch.uint8
    assert_consistent(moved)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.mode)
def test_resizing_keeps_pixels_boxes_and_masks_together_and_loses_nothing(rule: ResizeRule, seed: int) -> None:
    sample = painted(seed)
    moved = resize_sample(sample, rule)
    assert len(moved.ground_truth) == len(sample.ground_truth)
    plan = resize_plan((120, 160), rule)
    assert moved.size_hw == plan.size_hw
    assert_consistent(moved)
    back = (moved.ground_truth.boxes - torch.tensor(plan.offset_xy * 2)) / torch.tensor(plan.scale_xy * 2)
    torch.testing.assert_close(back, sample.ground_truth.boxes, atol=1e-3, rtol=0)
    assert torch.equal(fit_image(sample.image, plan), moved.image)  # what inference does is what training saw


@pytest.mark.parametrize("step", [HorizontalFlip(1.0), VerticalFlip(1.0)], ids=["horizontal", "vertical"])
def test_flipping_twice_changes_nothing(step: Step) -> None:
    sample = painted(0)
    again = step(step(sample))
    assert torch.equal(again.image, sample.image)
    assert torch.equal(again.ground_truth.boxes, sample.ground_truth.boxes)
    assert again.ground_truth.masks is not None
    assert sample.ground_truth.masks is not None
    for one, other in zip(again.ground_truth.masks, sample.ground_truth.masks, strict=True):
        assert one[:2] == other[:2]
        assert torch.equal(one.bitmap, other.bitmap)


@pytest.mark.parametrize("step", [*MOVING, ColourJitter(hue=0.1)], ids=lambda step: f"{type(step).__name__}")
def test_every_step_works_without_masks_and_on_an_empty_image(step: Step) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        plain = step(painted(seed, masks=False))
        torch.manual_seed(seed)
        masked = step(painted(seed))
        assert plain.ground_truth.masks is None
        assert set(masked.ground_truth.labels.tolist()) <= set(plain.ground_truth.labels.tolist())
        assert torch.equal(plain.image, masked.image)
        empty = step(Sample(painted(seed).image, GroundTruth.empty()))
        assert len(empty.ground_truth) == 0
        assert empty.size_hw == (120, 160)


@pytest.mark.parametrize("step", [*MOVING, ColourJitter(hue=0.1)], ids=lambda step: f"{type(step).__name__}")
def test_chance_comes_from_torch_and_repeats_by_seed(step: Step) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append([step(painted(seed)) for seed in range(4)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.ground_truth.boxes, other.ground_truth.boxes)


def test_scale_jitter_and_crop_differ_from_draw_to_draw() -> None:
    torch.manual_seed(0)
    sample = painted(1)
    for step in (ScaleJitter(0.5, 1.5), RandomIoUCrop(1.0, least_ious=(0.0, 0.0, 0.0, 0.0, 1.0)), ColourJitter()):
        assert len({step(sample).image.float().mean().item() for _ in range(6)}) >= 4


def test_probability_zero_changes_nothing() -> None:
    sample = painted(3)
    for step in (HorizontalFlip(0.0), VerticalFlip(0.0), ScaleJitter(p=0.0), RandomIoUCrop(0.0), ColourJitter(p=0.0)):
        assert step(sample) is sample


def test_objects_mostly_outside_a_crop_go_but_ignored_regions_stay() -> None:
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    boxes = [[0.0, 0, 100, 4], [0, 96, 100, 100], [0, 0, 4, 100], [96, 0, 100, 100], [45, 45, 55, 55]]
    sample = Sample(image, GroundTruth.of(boxes, [0, 0, 0, 0, 1], [True, True, True, True, False]))
    plain = Sample(image, GroundTruth.of(boxes, [0, 0, 0, 0, 1]))
    torch.manual_seed(0)
    for _ in range(20):
        state = torch.get_rng_state()
        kept = ScaleJitter(1.6, 1.6, min_visibility=0.9)(sample).ground_truth
        torch.set_rng_state(state)
        strict = ScaleJitter(1.6, 1.6, min_visibility=0.9)(plain).ground_truth
        assert strict.labels.tolist() == [1]  # each bar shows at most 62 %
        assert 0 < int((kept.labels == 1).sum()) <= len(kept)
        assert kept.ignore.tolist() == (kept.labels == 0).tolist()
        widths = kept.boxes[:, 2:] - kept.boxes[:, :2]
        assert (widths >= 1).all()
        assert (kept.boxes >= 0).all()
        assert (kept.boxes <= 100).all()
    corner_bars = [ScaleJitter(1.1, 1.1, min_visibility=0.99)(sample).ground_truth.ignore.any() for _ in range(5)]
    assert any(corner_bars)


def test_a_cut_object_gets_the_tight_box_of_what_is_left_of_its_mask() -> None:
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    triangle = columns <= rows  # its upper right half is empty
    image = torch.zeros(3, 60, 60, dtype=torch.uint8)
    image[:, triangle] = 255
    sample = Sample(image, GroundTruth.of([[0, 0, 60, 60]], [0], None, [CroppedMask(0, 0, triangle)]))
    torch.manual_seed(1)
    smaller = 0
    for _ in range(20):
        moved = ScaleJitter(2.0, 2.0, min_visibility=0.0)(sample)
        for box, mask in zip(moved.ground_truth.boxes.tolist(), moved.ground_truth.masks or (), strict=True):
            ys, xs = full_plane(mask, (60, 60)).nonzero(as_tuple=True)
            assert box == [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
            smaller += box != [0, 0, 60, 60]
    assert smaller > 0


@pytest.mark.parametrize("mask", [CroppedMask.unknown(), CroppedMask(0, 0, torch.zeros(0, 0, dtype=torch.bool))])
def test_a_cut_object_without_a_mask_keeps_its_box(mask: CroppedMask) -> None:
    """Left out, it would be learnt as background."""
    window = Placement((10, 0, 60, 60), size_hw=(60, 50), corner_xy=(0, 0))
    square = CroppedMask(0, 0, torch.ones(5, 5, dtype=torch.bool))  # all of it beyond the window
    ground_truth = GroundTruth.of([[0, 0, 40, 40], [0, 0, 40, 40]], [0, 1], None, [mask, square])
    moved = place_ground_truth(ground_truth, window, min_visibility=0.0)
    assert moved.boxes.tolist() == [[0, 0, 30, 40]]
    assert moved.labels.tolist() == [0]
    assert moved.masks is not None
    assert not moved.masks[0].bitmap.any()


@pytest.mark.parametrize("step", MOVING, ids=lambda step: f"{type(step).__name__}")
def test_every_step_takes_masks_without_a_pixel(step: Step) -> None:
    for seed in range(4):
        sample = painted(seed)
        none = CroppedMask(3, 4, torch.zeros(0, 0, dtype=torch.bool))
        ground_truth = sample.ground_truth
        masks = tuple((none, CroppedMask.unknown(3, 4))[label % 2] for label in ground_truth.labels.tolist())
        empty = GroundTruth(ground_truth.boxes, ground_truth.labels, ground_truth.ignore, masks)
        torch.manual_seed(seed)
        moved = step(Sample(sample.image, empty))
        torch.manual_seed(seed)
        plain = step(painted(seed, masks=False))
        assert torch.equal(moved.ground_truth.boxes, plain.ground_truth.boxes)
        assert moved.ground_truth.masks is not None
        assert not any(mask.bitmap.any() for mask in moved.ground_truth.masks)
        assert [mask.known for mask in moved.ground_truth.masks] == [
            label % 2 == 0 for label in moved.ground_truth.labels.tolist()
        ]
        Targets.of([moved.ground_truth])


def test_iou_crop_keeps_only_objects_whose_centre_it_holds() -> None:
    torch.manual_seed(0)
    cropped = 0
    for seed in range(20):
        sample = painted(seed)
        moved = RandomIoUCrop(1.0, least_ious=(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1.0))(sample)
        if moved is sample:
            continue
        cropped += 1
        assert int((~moved.ground_truth.ignore).sum()) >= 1
        assert len(moved.ground_truth) <= len(sample.ground_truth)
    assert cropped >= 15


def test_iou_crop_leaves_an_image_of_ignored_regions_alone() -> None:
    sample = Sample(torch.zeros(3, 50, 50, dtype=torch.uint8), GroundTruth.of([[5, 5, 40, 40]], [0], [True]))
    assert RandomIoUCrop(1.0)(sample) is sample


def test_colour_jitter_keeps_grey_grey_and_moves_colours() -> None:
    grey = Sample(torch.full((3, 20, 20), 120, dtype=torch.uint8), GroundTruth.empty())
    torch.manual_seed(0)
    for _ in range(10):
        image = ColourJitter(0.0, 0.0, 0.5, 0.2)(grey).image.int()
        assert (image - 120).abs().max() <= 1  # neither saturation nor hue touches grey
    red = Sample(grey.image.clone(), GroundTruth.empty())
    red.image[0] = 200
    turned = ColourJitter(0.0, 0.0, 0.0, 0.3)(red).image
    assert (turned.int() - red.image.int()).abs().max() > 10
    still = ColourJitter(0.0, 0.0, 0.0, 0.0)(red).image
    assert torch.equal(still, red.image)


def test_colours_are_those_of_torchvisions_jitter() -> None:
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    ours = ColourJitter(0.4, 0.3, 0.2, 0.1)(Sample(image, GroundTruth.empty())).image
    torch.manual_seed(5)
    torch.rand(())  # the chance of the step itself
    assert torch.equal(ours, v2.ColorJitter(0.4, 0.3, 0.2, 0.1)(image))
    assert not torch.equal(ours, image)


@pytest.mark.parametrize("seed", range(8))
def test_the_crop_is_that_of_torchvisions_iou_crop(seed: int) -> None:
    """The crop that `v2.RandomIoUCrop` chooses, with the pixels and boxes that v2 makes of it."""
    sample = painted(seed, masks=False)
    known = Sample(
        sample.image, GroundTruth.of(sample.ground_truth.boxes, sample.ground_truth.labels)
    )  # nothing to ignore
    boxes = tv_tensors.BoundingBoxes(known.ground_truth.boxes, format="XYXY", canvas_size=(120, 160))  # type: ignore[call-overload]
    crop = v2.RandomIoUCrop(sampler_options=[0.3, 0.3, 0.3, 0.3, 1.0])
    torch.manual_seed(seed)
    ours = RandomIoUCrop(1.0, least_ious=(0.3, 0.3, 0.3, 0.3, 1.0))(known)
    torch.manual_seed(seed)
    torch.rand(())  # the chance of the step itself
    chosen = crop.make_params([known.image, boxes])
    if not chosen:
        assert ours is known
        return
    top, left, height, width = (chosen[name] for name in ("top", "left", "height", "width"))
    inside = chosen["is_within_crop_area"]
    theirs = v2.functional.resized_crop(known.image, top, left, height, width, [120, 160], antialias=True)
    moved = v2.functional.resized_crop(boxes, top, left, height, width, [120, 160])
    assert torch.equal(ours.image, theirs)
    assert torch.equal(ours.ground_truth.labels, known.ground_truth.labels[inside])
    clamped = v2.functional.clamp_bounding_boxes(moved)[inside]
    torch.testing.assert_close(ours.ground_truth.boxes, clamped.as_subclass(torch.Tensor), rtol=0, atol=1e-4)


def test_iou_crop_leaves_images_alone_that_are_too_small_to_crop() -> None:
    for hw in ((3, 40), (40, 3), (1, 1)):
        sample = Sample(torch.zeros(3, *hw, dtype=torch.uint8), GroundTruth.of([[0, 0, hw[1], hw[0]]], [0]))
        assert RandomIoUCrop(1.0)(sample) is sample


def test_iou_crop_needs_a_way_out() -> None:
    with pytest.raises(ValueError, match="minimum IoU of 1"):
        RandomIoUCrop(1.0, least_ious=(0.9,))


@pytest.mark.parametrize("factor", [0.5, 0.73, 1.0, 1.6])
def test_scale_jitter_makes_the_pixels_and_boxes_of_torchvisions_crop_resize_and_pad(factor: float) -> None:
    sample = painted(2, masks=False)
    torch.manual_seed(1)
    ours = ScaleJitter(factor, factor, min_visibility=0.0)(sample)
    boxes = tv_tensors.BoundingBoxes(sample.ground_truth.boxes, format="XYXY", canvas_size=(120, 160))  # type: ignore[call-overload]
    torch.manual_seed(1)
    torch.rand(2)  # the chance of the step itself, and its factor
    if factor >= 1:
        height, width = round(120 / factor), round(160 / factor)
        left, top = (int(torch.randint(side + 1, ())) for side in (160 - width, 120 - height))
        window = (top, left, height, width, [120, 160])
        image = v2.functional.resized_crop(sample.image, *window, antialias=True)
        moved = v2.functional.resized_crop(boxes, *window)
    else:
        height, width = round(120 * factor), round(160 * factor)
        left, top = (int(torch.randint(side + 1, ())) for side in (160 - width, 120 - height))
        around = [left, top, 160 - width - left, 120 - height - top]
        image = v2.functional.resize(sample.image, [height, width], antialias=True)
        image = v2.functional.pad(image, around, fill=list(PAD_COLOUR))
        moved = v2.functional.pad(v2.functional.resize(boxes, [height, width]), around)
    assert torch.equal(ours.image, image)
    clamped = v2.functional.clamp_bounding_boxes(moved).as_subclass(torch.Tensor)
    shown = (clamped[:, 2:] - clamped[:, :2] >= 1).all(1)
    torch.testing.assert_close(ours.ground_truth.boxes, clamped[shown], rtol=0, atol=1e-4)


def test_a_mask_thinner_than_a_pixel_still_has_one() -> None:
    bitmap = torch.ones(1, 30, dtype=torch.bool)
    ground_truth = GroundTruth.of([[10.0, 77.0, 40.0, 78.0]], [0], None, [CroppedMask(10, 77, bitmap)])
    moved = resize_sample(
        Sample(torch.zeros(3, 100, 100, dtype=torch.uint8), ground_truth), ResizeRule("short_side", size=33)
    )
    assert moved.ground_truth.masks is not None
    assert moved.ground_truth.masks[0].bitmap.any()
    assert moved.ground_truth.masks[0].y == 25


@pytest.mark.parametrize(
    ("hw", "rule", "size_hw", "scale_xy"),
    [
        ((480, 640), ResizeRule("short_side", size=240, max_size=1000), (240, 320), (0.5, 0.5)),
        ((100, 1000), ResizeRule("short_side", size=200, max_size=500), (50, 500), (0.5, 0.5)),
        ((300, 200), ResizeRule("letterbox", height=150, width=400), (150, 400), (0.5, 0.5)),
        ((300, 200), ResizeRule("fixed", height=150, width=400), (150, 400), (2.0, 0.5)),
        ((33, 57), ResizeRule("none"), (33, 57), (1.0, 1.0)),
    ],
)
def test_resize_plan_by_hand(
    hw: tuple[int, int], rule: ResizeRule, size_hw: tuple[int, int], scale_xy: tuple[float, float]
) -> None:
    plan = resize_plan(hw, rule)
    assert plan.size_hw == size_hw
    assert plan.scale_xy == scale_xy
    assert plan.offset_xy == (0.0, 0.0)


def test_short_side_scale_is_the_rounded_one() -> None:
    plan = resize_plan((333, 500), ResizeRule("short_side", size=200, max_size=1000))
    assert plan.size_hw == (200, 300)
    assert plan.scale_xy == (300 / 500, 200 / 333)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "short_side"},
        {"mode": "letterbox", "height": 5},
        {"mode": "fixed", "height": 5, "width": 0},
        {"mode": "none", "size": 8},
        {"mode": "stretch"},
    ],
)
def test_resize_rules_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="resize"):
        ResizeRule(**arguments)  # type: ignore[arg-type]


def test_resize_image_keeps_the_type_and_agrees_between_types() -> None:
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = resize_image(image, (30, 41))
    assert small.dtype == torch.uint8
    precise = resize_image(image.float() / 255, (30, 41))
    assert precise.dtype == torch.float32
    assert (small.float() / 255 - precise).abs().max() <= 1.5 / 255
