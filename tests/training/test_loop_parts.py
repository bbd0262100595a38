"""The loop and its parts, each by itself: scales, rates, validations, budgets, and losses that are not finite."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from boxwright.data.loader import Batch
from boxwright.recipes import load_recipe
from boxwright.recipes.schema import Validation
from boxwright.structures import CroppedMask, GroundTruth, ImageBatch, Targets
from boxwright.training import loop, timing
from boxwright.training.loop import Listener
from boxwright.training.pace import first_plan
from boxwright.training.scales import batch_scale, scale_batch
from boxwright.training.schedule import Horizon, scaled, validation_due, validations_left
from boxwright.training.state import Progress, RunSettings, TrainState
from boxwright.training.step import StepLosses
from boxwright.training.validate import ValidationResult

CPU = SimpleNamespace(device=torch.device("cpu"), process_index=0, num_processes=1, gather=lambda value: value)


def settings_of(*overrides, minutes=None):
    """What a run of eight images was asked for."""
    recipe = load_recipe("fcos-small", ["data.batch_size=4", "optim.reference_batch=4", *overrides])
    paths = [Path(f"image{n}.jpg") for n in range(8)]
    return RunSettings(recipe, scaled(recipe, 8, 1), 0, minutes, 0.0, paths, validation_images=0)


def state_at(progress):
    return TrainState(nn.Linear(1, 1), None, None, None, progress)


def result_of(ap, losses=None, floors=None):
    """A validation with this AP."""
    return ValidationResult(
        SimpleNamespace(ap=ap, ap50=0.6, ap75=0.1),
        SimpleNamespace(losses=losses or {}, floors=floors or {}, pixels=None, objects=True),
    )


def batch_of(*indices):
    images = ImageBatch.of([torch.zeros(3, 4, 4)] * len(indices))
    return Batch(images, Targets.of([GroundTruth.empty()] * len(indices)), indices)


class TestScales:
    def batch(self, dtype=torch.uint8):
        pixels = torch.arange(64).expand(3, 48, 64).to(dtype)
        mask = CroppedMask(8, 8, torch.ones(16, 16, dtype=torch.bool))
        ground_truth = GroundTruth.of([[8.0, 8.0, 24.0, 24.0]], [1], masks=[mask])
        images = ImageBatch.of([pixels, pixels[:, :40, :32]], [(96, 128), (80, 64)], [(0.5, 0.5)] * 2, [(2.0, 4.0)] * 2)
        return Batch(images, Targets.of([ground_truth, GroundTruth.empty()]), (0, 1))

    @pytest.mark.parametrize("factor", [0.5, 0.75, 1.5])
    def test_a_batch_is_scaled_with_its_boxes_and_the_way_back(self, factor):
        images, targets, *_ = batch = self.batch()
        small, moved, indices, _ = scale_batch(batch, factor)
        assert indices == batch.indices
        assert small.pixels.shape == (2, 3, max(32, 48 * factor), 64 * factor)
        x, y = factor, small.pixels.shape[2] / 48
        torch.testing.assert_close(moved.boxes, targets.boxes * torch.tensor([x, y, x, y]))
        original = (targets.boxes[0, 0] - images.offset_xy[0].repeat(2)) / images.scale_xy[0].repeat(2)
        back = (moved.boxes[0, 0] - small.offset_xy[0].repeat(2)) / small.scale_xy[0].repeat(2)
        torch.testing.assert_close(back, original)
        assert small.sizes_hw.tolist() == [[round(48 * y), round(64 * x)], [round(40 * y), round(32 * x)]]
        assert torch.equal(small.original_hw, images.original_hw)

    def test_masks_are_scaled_with_their_boxes(self):
        moved = scale_batch(self.batch(), 1.5).targets
        torch.testing.assert_close(moved.masks.frame[0, 0], moved.boxes[0, 0])
        assert moved.image(0).masks[0].bitmap.shape == (24, 24)

    def test_scaling_makes_no_constant_on_the_host(self):
        """It would have to be copied, and a GPU waits for that."""
        batch, made = self.batch(), []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, kinds, arguments=(), settings=None):
                if function.__name__.startswith(("lift_fresh", "_local_scalar_dense")):
                    made.append(function.__name__)
                return function(*arguments, **(settings or {}))

        with Watch():
            scale_batch(batch, 0.5)
        assert made == []

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_pixels_keep_their_type_and_range(self, dtype):
        images = self.batch(dtype).images
        small = scale_batch(self.batch(dtype), 0.5).images
        assert small.pixels.dtype == dtype
        assert small.pixels.amax() <= images.pixels.amax() + 1

    def test_without_scales_nothing_changes(self):
        assert batch_scale(settings_of().recipe.data, 0, 5, Horizon(10)) == 1.0

    def test_a_random_scale_depends_on_seed_and_step_only(self):
        data = settings_of("data.train_scales=[0.5,0.75,1.0]").recipe.data
        drawn = [batch_scale(data, 3, step, Horizon(60)) for step in range(60)]
        assert drawn == [batch_scale(data, 3, step, Horizon(99)) for step in range(60)]
        assert drawn != [batch_scale(data, 4, step, Horizon(60)) for step in range(60)]
        assert set(drawn) == {0.5, 0.75, 1.0}

    def test_rising_scales_go_through_in_order(self):
        data = settings_of("data.train_scales=[0.5,0.75,1.0]", "data.scale_order=rising").recipe.data
        drawn = [batch_scale(data, 0, step, Horizon(9)) for step in range(9)]
        assert drawn == [0.5] * 3 + [0.75] * 3 + [1.0] * 3

    def test_while_a_budget_is_measured_every_scale_has_its_turn(self):
        data = settings_of("data.train_scales=[0.5,1.0]", "data.scale_order=rising").recipe.data
        drawn = [batch_scale(data, 0, step, None) for step in range(4)]
        assert drawn == [0.5, 1.0, 0.5, 1.0]


class TestNonFiniteLoss:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_stops_the_run_and_names_the_images(self, value):
        """Instead of "just interrupt and run again"."""
        losses = {"loss": torch.tensor(value), "box": torch.tensor(value), "classification": torch.tensor(1.0)}
        sentence = r"not a number at step 7 \(\{.*'box'.*\}\); images of this step: image2\.jpg, image5\.jpg"
        with pytest.raises(FloatingPointError, match=sentence) as caught:
            loop._check_finite(losses, [batch_of(2), batch_of(5)], settings_of(), 7, CPU.device)
        assert "classification" not in str(caught.value)

    def test_a_finite_one_goes_on(self):
        loop._check_finite({"loss": torch.tensor(3.0)}, [batch_of(1)], settings_of(), 0, CPU.device)


class TestRate:
    def test_follows_the_schedule(self):
        run = settings_of("schedule.steps=100", "schedule.warmup_steps=10", "schedule.warmup_start=0.1", "optim.lr=0.5")
        progress = Progress(Horizon(100, 10), fixed=True)
        assert run.lr(0, progress) == pytest.approx(0.05)
        assert run.lr(10, progress) == pytest.approx(0.5)
        assert run.lr(99, progress) < 0.02

    def test_of_a_budgets_first_steps_does_not_depend_on_its_length(self):
        run = settings_of("schedule.steps=100", "schedule.warmup_steps=5")
        rates = [[run.lr(step, Progress(Horizon(steps), fixed=False)) for step in range(first_plan(1))]
                 for steps in (100, 5000)]  # fmt: skip
        assert rates[0] == rates[1]


class TestValidations:
    @pytest.mark.parametrize(("steps", "times"), [(10, 3), (7, 7), (100, 1), (3, 10), (24, 5)])
    def test_are_as_many_as_asked_and_the_last_is_at_the_end(self, steps, times):
        validation = Validation(times=times)
        at = [step for step in range(1, steps + 1) if validation_due(step, Horizon(steps), validation)]
        assert len(at) == validation.count(steps) == min(times, steps)
        assert [validations_left(step, Horizon(steps), validation) for step in at] == list(range(len(at)))[::-1]
        assert at[-1] == steps

    @pytest.mark.parametrize(("steps", "every", "expected"), [
        (10, 4, [4, 8, 10]), (9, 3, [3, 6, 9]), (3, 10, [3]), (3, 1, [1, 2, 3]),
    ])  # fmt: skip
    def test_come_every_so_many_steps_and_at_the_end(self, steps, every, expected):
        validation = Validation(every=every)
        horizon = Horizon(steps)
        assert [step for step in range(1, steps + 1) if validation_due(step, horizon, validation)] == expected
        assert validation.count(steps) == len(expected)

    def test_the_best_is_kept_and_patience_counts_from_it(self):
        rows, seen = [], []
        run = settings_of("validation.patience=2")
        figures = iter([0.2, 0.5, 0.4, 0.5])
        listener = Listener(on_row=rows.append, on_validated=lambda result, best: seen.append(best))
        progress = Progress(Horizon(99), fixed=True)
        over = []
        for step in (10, 20, 30, 40):
            progress.step = step
            progress.sums, progress.counted = {"loss": 6.0}, 3
            loop._validate(
                state_at(progress), run, lambda model: result_of(next(figures), {"box": 1.0}, {"box": 0.25}), listener
            )
            over.append(progress.steps == step)
        assert seen == [True, True, False, False]  # an equal AP is not better
        assert (progress.best_ap, progress.best_step) == (0.5, 20)
        assert over == [False, False, False, True]
        assert rows[0]["train/loss"] == 2.0
        assert (rows[0]["val/loss"], rows[0]["val/box_floor"]) == (1.0, 0.25)  # nothing is trained on a floor
        assert (progress.sums, progress.counted) == ({}, 0)

    def test_without_patience_nothing_stops(self):
        progress = Progress(Horizon(99), fixed=True, step=9, since_best=99, sums={"loss": 1.0}, counted=1)
        loop._validate(state_at(progress), settings_of(), lambda model: result_of(0.1), Listener())
        assert (progress.steps, progress.since_best) == (99, 0)
        again = replace(progress, sums={"loss": 1.0}, counted=1)
        loop._validate(state_at(again), settings_of(), lambda model: result_of(0.1), Listener())
        assert (again.steps, again.since_best) == (99, 1)

    def test_one_that_fails_is_noted_with_everything_before_it(self):
        saved = []

        def damaged(model):
            raise ValueError("v.png: damaged")

        progress = Progress(Horizon(9), fixed=True, step=4, sums={"loss": 3.0}, counted=2)
        listener = Listener(on_save=lambda: saved.append(replace(progress)))
        with pytest.raises(ValueError, match=r"v\.png"):
            loop._validate(state_at(progress), settings_of(), damaged, listener)
        assert saved == [
            Progress(Horizon(9), fixed=True, step=4, sums={"loss": 3.0}, counted=2, validation_failed=True)
        ]


class TestLoop:
    """`fit` with a step that learns nothing: what is told, when it is saved, and where it ends."""

    def run(self, listener, *overrides, steps=45, stop=None):
        run = settings_of(f"schedule.steps={steps}", "validation.times=2", *overrides)
        state = state_at(Progress.at_start(run.scaled, fixed=True))
        rates = []

        def step(batches, settings):
            assert [batch.indices for batch in batches] == [(state.progress.step % 8,)]
            rates.append(settings.lr)
            return StepLosses(torch.tensor(2.0), {"box": torch.tensor(2.0)}, {"box": torch.tensor(0.5)})

        batches = ([batch_of(number % 8)] for number in range(steps))
        loop.fit(state, run, step, batches, lambda model: result_of(0.3, {"box": 1.0}), CPU, listener)
        assert rates == [run.lr(number, state.progress) for number in range(state.progress.step)]
        return state.progress

    def test_tells_of_rows_and_validations_and_saves_at_start_validations_and_end(self):
        told = []
        listener = Listener(
            on_row=lambda row: told.append(("row", row["step"])),
            on_validated=lambda result, best: told.append(("validated", best)),
            on_save=lambda: told.append("save"),
        )
        progress = self.run(listener)
        validated = [("row", 23), ("validated", True), "save"], [("row", 45), ("validated", False), "save"]
        assert told == ["save", ("row", 20), *validated[0], ("row", 40), *validated[1], "save"]
        assert (progress.step, progress.finished, progress.counted) == (45, True, 0)

    def test_stops_where_it_is_asked_to_and_saves(self):
        asked, saved = iter([False, False, True]), []
        progress = self.run(Listener(stop_wanted=lambda: next(asked), on_save=lambda: saved.append(1)))
        assert (progress.step, progress.finished, len(saved)) == (3, False, 2)
        assert progress.sums == {"loss": 6.0, "box": 6.0, "box_floor": 1.5}

    def test_needs_no_listener(self):
        assert self.run(Listener()).finished


def test_progress_is_saved_as_plain_numbers_and_comes_back():
    progress = Progress(Horizon(9), fixed=True, step=4, sums={"loss": torch.tensor(1.5)}, counted=2)
    saved = progress.as_dict()
    assert saved["sums"] == {"loss": 1.5}
    assert type(saved["sums"]["loss"]) is float
    assert Progress.of(saved) == Progress(Horizon(9), fixed=True, step=4, sums={"loss": 1.5}, counted=2)


def test_progress_of_version_01_comes_back_with_its_length():
    saved = {"steps": 40, "fixed": True, "step": 4, "seconds": 3.0, "waited": 0.5, "best_ap": 0.25, "best_step": 2,
             "since_best": 0, "sums": {}, "counted": 0, "unmeasured": True, "finished": False}  # fmt: skip
    assert Progress.of(saved, 50) == Progress(Horizon(40, 10), True, 4, 3.0, 0.5, 0.25, 2, validation_failed=True)


@pytest.mark.parametrize("saved", [None, {}, {"steps": "many", "fixed": True}, {"horizon": {}, "fixed": True},
                                   {"horizon": {"steps": 3}, "fixed": True, "step": "x"}])  # fmt: skip
def test_progress_that_is_something_else_is_refused(saved):
    with pytest.raises(ValueError, match=r".+"):
        Progress.of(saved)


def test_sums_of_losses_are_counted():
    progress = Progress(Horizon(9), fixed=True)
    for value in (1.0, 2.0):
        progress.add({"loss": torch.tensor(value)})
    assert (progress.sums, progress.counted) == ({"loss": 3.0}, 2)
    assert progress.mean_losses() == {"loss": 1.5}
    assert (progress.sums, progress.counted) == ({}, 0)


def test_the_timer_keeps_the_last_laps_and_can_leave_out_a_pause(monkeypatch):
    clock = iter([0.0, 1.0, 11.0, 11.5, *[11.5 + n for n in range(1, 100)]])
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    timer = timing.Timer()
    timer.lap()
    timer.restart()
    assert timer.lap() == 0.5
    assert timer.laps == [1.0, 0.5]
    for _ in range(80):
        timer.lap()
    assert len(timer.laps) == 64


def test_the_time_spent_waiting_for_images_is_known():
    def slow():
        for number in range(3):
            time.sleep(0.03)
            yield number

    timer = timing.Timer()
    seen = []
    for number in timer.fetched(slow()):
        seen.append(number)
        time.sleep(0.01)
        timer.lap()
    assert seen == [0, 1, 2]
    assert all(wait >= 0.029 and lap - wait >= 0.009 for lap, wait in zip(timer.laps, timer.waits, strict=True))


def test_what_is_added_up_is_the_same_in_every_process():
    """So a checkpoint, which one of them writes, holds the sums of all: rows after a resume are those of no stop."""
    reduced = []

    def reduce(value, how):
        reduced.append(how)
        return value + 1.0  # the other process had two more

    two = SimpleNamespace(**{**vars(CPU), "num_processes": 2, "reduce": reduce})
    means = loop._of_all_processes({"loss": torch.tensor(3.0), "box": torch.tensor(1.0)}, two)
    assert {name: float(value) for name, value in means.items()} == {"loss": 4.0, "box": 2.0}
    assert reduced == ["mean"]
    alone = {"loss": torch.tensor(3.0)}
    assert loop._of_all_processes(alone, CPU) is alone


def test_a_run_with_a_budget_does_not_speak_of_the_recipes_steps():
    recipe = load_recipe("fcos-small")
    assert "3000 steps" in scaled(recipe, 100, 1).sentence
    assert "steps" not in scaled(recipe, 100, 1, minutes=2.0).sentence.replace("reference", "")


def test_weights_are_the_best_by_the_figure_of_what_the_model_learns_most() -> None:
    def ap(value):
        return SimpleNamespace(ap=value, ap50=value)

    def chosen(segm=None, points=None, rotated=None, panoptic=None, pixels=True, objects=True):
        maps = SimpleNamespace(
            panoptic=panoptic and SimpleNamespace(all=SimpleNamespace(pq=panoptic)),
            semantic=SimpleNamespace(mean_iou=0.7),
            summary=lambda: "maps",
        )
        inputs = SimpleNamespace(pixels=maps if pixels else None, objects=objects)
        result = ValidationResult(ap(0.1), inputs, segm and ap(segm), points and ap(points), rotated and ap(rotated))
        return result.best_by, result.ap, result.summary()

    boxes = "AP 0.1000  AP50 0.1000"
    assert chosen(pixels=False) == ("AP", 0.1, boxes)
    assert chosen(segm=0.2, pixels=False) == ("mask AP", 0.2, f"{boxes}  mask AP 0.2000  AP50 0.2000")
    assert chosen(points=0.3, pixels=False)[:2] == ("keypoint AP", 0.3)
    assert chosen(rotated=0.4, pixels=False)[:2] == ("rotated AP", 0.4)
    assert chosen(segm=0.2, panoptic=0.6)[:2] == ("PQ", 0.6)
    assert chosen(segm=0.2)[:2] == ("mask AP", 0.2)  # mIoU alone says nothing of the objects
    assert chosen(objects=False) == ("mIoU", 0.7, "maps")
