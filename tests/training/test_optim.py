"""The linear scaling rule, the schedule, and who decays: arithmetic that can be checked by eye."""

import pytest
import torch
from torch import nn

from boxwright.recipes import load_recipe
from boxwright.recipes.schema import Optim, Schedule
from boxwright.training.optim import apply_lr, build_optimizer
from boxwright.training.schedule import Horizon, lr_factor, scaled


def plan(*overrides, images=1000, world=1):
    recipe = load_recipe("fcos-r50-fpn-1x", overrides)  # 16 images, lr 0.01, 90000 steps, 1000 of warm-up
    return scaled(recipe, images, world)


class TestScaling:
    def test_the_reference_batch_changes_nothing(self):
        found = plan()
        assert (found.batch, found.lr, found.steps, found.warmup_steps) == (16, 0.01, 90_000, 1000)
        assert "scaling" not in found.sentence

    def test_four_images_take_a_quarter_of_the_rate_and_four_times_the_steps(self):
        """Goyal et al. 2017: the learning rate grows with the batch."""
        found = plan("data.batch_size=4")
        assert found.lr == pytest.approx(0.0025)
        assert (found.steps, found.warmup_steps) == (360_000, 4000)
        assert "linear scaling rule: 0.25 x the reference batch 16, lr 0.01, 90000 steps)" in found.sentence

    @pytest.mark.parametrize(
        ("overrides", "world"),
        [
            (["data.batch_size=64"], 1),
            (["data.batch_size=16", "optim.accumulate=4"], 1),
            (["data.batch_size=8"], 8),
            (["data.batch_size=4", "optim.accumulate=2"], 8),
        ],
    )
    def test_accumulated_batches_and_processes_count_alike(self, overrides, world):
        found = plan(*overrides, world=world)
        assert found.batch == 64
        assert found.lr == pytest.approx(0.04)
        assert (found.steps, found.warmup_steps) == (22_500, 250)

    def test_epochs_are_counted_not_scaled(self):
        for batch in (4, 16):
            found = plan("schedule.epochs=3", f"data.batch_size={batch}", images=100)
            assert found.steps == -(-300 // batch)

    def test_a_short_run_warms_up_for_a_third_at_most(self):
        assert plan("schedule.steps=30").warmup_steps == 10
        assert plan("schedule.steps=1").steps == 1


class TestSchedule:
    def test_warm_up_is_linear_from_its_start(self):
        schedule = Schedule(steps=100, warmup_start=0.1)
        assert [lr_factor(step, Horizon(100, 10), schedule) for step in (0, 5, 10)] == pytest.approx([0.1, 0.55, 1.0])

    def test_multistep_drops_at_two_thirds_and_eight_ninths(self):
        schedule = Schedule(steps=90_000, kind="multistep")
        factors = [
            lr_factor(step, Horizon(90_000, 1000), schedule) for step in (59_999, 60_000, 79_999, 80_000, 89_999)
        ]
        assert factors == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])

    def test_cosine_falls_from_one_over_the_middle_to_its_end(self):
        schedule = Schedule(steps=100, kind="cosine", final_factor=0.2)
        assert [lr_factor(step, Horizon(110, 10), schedule) for step in (10, 60, 110)] == pytest.approx([1.0, 0.6, 0.2])
        course = [lr_factor(step, Horizon(110, 10), schedule) for step in range(10, 111)]
        assert course == sorted(course, reverse=True)

    def test_steps_past_the_end_keep_the_last_rate(self):
        schedule = Schedule(steps=10, kind="cosine", final_factor=0.5)
        assert lr_factor(50, Horizon(10), schedule) == pytest.approx(0.5)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
        self.backbone[0].requires_grad_(False)
        self.head = nn.Conv2d(4, 2, 1)
        self.scales = nn.Parameter(torch.ones(3))


class TestOptimizer:
    @pytest.mark.parametrize("kind", ["sgd", "adamw"])
    def test_only_weights_of_layers_decay(self, kind):
        network = Network()
        optimizer = build_optimizer(network, Optim(kind=kind, weight_decay=0.3, backbone_lr_factor=0.1))
        found = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                (name,) = (name for name, own in network.named_parameters() if own is parameter)
                found[name] = (group["weight_decay"], group["factor"])
        assert found == {
            "backbone.1.weight": (0.0, 0.1),
            "backbone.1.bias": (0.0, 0.1),
            "backbone.2.weight": (0.3, 0.1),
            "backbone.2.bias": (0.0, 0.1),
            "head.weight": (0.3, 1.0),
            "head.bias": (0.0, 1.0),
            "scales": (0.0, 1.0),
        }

    def test_kinds_are_what_they_are_called(self):
        sgd = build_optimizer(Network(), Optim(kind="sgd", momentum=0.7))
        assert isinstance(sgd, torch.optim.SGD)
        assert {group["momentum"] for group in sgd.param_groups} == {0.7}
        assert isinstance(build_optimizer(Network(), Optim(kind="adamw")), torch.optim.AdamW)

    def test_the_rate_reaches_each_group_by_its_share(self):
        optimizer = build_optimizer(Network(), Optim(backbone_lr_factor=0.1))
        apply_lr(optimizer, 0.5)
        rates = {(group["factor"], group["lr"]) for group in optimizer.param_groups}
        assert rates == {(0.1, 0.05), (1.0, 0.5)}
