"""Which part of a trainer's file are the weights, and under which names."""

import numpy as np
import pytest
import torch

from boxwright.weights.pickles import foreign_class
from boxwright.weights.state_dicts import average_of, check_finite, foreign_parts, foreign_weight, state_of

WEIGHTS = {"body.conv.weight": torch.ones(2, 3), "body.bn.num_batches_tracked": torch.tensor(3)}
NAMESPACE = foreign_class("argparse", "Namespace")()


def named(prefix):
    return {prefix + name: value for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3, "args": NAMESPACE},
        {"state_dict": WEIGHTS, "hyper_parameters": {"lr": 0.1, "cfg": NAMESPACE}},
        {"model_state_dict": WEIGHTS, "loss": torch.tensor(1.0), "optimizer_state_dict": {"state": {}}},
        {"net": WEIGHTS, "acc": 0.5},
        {"my_weights": WEIGHTS, "epoch": 3},
        {"state": {"model": WEIGHTS}, "epoch": 3},
        {"model": {"state_dict": {"module": WEIGHTS}}},
        {"model": WEIGHTS, "model_ema": named("module.")},
        {"ema": {"module": WEIGHTS, "updates": 7}, "epoch": 3},
        {"model_ema": {**named("module."), "n_averaged": torch.tensor(7)}, "optimizer": {"state": {}}},
        {"state_dict": named("module."), "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2, 3)}}}},
        {name: value.half() if value.is_floating_point() else value for name, value in WEIGHTS.items()},
        {"model": {name: value.bfloat16() if value.is_floating_point() else value for name, value in WEIGHTS.items()}},
        named("module."),
        named("_orig_mod."),
        named("module._orig_mod."),
        named("_orig_mod.module."),
        named("_fsdp_wrapped_module."),
        {**named("module."), "n_averaged": torch.tensor(7)},
        {"body._orig_mod.conv.weight": WEIGHTS["body.conv.weight"], "body.bn.num_batches_tracked": torch.tensor(3)},
        {"body.conv.weight": np.ones((2, 3), np.float16), "body.bn.num_batches_tracked": np.array(3)},
        {**WEIGHTS, "args": NAMESPACE, "epoch": 3},
    ],
)
def test_the_weights_are_found(content):
    found = state_of(content)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())
    assert foreign_weight(content) is None


OTHER = {name: value + 1 for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        {"model": OTHER, "ema": WEIGHTS},
        {"state_dict": OTHER, "state_dict_ema": WEIGHTS},
        {"model": {f"module.{name}": value for name, value in OTHER.items()}, "ema": {"module": WEIGHTS, "updates": 9}},
        {"model": OTHER, "model_ema": {"body.conv.weight": WEIGHTS["body.conv.weight"], "n_averaged": torch.tensor(3)}},
    ],
)
def test_a_whole_running_mean_is_taken_for_the_weights_beside_it(content):
    """It is what trainers validate with."""
    assert torch.equal(state_of(content)["body.conv.weight"], WEIGHTS["body.conv.weight"])
    plain, average = content.keys()
    assert foreign_parts(content) == [f"{plain} (its running mean {average} is taken)"]


@pytest.mark.parametrize(
    "content",
    [
        {"model": WEIGHTS, "ema": {"body.bias": torch.ones(2)}},
        {"model": WEIGHTS, "ema": NAMESPACE},
        {"model": WEIGHTS, "ema": 0.999},
        {"state_dict": WEIGHTS, "ema_state_dict": {f"module.{name}": value for name, value in OTHER.items()}},
    ],
)
def test_what_is_no_whole_mean_is_left(content):
    """mmengine swaps: its `state_dict` is the mean and its `ema_state_dict` what was averaged."""
    assert average_of(content) is None
    assert torch.equal(state_of(content)["body.conv.weight"], WEIGHTS["body.conv.weight"])


def test_what_is_not_built_is_named():
    content = {"model": WEIGHTS, "args": NAMESPACE, "extra": {"a": [NAMESPACE, foreign_class("x", "Y")]}, "epoch": 1}
    assert foreign_parts(content) == ["args (argparse.Namespace)", "extra (argparse.Namespace, x.Y)"]


@pytest.mark.parametrize(
    "content",
    [
        NAMESPACE,
        {"model": NAMESPACE},
        {"model": {**WEIGHTS, "x.y": NAMESPACE}},
        {**WEIGHTS, "x.y": NAMESPACE},
        {"state_dict": {**WEIGHTS, "_extra": [NAMESPACE]}},
        {"anything": NAMESPACE, "epoch": 3},
    ],
)
def test_a_foreign_object_where_weights_are_expected_is_told(content):
    assert foreign_weight(content) == "argparse.Namespace"


def test_content_that_holds_itself_ends():
    content = {}
    content["model"] = content
    assert state_of(content) == {}


def test_two_names_that_become_one_are_refused():
    with pytest.raises(ValueError, match=r"two entries are called fc\.bias"):
        state_of({"module.fc.bias": torch.ones(1), "fc.bias": torch.ones(1)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value):
    check_finite(WEIGHTS, "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: weights that are not finite numbers .* in bad: its training"):
        check_finite({**WEIGHTS, "bad": torch.tensor([1, value])}, "x.pth")
