"""Laws of geometry, targets, detections and NMS that published detectors and courses have broken, one test each.

The docstrings say how. "The course" is the university assignment of docs/conventions.md; the laws of heads, initial
weights, losses and training are in test_training_laws.py.
"""

import inspect

import pytest
import torch
from configs import COURSE, built, config_of
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import batched_nms
from torchvision.ops import nms as kernel

from boxwright.models.fcos import FCOS
from boxwright.ops.assign import assign_locations
from boxwright.ops.losses import centerness_loss
from boxwright.ops.points import centerness, decode_ltrb, grid_locations, level_ranges, pyramid_locations
from boxwright.ops.select import clip_boxes, nms, select_detections, suppress
from boxwright.recipes import load_recipe, recipe_names
from boxwright.structures import DetectSettings, GroundTruth, ImageBatch, Targets

TINY = {**COURSE, "backbone.name": "resnet18", "fpn.channels": 16, "head.stem_channels": (16,)}


def build(changes=None):
    torch.manual_seed(0)
    return built("fcos", 3, {**TINY, **(changes or {})}).eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def outputs(model):
    """Raw predictions for an image that is twice as wide as high, for tests to change."""
    with torch.no_grad():
        return model(ImageBatch.of([torch.rand(3, 64, 128, generator=torch.Generator().manual_seed(0))]))


def predicting(outputs, location, distances, label=0, rows=()):
    """Outputs that are sure of one object: seen from the location (x, y), its sides at `distances` in strides."""
    logits = torch.full_like(outputs.class_logits, -20.0)
    sides = torch.zeros_like(outputs.distances)
    place = int((outputs.locations == torch.tensor(location)).all(1).nonzero()[0])
    for row in (place, *rows):
        logits[0, row, label] = 20.0
        sides[0, row] = torch.tensor(distances)
    central = torch.full_like(outputs.centerness_logits, 20.0)
    return outputs._replace(class_logits=logits, distances=sides, centerness_logits=central)


def owners(locations, boxes, *, stride=8.0, low=0.0, high=float("inf"), radius=None):
    """Which of the boxes each location belongs to, on one level."""
    count = len(locations)
    boxes = torch.tensor([boxes], dtype=torch.float32).reshape(1, -1, 4)
    flags = torch.ones(1, boxes.shape[1], dtype=torch.bool)
    result = assign_locations(
        torch.tensor(locations), torch.full((count,), stride), torch.tensor([[low, high]]).expand(count, 2), boxes,
        flags, ~flags, center_radius=radius,
    )  # fmt: skip
    return result.owner[0].tolist()


def nms_per_class(boxes, scores, labels, iou_threshold):
    """Rows kept by `suppress` in one image, best first."""
    order = scores.argsort(descending=True, stable=True)
    return order[suppress(boxes[order][None], labels[order][None], iou_threshold, len(order))[0]]


class Operations(TorchDispatchMode):
    """Counts the tensor operations that run inside."""

    count = 0

    def __torch_dispatch__(self, function, kinds, arguments=(), settings=None):
        self.count += 1
        return function(*arguments, **(settings or {}))


class TestGeometry:
    def test_x_is_the_column_and_y_is_the_row(self, outputs):
        """A version of the course gave x the row; square training images hid it."""
        assert grid_locations((2, 3), 8)[:3].tolist() == [[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]]
        assert outputs.locations[:, 0].amax() == 124  # the image is 128 wide
        assert outputs.locations[:, 1].amax() == 60  # and 64 high

    def test_an_object_at_the_right_of_a_wide_image_is_found_there(self, model, outputs):
        """The same law, from outputs to boxes."""
        sure = predicting(outputs, (108.0, 20.0), (1.0, 2.0, 1.5, 3.0))
        found = model.detect_padded(sure, DetectSettings())
        assert found.boxes[0, 0].tolist() == [100.0, 4.0, 120.0, 44.0]

    @pytest.mark.parametrize("boxes", [1, 50])
    def test_locations_and_owners_take_no_python_loop_over_cells(self, boxes):
        """A double loop over cells made the course's inference 2.4 times as slow."""
        counts = []
        for side in (2, 40):
            with Operations() as operations:
                locations, strides = pyramid_locations(((side, side),), (8,))
                ranges = torch.zeros(len(locations), 2) + torch.tensor([0.0, 64.0])
                rows = torch.zeros(2, boxes, 4)
                assign_locations(locations, strides, ranges, rows, rows[..., 0] > 0, rows[..., 0] > 0)
            counts.append(operations.count)
        assert counts[0] == counts[1]

    def test_boxes_are_clipped_in_x_by_the_width_and_in_y_by_the_height(self, model, outputs):
        """The course clips x2 by the height and y2 by the width: on square images nobody notices."""
        assert clip_boxes(torch.tensor([[[-9.0, -9.0, 999.0, 999.0]]]), torch.tensor([[64, 128]])).tolist() == [
            [[0.0, 0.0, 128.0, 64.0]]
        ]
        sure = predicting(outputs, (108.0, 20.0), (99.0, 99.0, 99.0, 99.0))
        assert model.detect_padded(sure, DetectSettings()).boxes[0, 0].tolist() == [0.0, 0.0, 128.0, 64.0]

    def test_a_box_outside_of_the_image_is_dropped_and_not_reversed(self):
        """Clipping x1 only from below and x2 only from above makes x1 > x2."""
        outside = torch.tensor([[[150.0, 10.0, 170.0, 20.0], [-30.0, -30.0, -10.0, -10.0], [1.0, 1.0, 5.0, 5.0]]])
        clipped = clip_boxes(outside, torch.tensor([[64, 128]]))
        assert (clipped[..., 2:] >= clipped[..., :2]).all()
        boxes, _, _, counts = select_detections(clipped, torch.ones(1, 3), torch.zeros(1, 3).long(), 0.5, 9)
        assert counts.tolist() == [1]
        assert boxes[0, 0].tolist() == [1.0, 1.0, 5.0, 5.0]

    @pytest.mark.parametrize("bound", [64.0, 128.0])
    def test_an_object_at_the_bound_between_two_levels_belongs_to_exactly_one(self, bound):
        """Ranges open at both ends lose it, ranges closed at both ends learn it twice."""
        box = [[0.0, 0.0, bound + 4, 20.0]]  # from (4, 10) the right side is `bound` away
        holders = [owners([[4.0, 10.0]], box, low=low, high=high) for low, high in level_ranges((64, 128))]
        assert holders.count([0]) == 1
        assert holders[1 if bound == 64 else 2] == [0]  # the coarser level


class TestTieBreak:
    @pytest.mark.parametrize("difference", [8.0, 4.0, 1.0, 0.25])
    @pytest.mark.parametrize("smaller_first", [True, False])
    def test_the_smaller_of_two_nearly_equal_boxes_wins(self, difference, smaller_first):
        """1e8 - area in float32 (the references' tie-break) cannot tell areas within 8 square pixels apart."""
        small, large = [0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 100.0, 100.0 + difference / 100]
        boxes = [small, large] if smaller_first else [large, small]
        assert owners([[50.0, 50.0]], boxes) == [0 if smaller_first else 1]

    def test_areas_that_float32_cannot_tell_apart_are_told_apart(self):
        """100,000,000 and 100,000,001.7 square pixels are one number in float32."""
        small, large = [0.0, 0.0, 10_000.0, 10_000.0], [0.0, 0.0, 12_500.0009765625, 7_999.99951171875]
        sides = torch.tensor([small, large])[:, 2:]
        assert sides.prod(1).unique().numel() == 1
        assert sides.double().prod(1).argmin() == 0
        assert owners([[50.0, 50.0]], [large, small]) == [1]
        assert owners([[50.0, 50.0]], [small, large]) == [0]

    def test_the_smaller_of_two_enormous_boxes_wins(self):
        """With 1e8 - area, an area of 1e8 or more looks like no match at all."""
        small, large = [0.0, 0.0, 20_000.0, 20_000.0], [0.0, 0.0, 20_000.0, 20_000.004]
        assert owners([[9.0, 9.0]], [large, small]) == [1]
        assert owners([[9.0, 9.0]], [large]) == [0]
        assert owners([[9.0, 9.0]], [[0.0, 0.0, 10_000.0, 10_000.0]]) == [0]  # exactly 1e8

    @pytest.mark.parametrize("bounds", [(64, 128), (64, 128, 256, 512)])
    def test_first_and_last_level_are_open_whatever_they_are_called(self, bounds):
        """The course hard-codes "p3" and "p5" as first and last."""
        ranges = level_ranges(bounds)
        for size in (1.0, 5000.0):
            box = [[0.0, 0.0, size, size]]
            assert sum(owners([[size / 2, size / 2]], box, low=low, high=high) == [0] for low, high in ranges) == 1
        with pytest.raises(ValueError, match="expected 2 for 3 levels"):
            config_of("fcos", {**TINY, "assignment.level_bounds": (64, 128, 256)})


class TestAbsentBoxes:
    @pytest.mark.parametrize("radius", [None, 1.5])
    def test_no_boxes_mean_background_everywhere(self, radius):
        """The maximum over no boxes raises IndexError; the FCOS authors ask whether center_x.sum() == 0."""
        assert owners([[4.0, 4.0], [12.0, 4.0]], [], radius=radius) == [-1, -1]

    def test_an_image_without_boxes_has_a_loss(self, model, outputs):
        """The same law, in the model."""
        losses = model.loss(outputs, Targets.of([GroundTruth.empty()]))
        assert losses["classification"] > 0
        assert losses["box"] == losses["centerness"] == 0

    @pytest.mark.parametrize("filler", [[-1.0] * 4, [0.0] * 4, [0.0, 0.0, 9.0, 9.0], [float("nan")] * 4])
    def test_padding_rows_own_nothing_whatever_they_hold(self, filler):
        """A padding row has the smallest area of all."""
        boxes = torch.tensor([[[0.0, 0.0, 60.0, 60.0], filler]])
        valid = torch.tensor([[True, False]])
        grid = torch.tensor([[4.0, 4.0], [30.0, 30.0]])
        result = assign_locations(
            grid, torch.full((2,), 8.0), torch.tensor([[0.0, 999.0]] * 2), boxes, valid, torch.zeros_like(valid)
        )
        assert result.owner.tolist() == [[0, 0]]
        assert not result.ignored.any()

    @pytest.mark.parametrize("box", [[-10.0, -10.0, 8.0, 8.0], [-1.0, 0.0, 9.0, 9.0], [-9.0, -9.0, 7.0, 7.0]])
    def test_background_is_never_recognised_by_coordinates(self, model, outputs, box):
        """The course takes boxes whose coordinates add up to -4, or with x1 = -1, for background."""
        assert owners([[4.0, 4.0]], [box]) == [0]
        losses = model.loss(outputs, Targets.of([GroundTruth.of([box], [1])]))
        assert losses["centerness"] > 0

    def test_predictions_are_never_dropped_by_the_sum_of_their_distances(self, model, outputs):
        """The course drops predictions whose four raw outputs add up to -4."""
        sure = predicting(outputs, (60.0, 28.0), (-8.0, 1.0, 2.0, 1.0))
        found = model.detect_padded(sure, DetectSettings())
        assert found.boxes[0, 0].tolist() == [60.0, 20.0, 76.0, 36.0]


class TestCenterness:
    @pytest.mark.parametrize(
        "distances",
        [[-1.0, 2.0, 3.0, 4.0], [-1.0, -1.0, -1.0, -1.0], [-2.0, 1.0, -2.0, 1.0], [0.0, 0.0, 0.0, 0.0]],
    )
    def test_is_never_nan_and_of_background_never_one(self, distances):
        """The formula takes the root of a negative number, or 0/0, and (-1, -1, -1, -1) gives exactly 1."""
        value = torch.tensor([distances], requires_grad=True)
        result = centerness(value)
        assert result.item() == (0 if min(distances) == 0 else -1)
        result.sum().backward()
        assert min(distances) == 0 or not value.grad.any()

    def test_its_loss_has_a_finite_gradient_in_an_image_of_mostly_background(self, model, outputs):
        """The same law, in the model: what background holds must not reach the gradient."""
        logits = outputs.centerness_logits.clone().requires_grad_(True)
        targets = Targets.of([GroundTruth.of([[4.0, 4.0, 20.0, 20.0]], [0])])
        model.loss(outputs._replace(centerness_logits=logits), targets)["centerness"].backward()
        assert torch.isfinite(logits.grad).all()
        assert 0 < (logits.grad != 0).sum() < 20

    def test_a_positive_whose_centerness_is_zero_still_counts(self):
        """`loss[centerness <= 0] = 0` drops it together with the background."""
        target, keep = torch.zeros(2), torch.tensor([True, False])
        torch.testing.assert_close(centerness_loss(torch.zeros(2), target, keep), torch.tensor(2.0).log())


class TestNms:
    def test_three_boxes_apart_are_all_kept(self):
        """With max in the place of min, every pair overlaps."""
        boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 40.0, 50.0, 50.0]])
        assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1, 2]

    def test_of_two_hundred_random_boxes_keeps_those_that_torchvision_keeps(self):
        """With max in the place of min, 5 are kept where torchvision keeps 137."""
        generator = torch.Generator().manual_seed(0)
        corner = torch.rand(200, 2, generator=generator) * 200
        boxes = torch.cat([corner, corner + 5 + torch.rand(200, 2, generator=generator) * 40], 1)
        scores = torch.rand(200, generator=generator)
        keep = nms(boxes, scores, 0.5)
        assert torch.equal(keep, kernel(boxes, scores, 0.5))
        assert len(keep) > 100

    @pytest.mark.parametrize("select", [nms, lambda b, s, t: nms_per_class(b, s, torch.zeros(len(b)).long(), t)])
    def test_of_nothing_gives_whole_number_indices(self, select):
        """torch.tensor([]) is float32 and no index."""
        keep = select(torch.zeros(0, 4), torch.zeros(0), 0.5)
        assert keep.dtype == torch.int64
        assert torch.zeros(0, 4)[keep].shape == (0, 4)

    @pytest.mark.parametrize("select", [nms, lambda b, s, t: nms_per_class(b, s, torch.zeros(len(b)).long(), t)])
    def test_an_overlap_of_exactly_the_threshold_is_kept(self, select):
        """`iou < threshold` drops it, torchvision does not."""
        boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]])  # overlap 1/2
        assert select(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
        assert select(boxes, torch.tensor([0.9, 0.8]), 0.499).tolist() == [0]

    def test_boxes_without_area_suppress_nothing(self):
        """0/0 is NaN, and `NaN < threshold` is False."""
        flat = torch.tensor([[5.0, 5.0, 5.0, 5.0]] * 2 + [[0.0, 0.0, 10.0, 10.0]])
        assert nms(flat, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1, 2]

    def test_a_class_never_suppresses_another_where_coordinates_are_negative(self):
        """torchvision's batched_nms shifts each class by the largest coordinate, which is not enough for these."""
        boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [-101.0, -101.0, -1.0, -1.0]])
        scores, labels = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
        assert len(batched_nms(boxes, scores, labels, 0.5)) == 1  # the trap
        assert nms_per_class(boxes, scores, labels, 0.5).tolist() == [0, 1]


class TestDetections:
    def test_a_batch_gives_what_each_image_gives(self, model):
        """The course reads only image [0] of a batch."""
        images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(k)) for k in range(3)]
        settings = DetectSettings(score_threshold=0.0, max_detections=20)
        with torch.no_grad():
            together = model.detect_padded(model(ImageBatch.of(images)), settings)
            for index, image in enumerate(images):
                alone = model.detect_padded(model(ImageBatch.of([image])), settings)
                torch.testing.assert_close(alone.boxes[0], together.boxes[index], rtol=1e-4, atol=1e-3)
                assert torch.equal(alone.labels[0], together.labels[index])

    def test_one_location_may_report_several_classes(self, outputs):
        """One label a location lowers AP; the course variant keeps it on purpose."""
        sure = predicting(outputs, (60.0, 28.0), (1.0, 1.0, 1.0, 1.0))
        place = int(sure.class_logits[0, :, 0].argmax())
        sure.class_logits[0, place, 2] = 10.0
        for several, labels in ((True, [0, 2]), (False, [0])):
            found = build({"compat.multi_label": several}).detect_padded(sure, DetectSettings())
            assert found.labels[0, : found.counts[0]].tolist() == labels

    def test_ranked_by_class_first_the_score_is_the_product_and_the_least_class_counts(self, outputs):
        """MMDetection: a location of much class and little centerness is a candidate before one of a better product."""
        for logit, central, class_first in ((3.0, -3.0, True), (1.0, 3.0, False)):
            place = int((outputs.class_logits[0, :, 0] != logit).nonzero()[0 if class_first else 20])
            outputs.class_logits[0, place, 1], outputs.centerness_logits[0, place] = logit, central
        only = DetectSettings(score_threshold=0.0, candidates_per_level=1)
        settings = {"compat.scoring": "class_first", "compat.class_threshold": 0.05}
        found = build(settings).detect_padded(outputs, only)
        product = torch.tensor(3.0).sigmoid() * torch.tensor(-3.0).sigmoid()
        torch.testing.assert_close(found.scores[0, :1], product[None])
        joint = build().detect_padded(outputs, only)
        torch.testing.assert_close(
            joint.scores[0, 0], (torch.tensor(1.0).sigmoid() * torch.tensor(3.0).sigmoid()).sqrt()
        )  # fmt: skip
        above = DetectSettings(score_threshold=float(product) + 1e-4, candidates_per_level=1)
        assert build(settings).detect_padded(outputs, above).counts.tolist() == [0]

    def test_candidates_of_a_level_and_detections_of_an_image_are_limited(self, model, outputs):
        """Without top-k and without a limit, an image may have any number of boxes."""
        settings = DetectSettings(score_threshold=0.0, nms_iou=1.0, candidates_per_level=7, max_detections=1000)
        counts = model.detect_padded(outputs, settings).counts
        assert counts.tolist() == [7 + 7 + 7]  # on each of three levels; P5 has 8 cells
        few = DetectSettings(score_threshold=0.0, nms_iou=1.0, max_detections=5)
        assert model.detect_padded(outputs, few).counts.tolist() == [5]

    def test_ties_at_the_limit_do_not_pass_it(self, model, outputs):
        """kthvalue with >= (the FCOS authors, AdelaiDet) may report more than 100."""
        equal = predicting(outputs, (4.0, 4.0), (0.4, 0.4, 0.4, 0.4), rows=range(1, 128))
        found = model.detect_padded(equal, DetectSettings(max_detections=100))
        assert found.counts.tolist() == [100]
        assert found.scores.unique().numel() == 1

    def test_evaluation_counts_detections_of_low_scores(self):
        """A threshold of 0.4 cuts the precision-recall curve off."""
        assert DetectSettings().score_threshold <= 0.05
        for name in recipe_names():
            assert load_recipe(name).detect.score_threshold <= 0.05, name

    def test_thresholds_cannot_be_overridden_by_none(self):
        """In the course `forward(test_score_thresh=None)` overrides the defaults of inference by None."""
        assert all(isinstance(getattr(DetectSettings(), name), float) for name in ("score_threshold", "nms_iou"))
        for method in (FCOS.detect, FCOS.detect_padded):
            assert inspect.signature(method).parameters["settings"].default is inspect.Parameter.empty
        with pytest.raises(ValueError, match="score_threshold"):
            load_recipe("fcos-small", ["detect.score_threshold=null"])

    def test_distances_are_left_top_right_bottom(self):
        """A text of the course calls them centre and size."""
        boxes = decode_ltrb(torch.tensor([[100.0, 50.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 8.0)
        assert boxes.tolist() == [[92.0, 34.0, 124.0, 82.0]]
