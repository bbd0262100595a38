"""A time budget is kept to within a twentieth, whatever else the machine does: by a clock that the test moves."""

import math
from types import SimpleNamespace

import pytest
import torch

from boxwright.recipes import load_recipe
from boxwright.training import timing
from boxwright.training.budget import keep_time
from boxwright.training.scales import scale_index
from boxwright.training.schedule import Horizon, lr_factor, scaled, validation_due
from boxwright.training.state import Progress, RunSettings

CPU = SimpleNamespace(device=torch.device("cpu"), process_index=0, num_processes=1, gather=lambda value: value)
VALIDATION, REPORT = 4.0, 3.0


def simulated(minutes, speed, *settings, start_up=5.0, gather=None, monkeypatch=None):
    """A run without a network: `speed(seconds)` is how fast the machine is then, at a tenth of a second a step.

    Gives the seconds that it took and each step's (scale, learning rate, seconds since the start).
    """
    scales = "data.train_scales=[0.5,0.625,0.75,1.0]"
    recipe = load_recipe("fcos-shapes", ["data.batch_size=4", "optim.reference_batch=4", scales, *settings])
    accelerator = CPU if gather is None else SimpleNamespace(**{**vars(CPU), "gather": gather})
    plan = scaled(recipe, 1000, 1)
    run = RunSettings(recipe, plan, seed=0, minutes=minutes, started=0.0, image_paths=(), validation_images=150)
    progress = Progress(Horizon(plan.steps, plan.warmup_steps), fixed=False)
    progress.pace.report = REPORT
    now, steps = start_up, []
    scales = recipe.data.train_scales or (1.0,)
    while not progress.over:
        scale = scales[scale_index(recipe.data, 0, progress.step, progress.planned)]
        rate = lr_factor(progress.step, progress.horizon, recipe.schedule)
        lap = 0.1 * scale / speed(now)
        now += lap
        progress.step += 1
        steps.append((scale, rate, now))
        progress.seconds = now
        due = progress.fixed and validation_due(progress.step, progress.horizon, recipe.validation)
        if due:
            now += VALIDATION / speed(now)
            progress.pace.validation, progress.seconds = now - progress.seconds, now
        keep_time(run, progress, accelerator, lap, validated=due)
        assert now < 60 * minutes * 3 + 20, "the run does not end"
    return now + REPORT, steps


MACHINES = {
    "steady": lambda now: 1.0,
    "slow to start": lambda now: 0.05 if now < 8 else 1.0,
    "another process for the first minute": lambda now: 0.5 if now < 60 else 1.0,
    "half as fast from the middle on": lambda now: 1.0 if now < 90 else 0.5,
    "twice as fast from the middle on": lambda now: 1.0 if now < 90 else 2.0,
    "now so, now so": lambda now: 1.0 if int(now / 7) % 2 else 0.4,
    "stands still for ten seconds": lambda now: 0.01 if 100 < now < 101 else 1.0,
}


@pytest.mark.parametrize("order", ["rising", "random"])
@pytest.mark.parametrize("machine", MACHINES)
def test_a_budget_is_kept_whatever_the_machine_does(machine, order):
    seconds, steps = simulated(3.0, MACHINES[machine], f"data.scale_order={order}")
    assert seconds == pytest.approx(180, rel=0.05)
    assert steps[-1][1] < 0.02  # the learning rate has come to its end
    rates = [rate for _, rate, _ in steps]
    assert rates[60:] == sorted(rates[60:], reverse=True)


@pytest.mark.parametrize("minutes", [0.5, 1.0, 10.0, 60.0])
@pytest.mark.parametrize("times", [1, 10])
def test_budgets_of_all_lengths_are_kept(minutes, times):
    seconds, _ = simulated(minutes, MACHINES["another process for the first minute"], f"validation.times={times}")
    allowed = 10 if minutes < 2 else 3 * minutes
    assert abs(seconds - 60 * minutes) <= allowed


def test_validations_every_so_many_steps_are_counted_in():
    seconds, steps = simulated(3.0, MACHINES["steady"], "validation.every=100")
    assert seconds == pytest.approx(180, rel=0.05)
    assert len(steps) == pytest.approx(100 * (180 - 8) / (100 * 0.071875 + 4), rel=0.05)


def test_rising_scales_have_their_parts_of_the_run_however_it_is_planned_anew():
    _, steps = simulated(3.0, MACHINES["another process for the first minute"])
    scales = [scale for scale, _, _ in steps[12:]]
    assert scales == sorted(scales)
    for scale in (0.5, 0.625, 0.75, 1.0):
        assert 0.15 < scales.count(scale) / len(scales) < 0.4


def test_a_steady_machine_gets_the_steps_that_fit():
    """Random scales cost 0.071875 s a step on average; start-up, validation and report take 5 + 4 + 3 seconds."""
    _, steps = simulated(3.0, MACHINES["steady"], "data.scale_order=random")
    assert len(steps) == pytest.approx((180 - 12) / 0.071875, rel=0.03)


def test_the_slowest_of_several_processes_decides():
    alone, together = [], []
    simulated(1.0, MACHINES["steady"], gather=lambda value: alone.append(value.clone()) or value)
    simulated(1.0, MACHINES["steady"], gather=lambda value: together.append(value) or torch.cat([value, value // 2]))
    assert together[0].tolist() == alone[0].tolist()
    assert len(together) < len(alone)  # it ends sooner: the other process has half the steps


def test_a_budget_that_is_used_up_ends_after_the_first_plan():
    _, steps = simulated(0.01, MACHINES["steady"], start_up=2.0)
    assert len(steps) == 13  # three of each of four scales, and one


def test_one_clock_is_read_everywhere(monkeypatch):
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: 7.0))
    assert timing.now() == 7.0
    assert math.isclose(timing.Timer().lap(), 0.0)


def test_there_are_fewer_validations_where_they_would_eat_the_time():
    """Ten of four seconds do not fit into half a minute; what fits is a third of it."""
    seconds, steps = simulated(0.5, MACHINES["steady"], "validation.times=10")
    assert abs(seconds - 30) <= 3
    assert len(steps) * 0.07 > 10
