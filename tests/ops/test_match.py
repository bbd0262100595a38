import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import box_iou

from boxwright.ops import match
from boxwright.ops.match import centred_outside, match_boxes, sample_balanced
from boxwright.structures import GroundTruth, Targets

RULES = {"positive_iou": 0.5, "negative_iou": 0.4, "low_quality": True}


def boxes(count, seed=0, span=100.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * span
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * span / 2 + 1], 1)


def matched(candidates, ground_truths, **rules):
    targets = Targets.of(ground_truths)
    return match_boxes(candidates, targets.boxes, targets.valid, targets.ignore, **{**RULES, **rules})


def ground_truth(rows, ignore=None):
    return GroundTruth.of(rows, [0] * len(rows), ignore)


class TestParity:
    @pytest.mark.parametrize("low_quality", [True, False])
    @pytest.mark.parametrize(("positive", "negative"), [(0.5, 0.4), (0.7, 0.3), (0.5, 0.5)])
    @pytest.mark.parametrize("count", [1, 7, 40])
    def test_equals_torchvision_image_by_image(self, low_quality, positive, negative, count):
        candidates = boxes(400)
        rows = [candidates[:count] + boxes(count, 8, 6.0) - 3, boxes(count + 3, 9)]  # some on candidates, some not
        rows = [row[(row[:, 2:] > row[:, :2]).all(1)] for row in rows]
        owner, ignored = matched(
            candidates,
            [ground_truth(row.tolist()) for row in rows],
            positive_iou=positive,
            negative_iou=negative,
            low_quality=low_quality,
        )
        for image, row in enumerate(rows):
            overlap = box_iou(row, candidates)
            assert (overlap.amax(1) > 0).all()  # else theirs gives the box every candidate
            expected = Matcher(positive, negative, low_quality)(overlap)
            assert torch.equal(owner[image], expected.clamp(min=-1))
            assert torch.equal(ignored[image], expected == Matcher.BETWEEN_THRESHOLDS)

    def test_ties_of_low_quality_are_all_positive_as_in_torchvision(self):
        candidates = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [100, 100, 110, 110]])
        row = [[2.0, 0, 12, 5]]
        expected = Matcher(0.7, 0.3, True)(box_iou(torch.tensor(row), candidates))
        owner, _ = matched(candidates, [ground_truth(row)], positive_iou=0.7, negative_iou=0.3)
        assert owner[0].tolist() == expected.tolist() == [0, 0, -1]


class TestThresholds:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.5], [0, 0, 10, 3.9], [50, 50, 60, 60]])

    def test_positive_from_its_threshold_on_background_below_the_other(self):
        owner, ignored = matched(self.anchors, [ground_truth([[0.0, 0, 10, 10]])], low_quality=False)
        assert owner[0].tolist() == [0, 0, -1, -1, -1]
        assert ignored[0].tolist() == [False, False, True, False, False]

    def test_a_box_that_no_anchor_fits_still_gets_its_best_one(self):
        """Without low-quality matches such a box is learnt by nothing."""
        small = [[0.0, 0, 10, 1]]
        assert (matched(self.anchors, [ground_truth(small)], low_quality=False).owner == -1).all()
        owner, ignored = matched(self.anchors, [ground_truth(small)])
        assert owner[0].tolist() == [-1, -1, -1, 0, -1]
        assert not ignored.any()

    def test_a_forced_anchor_learns_the_box_that_it_overlaps_most_itself(self):
        anchors = torch.tensor([[0.0, 0, 10, 10], [200, 200, 210, 210]])
        rows = [[0.0, 0, 10, 9], [0.0, 0, 10, 2]]  # the second's best anchor fits the first better
        assert matched(anchors, [ground_truth(rows)]).owner[0].tolist() == [0, -1]

    def test_where_boxes_claim_their_best_anchors_the_last_one_wins(self):
        """MMDetection's rule: the claim overrides what the anchor overlaps most."""
        anchors = torch.tensor([[0.0, 0, 10, 10], [200, 200, 210, 210]])
        rows = [[0.0, 0, 10, 9], [0.0, 0, 10, 2], [0.0, 0, 10, 1], [0.0, 0, 100, 100]]
        assert matched(anchors, [ground_truth(rows)], claimed=True).owner[0].tolist() == [3, -1]
        assert matched(anchors, [ground_truth(rows[:3])], claimed=True).owner[0].tolist() == [2, -1]

    def test_a_best_anchor_below_the_least_overlap_learns_nothing(self):
        anchors = torch.tensor([[0.0, 0, 10, 10]])
        for overlap, owner in ((0.31, 0), (0.29, -1)):
            rows = [[0.0, 0, 10, 10 * overlap]]
            assert matched(anchors, [ground_truth(rows)], low_quality_iou=0.3).owner[0].tolist() == [owner]

    def test_what_is_left_out_matches_nothing_is_ignored_and_takes_no_place_of_others(self):
        anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
        left_out = torch.tensor([[True, False, False]])
        owner, ignored = matched(anchors, [ground_truth([[0.0, 0, 10, 10]])], positive_iou=0.9, left_out=left_out)
        assert owner[0].tolist() == [-1, 0, -1]
        assert ignored[0].tolist() == [True, False, False]

    def test_an_anchor_is_outside_from_the_padded_end_of_its_image_on(self):
        anchors = torch.tensor([[-8.0, -8, 8, 8], [56, 0, 72, 16], [48, 0, 64, 16], [0, 88, 16, 104]])
        found = centred_outside(anchors, torch.tensor([[96, 40], [97, 65]]), 32)
        assert found.tolist() == [[False, True, False, True], [False, False, False, False]]

    def test_a_box_far_from_everything_owns_nothing(self):
        """Where Detectron2 and torchvision would give it every anchor."""
        assert (matched(self.anchors, [ground_truth([[500.0, 500, 510, 510]])]).owner == -1).all()

    def test_equal_overlaps_go_to_the_earlier_box(self):
        rows = [[0.0, 0, 10, 10], [0.0, 0, 10, 10]]
        assert matched(self.anchors[:1], [ground_truth(rows)]).owner.tolist() == [[0]]


class TestIgnoreRegions:
    region = ground_truth([[0.0, 0, 100, 100]], [True])

    def test_what_lies_inside_is_ignored_and_never_positive(self):
        anchors = torch.tensor([[10.0, 10, 30, 30], [90, 0, 110, 20], [95, 0, 115, 20], [200, 200, 220, 220]])
        owner, ignored = matched(anchors, [self.region])
        assert (owner == -1).all()
        assert ignored[0].tolist() == [True, True, False, False]  # half inside is inside

    def test_a_positive_inside_a_region_stays_positive(self):
        both = ground_truth([[0.0, 0, 100, 100], [10, 10, 30, 30]], [True, False])
        owner, ignored = matched(torch.tensor([[10.0, 10, 30, 30]]), [both])
        assert owner.tolist() == [[1]]
        assert not ignored.any()

    def test_a_candidate_without_area_lies_nowhere(self):
        flat = torch.tensor([[5.0, 5, 5, 5], [30, 30, 10, 10]])
        owner, ignored = matched(flat, [self.region])
        assert (owner == -1).all()
        assert not ignored.any()


class TestBatch:
    ground_truths = (
        ground_truth(boxes(3, 1).tolist()),
        GroundTruth.empty(),
        ground_truth(boxes(9, 2).tolist(), [False] * 8 + [True]),
    )

    def test_equals_one_image_at_a_time(self):
        candidates = boxes(200, 3)
        together = matched(candidates, list(self.ground_truths))
        for index, one in enumerate(self.ground_truths):
            alone = matched(candidates, [one])
            assert torch.equal(together.owner[index], alone.owner[0])
            assert torch.equal(together.ignored[index], alone.ignored[0])

    def test_proposals_of_each_image(self):
        proposals = torch.stack([boxes(50, seed) for seed in (4, 5, 6)])
        together = matched(proposals, list(self.ground_truths))
        for index, one in enumerate(self.ground_truths):
            assert torch.equal(together.owner[index], matched(proposals[index], [one]).owner[0])

    @pytest.mark.parametrize("low_quality", [True, False])
    def test_padding_rows_own_nothing_whatever_their_coordinates(self, low_quality):
        targets = Targets.of([self.ground_truths[0], self.ground_truths[2]])
        padded = targets.boxes.clone()
        padded[~targets.valid] = torch.tensor([0.0, 0, 150, 150])
        rules = {**RULES, "low_quality": low_quality}
        expected = match_boxes(boxes(200, 3), targets.boxes, targets.valid, targets.ignore, **rules)
        got = match_boxes(boxes(200, 3), padded, targets.valid, targets.ignore, **rules)
        assert torch.equal(got.owner, expected.owner)
        assert torch.equal(got.ignored, expected.ignored)

    def test_no_boxes_at_all_is_all_background(self):
        owner, ignored = matched(boxes(20), [GroundTruth.empty(), GroundTruth.empty()])
        assert owner.shape == (2, 20)
        assert (owner == -1).all()
        assert not ignored.any()

    def test_no_candidates_give_empty_rows(self):
        assert matched(boxes(0), [self.ground_truths[0]]).owner.shape == (1, 0)

    def test_chunks_give_what_the_whole_gives(self, monkeypatch):
        candidates = boxes(60, 7)
        rows = [ground_truth(boxes(40, 8).tolist(), [index % 5 == 0 for index in range(40)])]
        whole = matched(candidates, rows)
        monkeypatch.setattr(match, "_CHUNK_ELEMENTS", 60 * 7)
        parts = matched(candidates, rows)
        assert torch.equal(whole.owner, parts.owner)
        assert torch.equal(whole.ignored, parts.ignored)


class TestSampling:
    @pytest.mark.parametrize(("positives", "negatives"), [(200, 700), (10, 700), (200, 5), (0, 40), (3, 0), (0, 0)])
    @pytest.mark.parametrize(("count", "fraction"), [(256, 0.5), (64, 0.25), (33, 0.3)])
    def test_counts_equal_torchvision(self, positives, negatives, count, fraction):
        labels = torch.full((1000,), -1)
        labels[:positives], labels[500 : 500 + negatives] = 1, 0
        labels = labels[torch.randperm(1000)]
        drawn = sample_balanced((labels == 1)[None], (labels == 0)[None], count, fraction)
        (expected_positive,), (expected_negative,) = BalancedPositiveNegativeSampler(count, fraction)([labels])
        assert drawn.positive.sum() == expected_positive.sum()
        assert (drawn.real & ~drawn.positive).sum() == expected_negative.sum()
        assert drawn.rows.shape == (1, count)

    def test_draws_what_it_says_each_row_once_positives_first(self):
        positive, negative = torch.rand(3, 300) < 0.2, torch.rand(3, 300) < 0.6
        negative &= ~positive
        rows, is_positive, real = sample_balanced(positive, negative, 50, 0.25)
        for image in range(3):
            own = rows[image][real[image]]
            assert len(own.unique()) == len(own) == 50
            assert torch.equal(positive[image, own], is_positive[image][real[image]])
            assert torch.equal(negative[image, own], ~is_positive[image][real[image]])
        assert (is_positive.int().diff(dim=1) <= 0).all()
        assert (real.int().diff(dim=1) <= 0).all()

    def test_a_short_sample_is_padded_by_rows_that_do_not_count(self):
        """The course returns fewer rows and divides by the full number."""
        positive, negative = torch.zeros(2, 30, dtype=torch.bool), torch.zeros(2, 30, dtype=torch.bool)
        positive[0, 3], negative[0, 4:6] = True, True
        drawn = sample_balanced(positive, negative, 10, 0.5)
        assert drawn.real.sum(1).tolist() == [3, 0]
        assert drawn.positive.sum(1).tolist() == [1, 0]
        assert sorted(drawn.rows[0, :3].tolist()) == [3, 4, 5]
        assert drawn.rows.max() < 30

    def test_fewer_rows_than_asked_for(self):
        drawn = sample_balanced(torch.tensor([[True, False]]), torch.tensor([[False, True]]), 10, 0.5)
        assert drawn.rows.tolist() == [[0, 1]]
        assert drawn.real.all()

    def test_every_row_has_the_same_chance(self):
        torch.manual_seed(0)
        everything = torch.ones(2000, 10, dtype=torch.bool)
        drawn = sample_balanced(torch.zeros_like(everything), everything, 5, 0.5)
        share = torch.bincount(drawn.rows.flatten(), minlength=10) / 2000
        torch.testing.assert_close(share, torch.full((10,), 0.5), rtol=0, atol=0.06)

    def test_the_same_seed_draws_the_same(self):
        positive = torch.rand(2, 100) < 0.3
        draws = []
        for _ in range(2):
            torch.manual_seed(3)
            draws.append(sample_balanced(positive, ~positive, 20, 0.5).rows)
        assert torch.equal(*draws)


class TestAtTheThresholds:
    """Anchors that overlap a box of 100 x 10 by exactly 0.25, 0.5 and 0.75, which float32 holds exactly."""

    ANCHORS = torch.tensor([[0.0, 0, 25, 10], [0, 0, 50, 10], [0, 0, 75, 10], [0, 0, 60, 10]])

    def of(self, low, high, **rules):
        rules = {"positive_iou": high, "negative_iou": low, "low_quality": False, **rules}
        owner, ignored = matched(self.ANCHORS, [ground_truth([[0, 0, 100, 10]])], **rules)
        return [
            "ignored" if i else "positive" if o >= 0 else "background"
            for o, i in zip(owner[0], ignored[0], strict=True)
        ]

    def test_the_lower_belongs_to_what_is_ignored_unless_it_is_inclusive(self):
        assert self.of(0.25, 0.75)[0] == "ignored"
        assert self.of(0.25, 0.75, low_inclusive=True)[0] == "background"

    def test_the_upper_is_positive_unless_it_is_exclusive(self):
        assert self.of(0.25, 0.75)[2] == "positive"
        assert self.of(0.25, 0.75, high_inclusive=False)[2] == "ignored"

    @pytest.mark.parametrize(
        ("low", "high", "at"),
        [(False, True, "positive"), (True, True, "positive"), (True, False, "background"), (False, False, "ignored")],
    )
    def test_one_threshold_for_both_belongs_to_one_side(self, low, high, at):
        found = self.of(0.5, 0.5, low_inclusive=low, high_inclusive=high)
        assert found == ["background", at, "positive", "positive"]

    def test_the_course_has_background_up_to_the_lower_and_positive_from_the_upper(self):
        """Its rule in its own words: at most the lower is background, above it and below the upper is neutral."""
        candidates, rows = boxes(400), boxes(7, 9)
        iou = box_iou(candidates, rows).amax(1)
        low, high = float(iou.sort().values[200]), float(iou.sort().values[350])  # so that both are met exactly
        owner, ignored = matched(
            candidates, [ground_truth(rows.tolist())],
            positive_iou=high, negative_iou=low, low_quality=False, low_inclusive=True,
        )  # fmt: skip
        assert torch.equal((owner[0] < 0) & ~ignored[0], iou <= low)
        assert torch.equal(ignored[0], (iou > low) & (iou < high))


def test_two_anchors_that_are_one_rotated_box_are_best_together():
    """A box turned by 90 degrees with its sides exchanged is the same one; rounding would favour one of the two."""
    wanted = torch.tensor([[50.0, 47, 70, 33, 21]])
    for angle in (-60.0, -30.0, 0.0):
        twins = torch.tensor([[48.0, 48, 90.5096664, 45.2548332, angle + 90], [48, 48, 45.2548332, 90.5096664, angle]])
        far = torch.tensor([[500.0, 500, 64, 64, 0]])
        found = match_boxes(
            torch.cat([twins, far]), wanted[None], torch.tensor([[True]]), torch.tensor([[False]]),
            positive_iou=0.99, negative_iou=0.3, low_quality=True,
        )  # fmt: skip
        assert found.owner[0].tolist() == [0, 0, -1]
