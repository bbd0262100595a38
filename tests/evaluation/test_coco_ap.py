"""COCO AP equals pycocotools where that is valid, and is defined where it is not."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from boxwright.evaluation.coco_ap import coco_ap
from boxwright.ops.masks import encode_rle
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth

CLASSES = Classes.named(["cat", "dog", "cow"])


def oracle(detections, ground_truths, kind="boxes", areas=None, limits=(1, 10, 100), polygons=None):
    """The twelve figures of pycocotools, and the per-class APs, on the same boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images, rows, found_rows = [], [], []
    for index, (found, ground_truth) in enumerate(zip(detections, ground_truths, strict=True)):
        images.append({"id": index + 1, "height": found.size_hw[0], "width": found.size_hw[1]})
        for thing in range(len(ground_truth)):
            x1, y1, x2, y2 = ground_truth.boxes[thing].tolist()
            area = areas[index][thing] if areas else (x2 - x1) * (y2 - y1)
            row = {"id": len(rows) + 1, "image_id": index + 1, "category_id": int(ground_truth.labels[thing]) + 1}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": int(ground_truth.ignore[thing])}
            if kind == "masks":
                whole = torch.zeros(found.size_hw, dtype=torch.bool)
                crop = ground_truth.masks[thing]
                height, width = crop.bitmap.shape
                whole[crop.y : crop.y + height, crop.x : crop.x + width] = crop.bitmap
                row |= {"segmentation": encode_rle(whole), "area": int(whole.sum())}
            if polygons:
                row["segmentation"] = polygons[index][thing]
            rows.append(row)
        for row in replace(found, classes=Classes.named(CLASSES.names, 1)).to_coco(index + 1):
            if kind == "masks":
                del row["bbox"]
            found_rows.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        table = COCO()
        table.dataset = {"info": {}, "images": images, "annotations": rows}
        table.dataset["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES.names)]
        table.createIndex()
        evaluation = COCOeval(table, table.loadRes(found_rows), "segm" if kind == "masks" else "bbox")
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][..., 0, -1]
    per_class = [precision[:, :, k][precision[:, :, k] > -1] for k in range(len(CLASSES))]
    recall = evaluation.eval["recall"][0, :, 0, -1]  # at 0.5, of any size, with the most detections
    recall50 = recall[recall > -1].mean() if (recall > -1).any() else -1.0
    return [*evaluation.stats, recall50], [float(p.mean()) if p.size else None for p in per_class]


def stats(result):
    figures = [result.ap, result.ap50, result.ap75, result.ap_small, result.ap_medium, result.ap_large]
    figures += [*result.ar.values(), result.ar_small, result.ar_medium, result.ar_large]
    figures.append(result.recall50)
    return np.array([-1.0 if figure is None else figure for figure in figures])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ties", [False, True])
def test_boxes_equal_pycocotools(random_set, seed, ties):
    detections, ground_truths = random_set(seed, ties=ties)
    expected, per_class = oracle(detections, ground_truths)
    result = coco_ap(detections, ground_truths, CLASSES)
    np.testing.assert_allclose(stats(result), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(list(result.per_class.values()), per_class, rtol=0, atol=1e-12)
    assert 0.05 < result.ap < 0.95  # a set on which nothing could go wrong would prove nothing


@pytest.mark.parametrize("seed", range(3))
def test_masks_equal_pycocotools(random_set, seed):
    detections, ground_truths = random_set(seed, masks=True, images=6)
    expected, _ = oracle(detections, ground_truths, "masks")
    result = coco_ap(detections, ground_truths, CLASSES, kind="masks")
    np.testing.assert_allclose(stats(result), expected, rtol=0, atol=1e-12)
    assert result.figures()["kind"] == "masks"


def outline(rng, centre, radius):
    """A polygon of two parts, flat x, y lists: rough discs beside each other."""
    parts = []
    for shift in (0, radius):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        spokes = radius * rng.uniform(0.6, 1, 9)
        parts.append(np.stack([centre[0] + shift + spokes * np.cos(angles), centre[1] + spokes * np.sin(angles)], 1))
    return [part.round(2).ravel().tolist() for part in parts]


@pytest.mark.parametrize("seed", range(3))
def test_ground_truth_given_as_polygons_equals_pycocotools(seed):
    """Small objects, where a pixel of the border decides whether an overlap is reached."""
    rng, size_hw = np.random.default_rng(seed), (90, 120)
    detections, ground_truths, polygons = [], [], []
    for _ in range(8):
        objects = [outline(rng, rng.uniform(0, (120, 90)), rng.uniform(3, 14)) for _ in range(6)]
        moved = [[[value + rng.normal(0, 0.7) for value in part] for part in parts] for parts in objects]
        masks = [CroppedMask.decoded(parts, size_hw) for parts in objects]
        found = [CroppedMask.decoded(parts, size_hw) for parts in moved]
        boxes = [
            [min(parts[0][0::2]), min(parts[0][1::2]), max(parts[1][0::2]), max(parts[0][1::2])] for parts in objects
        ]
        labels = torch.from_numpy(rng.integers(0, 3, 6))
        polygons.append(objects)
        ground_truths.append(GroundTruth.of(boxes, labels, masks=masks))
        scores = torch.from_numpy(rng.random(6))
        detections.append(Detections(ground_truths[-1].boxes, scores, labels, size_hw, CLASSES, tuple(found)))
    expected, _ = oracle(detections, ground_truths, "masks", polygons=polygons)
    result = coco_ap(detections, ground_truths, CLASSES, kind="masks")
    np.testing.assert_allclose(stats(result), expected, rtol=0, atol=1e-12)
    assert 0.2 < result.ap < 0.9


def test_a_polygon_that_covers_no_pixel_is_missed_as_pycocotools_has_it():
    polygons = [[[10, 10, 30, 10, 30, 30, 10, 30]], [[40.1, 40.1, 40.3, 40.1, 40.3, 40.3]]]
    masks = [CroppedMask.decoded(parts, (80, 80)) for parts in polygons]
    assert [int(mask.bitmap.sum()) for mask in masks] == [400, 0]
    assert all(mask.known for mask in masks)
    ground_truth = GroundTruth.of([[10, 10, 30, 30], [40, 40, 41, 41]], [0, 0], masks=masks)
    found = Detections(
        ground_truth.boxes, torch.tensor([0.5, 0.9]), ground_truth.labels, (80, 80), CLASSES, tuple(masks)
    )
    expected, _ = oracle([found], [ground_truth], "masks", polygons=[polygons])
    result = coco_ap([found], [ground_truth], CLASSES, kind="masks")
    np.testing.assert_allclose(stats(result), expected, rtol=0, atol=1e-12)
    assert result.ap < 0.5  # a false detection above the hit, and one of two objects missed


def test_cropped_masks_count_as_whole_ones(random_set):
    detections, ground_truths = random_set(4, masks=True, images=4)
    cropped = [replace(one, masks=tuple(one.mask(index) for index in range(len(one)))) for one in detections]
    assert coco_ap(cropped, ground_truths, CLASSES, kind="masks") == coco_ap(
        detections, ground_truths, CLASSES, kind="masks"
    )


def test_an_object_whose_mask_is_not_known_is_ignored_like_a_crowd(random_set):
    box = [[10.0, 10.0, 30.0, 30.0], [40.0, 40.0, 60.0, 60.0]]
    square = torch.ones(20, 20, dtype=torch.bool)
    ground_truth = GroundTruth.of(box, [0, 0], masks=[CroppedMask(10, 10, square), CroppedMask.unknown(40, 40)])
    found = (CroppedMask(10, 10, square), CroppedMask(40, 40, square))
    detections = [Detections(ground_truth.boxes, torch.tensor([0.5, 0.9]), ground_truth.labels, (80, 80), masks=found)]
    assert coco_ap(detections, [ground_truth], CLASSES, kind="masks").ap == pytest.approx(1)
    assert coco_ap(detections, [ground_truth], CLASSES).ap == pytest.approx(1)
    missed = [detections[0].select(torch.tensor([0]))]
    assert coco_ap(missed, [ground_truth], CLASSES, kind="masks").ap == pytest.approx(1)
    assert coco_ap(missed, [ground_truth], CLASSES).ap == pytest.approx(0.5, abs=0.01)


def test_figures_of_masks_have_names_of_their_own(random_set):
    detections, ground_truths = random_set(2, masks=True, images=3)
    figures = coco_ap(detections, ground_truths, CLASSES, kind="masks").figures("segm_")
    assert {"segm_AP", "segm_AP50", "segm_APs", "segm_AR100", "segm_per_class"} <= set(figures)
    assert all(name.startswith("segm_") for name in figures)


def test_stated_areas_decide_what_is_small(random_set):
    detections, ground_truths = random_set(5)
    areas = [[20.0] * len(ground_truth) for ground_truth in ground_truths]
    expected, _ = oracle(detections, ground_truths, areas=areas)
    result = coco_ap(detections, ground_truths, CLASSES, areas=areas)
    np.testing.assert_allclose(stats(result), expected, rtol=0, atol=1e-12)
    assert result.ap_large is None
    assert result.ap_small is not None


def test_area_of_an_object_with_a_mask_is_its_pixels():
    ground_truth = GroundTruth.of([[0, 0, 40, 40]], [0])
    detections = [Detections(ground_truth.boxes, torch.ones(1), ground_truth.labels, (50, 50))]
    assert coco_ap(detections, [ground_truth], CLASSES).ap_medium == pytest.approx(1)  # 1600 square pixels
    bitmap = torch.zeros(40, 40, dtype=torch.bool)
    bitmap[:10] = True  # 400 pixels: small
    masked = GroundTruth.of(ground_truth.boxes, ground_truth.labels, masks=[CroppedMask(0, 0, bitmap)])
    assert coco_ap(detections, [masked], CLASSES).ap_medium is None
    assert coco_ap(detections, [masked], CLASSES, areas=[[None]]).ap_medium is None
    assert coco_ap(detections, [masked], CLASSES, areas=[[1100.0]]).ap_medium == pytest.approx(1)


def test_no_detections_is_zero_and_no_ground_truth_is_undefined(random_set):
    _, ground_truths = random_set(1)
    nothing = [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (240, 320))] * 12
    result = coco_ap(nothing, ground_truths, CLASSES)
    assert result.ap == 0
    assert result.ar[100] == 0
    assert result.notes == ("No detections at all: AP is 0.",)
    detections, _ = random_set(1)
    result = coco_ap(detections, [GroundTruth.empty()] * 12, CLASSES)
    assert result.ap is None
    assert result.per_class == {"cat": None, "dog": None, "cow": None}
    assert result.notes[0].startswith("No ground truth at all")
    assert coco_ap([], [], CLASSES).ap is None
    assert coco_ap(nothing, [GroundTruth.empty()] * 12, CLASSES).ap is None


def test_perfect_detections_are_perfect_from_the_first_object(random_set):
    _, ground_truths = random_set(2, crowd=0, most=4)  # few enough that AR10 keeps all
    detections = [Detections(t.boxes, torch.full((len(t),), 0.9), t.labels, (240, 320)) for t in ground_truths]
    result = coco_ap(detections, ground_truths, CLASSES)
    assert result.ap == pytest.approx(1, abs=1e-9)  # pycocotools loses the object with id 0
    assert result.ar[100] == 1


@pytest.mark.parametrize("limit", [1, 5, 300])
def test_other_limits_than_100_give_the_right_figures(random_set, limit):
    detections, ground_truths = random_set(3, num_classes=1, most=30)
    result = coco_ap(detections, ground_truths, CLASSES, max_detections=(limit,))
    cut = [found.select(torch.arange(min(limit, len(found)))) for found in detections]
    expected, _ = oracle(cut, ground_truths)  # cut beforehand: one class, so an image's limit is its class's
    assert result.ap == pytest.approx(expected[0], abs=1e-12)
    assert result.ar == {limit: pytest.approx(expected[8], abs=1e-12)}


def test_thresholds_without_a_half_leave_ap50_undefined(random_set):
    detections, ground_truths = random_set(4)
    result = coco_ap(detections, ground_truths, CLASSES, iou_thresholds=[0.75])
    assert result.ap50 is None
    assert result.ap == result.ap75 == pytest.approx(oracle(detections, ground_truths)[0][2], abs=1e-12)


def test_it_prints_nothing(random_set, capfd):
    coco_ap(*random_set(0), CLASSES)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


@pytest.mark.parametrize("change", ["length", "label", "score", "masks", "areas", "limit"])
def test_wrong_input_is_one_sentence(random_set, change):
    detections, ground_truths = random_set(0)
    at = next(index for index, found in enumerate(detections) if len(found))
    options = {}
    if change == "length":
        ground_truths = ground_truths[1:]
    elif change == "label":
        detections[at] = replace(detections[at], labels=detections[at].labels + 3)
    elif change == "score":
        detections[at] = replace(detections[at], scores=detections[at].scores * float("nan"))
    elif change == "masks":
        options = {"kind": "masks"}
    elif change == "areas":
        options = {"areas": [[1.0] * 99] * len(ground_truths)}
    else:
        options = {"max_detections": (0,)}
    with pytest.raises(ValueError, match=r"images|image \d+|max_detections"):
        coco_ap(detections, ground_truths, CLASSES, **options)
