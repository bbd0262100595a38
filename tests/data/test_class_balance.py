"""Rare classes: factors and weights in closed form, an epoch that repeats their images, and what inspect says."""

from collections import Counter
from pathlib import Path

import pytest

from boxwright.data.checks.balance import balance_problems
from boxwright.data.class_balance import balanced_weights, images_by_class, repeat_factors
from boxwright.data.records import Annotation, Record, Split
from boxwright.data.sampler import StepSampler
from boxwright.structures import Classes


def record(*labels, ignored=()):
    rows = [Annotation((0.0, 0.0, 9.0, 9.0), label, "") for label in labels]
    rows += [Annotation((0.0, 0.0, 9.0, 9.0), label, "", ignore=True) for label in ignored]
    return Record(Path("a.png"), 0, (10, 10), tuple(rows), "")


RECORDS = [record(0, 0, 0)] * 75 + [record(0, 1)] * 20 + [record(2, ignored=[1])] * 4 + [record(ignored=[0])]


class TestFactors:
    def test_a_class_counts_once_an_image_and_ignored_objects_do_not(self):
        assert images_by_class(RECORDS) == {0: 95, 1: 20, 2: 4}

    def test_an_image_is_repeated_as_often_as_its_rarest_class(self):
        factors = repeat_factors(RECORDS, 0.25)
        assert factors[0] == 1.0  # class 0 is in 95 of 100
        assert factors[75] == pytest.approx((0.25 / 0.20) ** 0.5)
        assert factors[95] == pytest.approx((0.25 / 0.04) ** 0.5)
        assert factors[99] == 1.0  # nothing but an ignored region

    def test_nothing_is_repeated_where_no_class_is_rarer_than_the_threshold(self):
        assert repeat_factors(RECORDS, 0.04) == [1.0] * 100
        assert repeat_factors([], 0.5) == []

    def test_a_threshold_that_is_no_part_is_refused(self):
        with pytest.raises(ValueError, match="expected 0 to 1, got 2"):
            repeat_factors(RECORDS, 2)

    def test_balanced_weights_have_the_mean_1_over_objects_and_fall_with_the_root_of_their_number(self):
        records = [record(*[0] * 90), record(*[1] * 10)]
        weights = balanced_weights(records, 3)
        assert 90 * weights[0] + 10 * weights[1] == pytest.approx(100)
        assert weights[1] / weights[0] == pytest.approx(3)
        assert weights[2] == weights[1]
        assert balanced_weights([record()], 2) == (1.0, 1.0)


class TestSampler:
    REPEATS = [1.0] * 20 + [1.25, 2.5, 3.0, 1.5]

    def draws(self, count, **settings):
        given = {"batch": 4, "seed": 7, "start": 0, "stop": count // 4, "repeats": self.REPEATS, **settings}
        sampler = StepSampler([1.0, 1.5] * 12, given.pop("batch"), **given)
        return [key for keys in sampler for key in keys]

    def test_in_the_long_run_each_record_comes_as_often_as_its_factor_says(self):
        epochs = 400
        drawn = Counter(key.record for key in self.draws(round(epochs * sum(self.REPEATS))))
        for index, factor in enumerate(self.REPEATS):
            assert drawn[index] / epochs == pytest.approx(factor, rel=0.06)

    def test_within_an_epoch_a_record_comes_as_often_as_its_factor_rounded_up_or_down(self):
        sampler = StepSampler([1.0] * 24, 4, seed=1, start=0, stop=1, repeats=self.REPEATS)
        seen = set()
        for epoch in range(8):
            drawn = Counter(sampler._order(epoch))
            assert all(int(factor) <= drawn[n] <= -int(-factor // 1) for n, factor in enumerate(self.REPEATS))
            seen.add((drawn[20], drawn[21], drawn[23]))
        assert len(seen) > 2  # rounded anew

    def test_a_resumed_run_draws_what_an_uninterrupted_one_does(self):
        whole = self.draws(400)
        for start in (1, 17, 60):
            assert self.draws(400, start=start) == whole[4 * start :]

    def test_processes_share_a_step_without_overlap(self):
        ranks = [self.draws(400, batch=2, rank=rank, world=2, stop=100) for rank in (0, 1)]
        alone = self.draws(400)
        for step in range(100):
            both = ranks[0][2 * step : 2 * step + 2] + ranks[1][2 * step : 2 * step + 2]
            assert both == alone[4 * step : 4 * step + 4]

    def test_factors_of_1_are_the_sampler_without_any_but_for_the_order(self):
        drawn = self.draws(240, repeats=[1.0] * 24)
        for start in range(0, 240, 24):
            assert sorted(key.record for key in drawn[start : start + 24]) == list(range(24))


class TestInspect:
    def test_rare_images_and_rare_objects_are_told_with_the_setting_that_helps(self):
        split = Split("train", tuple(RECORDS), Classes.named(["usual", "some", "rare"]))
        images, objects = balance_problems(split, Path("data"))
        assert "rare is in 4 of 100 images, the median class some in 20" in images.message
        assert "data.repeat_threshold=0.2 draws images of rarer classes up to 2.2 times" in images.message
        assert "rare has 4 objects, usual 245; class_weights=balanced" in objects.message
        assert {images.severity, objects.severity} == {"note"}

    @pytest.mark.parametrize("rows", [[], [record(0)] * 9, [record(0, 1)] * 9, [record(0)] * 30 + [record(1)] * 10])
    def test_classes_that_are_as_common_are_not_mentioned(self, rows):
        assert not list(balance_problems(Split("train", tuple(rows), Classes.named(["a", "b"])), Path("data")))
