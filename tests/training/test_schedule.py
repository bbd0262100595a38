"""How far along a run is: evenly where its length stays, and without a jump where it is planned anew."""

import math
from itertools import pairwise

import pytest

from boxwright.recipes.schema import Schedule, Validation
from boxwright.training.schedule import Horizon, lr_factor, rising, validation_due

COSINE = Schedule(steps=100, kind="cosine", final_factor=0.0)
MULTISTEP = Schedule(steps=100, kind="multistep", milestones=(0.5, 0.75), gamma=0.1)


def planned(*changes, steps=100, warmup=10):
    """A run that is planned anew: (after this step, so many steps in all)."""
    horizon = Horizon(steps, warmup)
    for step, total in changes:
        horizon = horizon.replanned(step, total, warmup)
    return horizon


class TestHorizon:
    def test_steps_divide_a_run_evenly(self):
        assert [Horizon(8).fraction(step) for step in range(9)] == [step / 8 for step in range(9)]

    @pytest.mark.parametrize("changes", [[(20, 40)], [(20, 400)], [(20, 60), (40, 300), (299, 301)], [(5, 50)]])
    def test_a_new_plan_moves_what_is_to_come_and_not_what_was(self, changes):
        before = planned(*changes[:-1])
        step, total = changes[-1]
        after = planned(*changes)
        assert after.fraction(step) == before.fraction(step)
        assert after.fraction(total) == 1.0
        assert after.decay(total) == 1.0
        assert after.decay(max(step, 10)) == before.decay(max(step, 10)) or step < 10
        rest = [after.fraction(one) for one in range(step, total + 1)]
        assert rest == sorted(rest)
        gaps = [b - a for a, b in pairwise(rest)]
        assert max(gaps) == pytest.approx(min(gaps))

    @pytest.mark.parametrize("horizon", [planned(), planned((20, 40)), planned((20, 400), (390, 392))])
    def test_a_position_is_the_inverse_of_a_fraction(self, horizon):
        for part in (0.6, 0.97, 1.0):
            position = horizon.position(part)
            if position > horizon.start:
                below = horizon.fraction(math.floor(position))
                assert below - 1e-12 <= part <= horizon.fraction(math.ceil(position)) + 1e-12
        assert horizon.position(0.0) <= horizon.start

    def test_warm_up_that_is_not_over_follows_the_plan(self):
        assert planned((4, 12), warmup=3).warmup == 3  # over
        assert Horizon(100, 10).replanned(4, 12, 3).warmup == 4  # ends now
        assert Horizon(100, 10).replanned(4, 500, 50).warmup == 50


class TestRate:
    @pytest.mark.parametrize("schedule", [COSINE, MULTISTEP])
    @pytest.mark.parametrize("changes", [[(30, 50)], [(30, 300)], [(30, 300), (200, 210)]])
    def test_never_rises_after_warm_up_and_ends_at_its_end(self, schedule, changes):
        horizon, rates, changes = Horizon(100, 10), [], dict(changes)
        step = 0
        while step < horizon.steps:
            rates.append(lr_factor(step, horizon, schedule))
            step += 1
            if step in changes:
                horizon = horizon.replanned(step, changes[step], 10)
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[-1] < 0.02
        assert len(rates) == list(changes.values())[-1]

    def test_does_not_jump_where_a_run_is_planned_anew(self):
        before = Horizon(100, 10)
        after = before.replanned(30, 900, 10)
        assert lr_factor(30, after, COSINE) == pytest.approx(lr_factor(30, before, COSINE))


def test_validations_are_as_many_as_asked_however_often_a_run_is_planned_anew():
    horizon, validation, at, step = Horizon(100), Validation(times=5), [], 0
    changes = {12: 60, 30: 240, 100: 130, 120: 121}
    while step < horizon.steps:
        step += 1
        if validation_due(step, horizon, validation):
            at.append(step)
        if step in changes:
            horizon = horizon.replanned(step, changes[step], 0)
    assert len(at) == 5
    assert at[-1] == step == 121


@pytest.mark.parametrize("steps", [7, 9, 100, 2126])
def test_rising_parts_are_those_of_whole_numbers(steps):
    """With integers: step * count // steps."""
    for count in (1, 3, 4):
        assert [rising(step, Horizon(steps), count) for step in range(steps)] == [
            step * count // steps for step in range(steps)
        ]
