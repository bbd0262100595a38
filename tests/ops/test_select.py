"""Our NMS and candidate selection against torchvision's kernel and a plain reading."""

import pytest
import torch
from torchvision.ops import batched_nms
from torchvision.ops import nms as kernel

from boxwright.ops import select
from boxwright.ops.select import nms, select_detections, suppress, top_candidates
from boxwright.ops.suppress_pairs import largest_below, suppress_by_pairs


def nms_per_class(boxes, scores, labels, iou_threshold):
    """Rows kept by `suppress` in one image, best first."""
    order = scores.argsort(descending=True, stable=True)
    return order[suppress(boxes[order][None], labels[order][None], iou_threshold, len(order))[0]]


def random_set(seed):
    """Boxes and scores (N, ...) with what breaks implementations: ties, repeats, flat boxes, touching boxes."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, 120, (), generator=generator))
    grid = seed % 3 == 0  # whole numbers: many overlaps are exactly equal to a threshold
    corner = torch.rand(count, 2, generator=generator) * 60 - 10
    side = torch.rand(count, 2, generator=generator) * 40
    if grid:
        corner, side = corner.div(6).round() * 6, side.div(6).round() * 6  # also sides of zero
    boxes = torch.cat([corner, corner + side], 1)
    scores = torch.rand(count, generator=generator)
    if seed % 2 == 0:
        scores = scores.mul(8).round() / 8  # ties
    if count > 4:
        boxes[count // 2] = boxes[0]  # a repeat
        boxes[count // 3, 2:] = boxes[count // 3, :2]  # no area
    return boxes, scores


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6])
def test_nms_equals_torchvision_on_hundreds_of_random_sets(threshold):
    for seed in range(200):
        boxes, scores = random_set(seed)
        assert torch.equal(nms(boxes, scores, threshold), kernel(boxes, scores, threshold)), f"seed {seed}"


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_nms_equals_torchvision_at_the_ends_of_the_range(threshold):
    for seed in range(40):
        boxes, scores = random_set(seed)
        assert torch.equal(nms(boxes, scores, threshold), kernel(boxes, scores, threshold)), f"seed {seed}"


def test_nms_of_nothing_is_an_index_of_nothing():
    keep = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert keep.dtype == torch.int64
    assert keep.shape == (0,)


def test_nms_keeps_its_own_result():
    boxes, scores = random_set(17)
    keep = nms(boxes, scores, 0.5)
    assert torch.equal(nms(boxes[keep], scores[keep], 0.5), torch.arange(len(keep)))


@pytest.mark.parametrize("seed", range(40))
def test_nms_per_class_equals_nms_class_by_class(seed):
    boxes, scores = random_set(seed)
    labels = torch.randint(0, 4, (len(boxes),), generator=torch.Generator().manual_seed(seed))
    kept = set()
    for label in range(4):
        rows = (labels == label).nonzero()[:, 0]
        kept |= set(rows[nms(boxes[rows], scores[rows], 0.5)].tolist())
    result = nms_per_class(boxes, scores, labels, 0.5)
    assert set(result.tolist()) == kept
    assert len(result) == len(kept)
    assert (scores[result].diff() <= 0).all()


def test_nms_per_class_equals_torchvision_where_coordinates_are_not_negative():
    for seed in range(1, 60, 2):  # odd seeds: no tied scores, whose order torchvision does not promise
        boxes, scores = random_set(seed)
        boxes = boxes + 20
        labels = torch.randint(0, 4, (len(boxes),), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(nms_per_class(boxes, scores, labels, 0.5), batched_nms(boxes, scores, labels, 0.5))


def test_nms_per_class_keeps_equal_scores_in_their_order():
    boxes = torch.tensor([[0.0, 0, 5, 5], [10, 0, 15, 5], [20, 0, 25, 5], [30, 0, 35, 5]])
    keep = nms_per_class(boxes, torch.full((4,), 0.5), torch.tensor([3, 0, 2, 0]), 0.5)
    assert keep.tolist() == [0, 1, 2, 3]


class TestTopCandidates:
    def test_gives_the_best_above_the_threshold_in_order(self):
        values, indices = top_candidates(torch.tensor([[0.1, 0.9, 0.4, 0.8]]), 3, 0.3)
        torch.testing.assert_close(values, torch.tensor([[0.9, 0.8, 0.4]]))
        assert indices.tolist() == [[1, 3, 2]]

    def test_marks_what_is_not_above_the_threshold(self):
        values, indices = top_candidates(torch.tensor([[0.5, 0.25, 0.75], [0.0, 0.0, 0.0]]), 3, 0.5)
        assert values.tolist() == [[0.75, 0.0, 0.0], [0.0, 0.0, 0.0]]
        assert indices.tolist() == [[2, -1, -1], [-1, -1, -1]]

    @pytest.mark.parametrize(("available", "wanted"), [(0, 5), (3, 5), (9, 5)])
    def test_shape_depends_on_shapes_only(self, available, wanted):
        values, indices = top_candidates(torch.rand(2, available), wanted, 0.9)
        assert values.shape == indices.shape == (2, min(available, wanted))


class TestBatchedSuppression:
    @pytest.fixture(params=[0.3, 0.5, 0.6, 0.0, 1.0])
    def threshold(self, request):
        return request.param

    @staticmethod
    def batch(seeds):
        """Random sets as one batch: boxes (B, N, 4) best first, labels (B, N) with -1 behind the last one."""
        sets = [random_set(seed) for seed in seeds]
        count = max(len(boxes) for boxes, _ in sets)
        boxes, labels = torch.zeros(len(sets), count, 4), torch.full((len(sets), count), -1)
        for row, (own, scores) in enumerate(sets):
            boxes[row, : len(own)] = own[scores.argsort(descending=True, stable=True)]
            labels[row, : len(own)] = torch.arange(len(own)) % 3
        return boxes, labels

    def test_all_pairs_at_once_keep_what_the_kernel_keeps(self, threshold):
        for start in range(0, 120, 6):
            boxes, labels = self.batch(range(start, start + 6))
            by_pairs = suppress_by_pairs(boxes, labels, threshold, 999)
            assert torch.equal(by_pairs, suppress(boxes, labels, threshold, 999)), start

    def test_rows_without_a_label_neither_stay_nor_suppress(self):
        boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 8], [0, 0, 9, 9]]])
        for way in (suppress, suppress_by_pairs):
            assert way(boxes, torch.tensor([[0, 0, -1]]), 0.5, 9).tolist() == [[True, False, False]]
            assert way(boxes, torch.tensor([[0, 1, -1]]), 0.5, 9).tolist() == [[True, True, False]]
            assert way(boxes[:, :0], torch.zeros(1, 0).long(), 0.5, 9).shape == (1, 0)
        assert suppress(boxes, torch.tensor([[-1, 0, -1]]), 0.5, 9).tolist() == [[False, True, False]]

    def test_none_wanted_and_none_given(self):
        boxes, labels = self.batch(range(3))
        assert select.select_detections(boxes, labels.float(), labels, 0.5, 0)[3].tolist() == [0, 0, 0]
        assert suppress(boxes[:, :0], labels[:, :0], 0.5, 0).shape == (3, 0)

    @pytest.mark.parametrize("at_once", [1, 4])
    def test_the_best_so_many_are_those_of_all(self, threshold, at_once, monkeypatch):
        """Whether the first rows hold enough (a), or more of them must be seen (b)."""
        monkeypatch.setattr(select, "ROWS_AT_ONCE", at_once)
        boxes, labels = self.batch(range(12))
        everything = suppress(boxes, labels, threshold, boxes.shape[1])
        seen = []
        kept = select._kept
        monkeypatch.setattr(select, "_kept", lambda *given: seen.append(len(given[0])) or kept(*given))
        for limit in (1, 2, 5, 20):
            found = suppress(boxes, labels, threshold, limit)
            best = everything & (everything.cumsum(1) <= limit)
            assert torch.equal(found & (found.cumsum(1) <= limit), best)
        assert min(seen) < int((labels >= 0).sum(1).amax())  # (a)
        if at_once == 1 and threshold == 0:
            assert len(seen) > 4 * len(boxes)  # (b): more calls than images and limits

    def test_a_crowd_before_the_others_hides_none_of_them(self):
        """Forty boxes on one spot come first: four times the two that are wanted do not hold two."""
        boxes = torch.tensor([0.0, 0, 9, 9]).repeat(1, 42, 1)
        boxes[0, 40:] += torch.tensor([[20.0], [40.0]])
        labels = torch.zeros(1, 42, dtype=torch.int64)
        scores = torch.linspace(1, 0.1, 42)[None]
        found, values, names, counts = select.select_detections(boxes, scores, labels, 0.5, 2)
        assert found[0, :, 0].tolist() == [0, 20]
        assert values[0].tolist() == [scores[0, 0], scores[0, 40]]
        assert (names.tolist(), counts.tolist()) == ([[0, 0]], [2])

    def test_the_operator_keeps_what_torch_asks_of_one(self):
        boxes, labels = self.batch(range(3))
        torch.library.opcheck(suppress, (boxes, labels, 0.5, 10))


def test_a_float32_overlap_is_above_the_same_threshold_in_both_precisions():
    for threshold in (0.1, 0.3, 0.45, 0.5, 0.6, 0.7, 1.0, 0.0):
        near = torch.tensor(threshold)
        for value in (near.nextafter(torch.tensor(-1.0)), near, near.nextafter(torch.tensor(2.0))):
            assert (float(value) > threshold) == (float(value) > largest_below(threshold))


def test_detections_of_a_batch_are_those_of_its_images():
    """At fixed ranks: best first, then rows 0, 0, -1; the order of equal scores is that of arrival."""
    for start in range(0, 60, 3):
        sets = [random_set(seed) for seed in range(start, start + 3)]
        count = max(1, *(len(boxes) for boxes, _ in sets))
        boxes, scores = torch.zeros(3, count, 4), torch.zeros(3, count)
        labels = torch.full((3, count), -1)
        for row, (own, own_scores) in enumerate(sets):
            boxes[row, : len(own)], scores[row, : len(own)] = own, own_scores
            labels[row, : len(own)] = torch.arange(len(own)) % 2
        found = select_detections(boxes, scores, labels, 0.5, 20)
        for row in range(3):
            good = (labels[row] >= 0) & (boxes[row, :, 2:] > boxes[row, :, :2]).all(1)
            keep = good.nonzero()[:, 0]
            keep = keep[nms_per_class(boxes[row, keep], scores[row, keep], labels[row, keep], 0.5)][:20]
            assert int(found[3][row]) == len(keep)
            assert torch.equal(found[0][row, : len(keep)], boxes[row, keep])
            assert torch.equal(found[1][row, : len(keep)], scores[row, keep])
            assert torch.equal(found[2][row, : len(keep)], labels[row, keep])
            assert not found[0][row, len(keep) :].any()
            assert not found[1][row, len(keep) :].any()
            assert bool((found[2][row, len(keep) :] == -1).all())
