"""Which part of a trainer's file are the weights, and under which names."""

import numpy as np
import pytest
import torch

from boxwright.weights.pickles import foreign_class
from boxwright.weights.state_dicts import check_finite, foreign_parts, foreign_weight, state_of

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
