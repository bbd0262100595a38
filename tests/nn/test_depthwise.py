"""Depthwise convolutions of a backbone: the same function with the same weights, by kernels that are fast at them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from boxwright.nn.backbones import Backbone
from boxwright.nn.depthwise import DepthwiseConv2d, SameConv2d, speed_up_depthwise


def conv(channels=6, groups=6, **options):
    torch.manual_seed(0)
    return nn.Conv2d(channels, 6, 3, groups=groups, **options)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "bias": False}])
def test_in_float32_it_is_the_convolution_that_it_replaces_bit_for_bit(options):
    holder = nn.Sequential(conv(**options))
    plain = copy.deepcopy(holder)
    assert speed_up_depthwise(holder) == 1
    assert isinstance(holder[0], DepthwiseConv2d)
    assert repr(holder.state_dict()) == repr(plain.state_dict())
    maps = torch.randn(2, 6, 11, 13)
    found, expected = (model(maps) for model in (holder, plain))
    assert torch.equal(found, expected)
    for value in (found, expected):
        value.square().sum().backward()
    for one, other in zip(holder.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_other_convolutions_stay_what_they_are():
    class Scaled(nn.Conv2d):
        pass

    network = nn.Sequential(
        conv(groups=1), conv(groups=3), nn.Conv2d(6, 12, 3, groups=6), conv(padding=1, padding_mode="reflect"),
        Scaled(6, 6, 3, groups=6),
    )  # fmt: skip
    assert speed_up_depthwise(network) == 0


def test_gradients_under_bf16_on_a_cpu_are_those_of_float32_arithmetic():
    """torch's own are rounded to eight bits after every product, and take longer."""
    holder = nn.Sequential(conv(padding=1))
    speed_up_depthwise(holder)
    maps = torch.randn(2, 6, 9, 9).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = holder(maps)
        assert found.dtype == torch.bfloat16
        with torch.no_grad():
            assert holder(maps).dtype == torch.bfloat16  # which is fast in bf16
    weight = holder[0].weight.detach().clone().requires_grad_()
    whole = maps.detach().float().requires_grad_()
    expected = F.conv2d(whole, weight, holder[0].bias, padding=1, groups=6)
    assert torch.equal(found, expected.bfloat16())
    up = torch.randn_like(expected).bfloat16()
    found.backward(up)
    expected.backward(up.float())
    assert torch.equal(holder[0].weight.grad, weight.grad)
    assert torch.equal(maps.grad, whole.grad.bfloat16())


def test_networks_that_pad_like_tensorflow_give_the_maps_that_timm_gives():
    timm = pytest.importorskip("timm")
    ours = Backbone("timm/tf_efficientnet_lite0").eval()
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4)).eval()
    theirs.load_state_dict(ours.body.state_dict())
    assert sum(isinstance(part, DepthwiseConv2d) for part in ours.modules()) == 16
    with torch.no_grad():
        pixels = torch.rand(1, 3, 64, 96)
        for one, other in zip(ours(pixels), theirs(pixels), strict=True):
            assert torch.equal(one, other)
        for size in ((61, 75), (33, 64)):  # rows and columns are as many; where they lie is no longer left to parity
            for one, other in zip(ours(torch.rand(1, 3, *size)), theirs(torch.rand(1, 3, *size)), strict=True):
                assert one.shape == other.shape


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [10, 11, 12])
def test_same_padding_gives_the_rows_of_tensorflow_on_one_grid(kernel, stride, side):
    """Output i lies around the pixels that it covers in a side which the stride divides, whatever this side is."""
    plain = nn.Conv2d(1, 1, kernel, stride=stride, bias=False)
    nn.init.ones_(plain.weight)
    maps = torch.rand(1, 1, side, side)
    found = SameConv2d(plain)(maps)
    assert found.shape[-2:] == (-(-side // stride),) * 2
    before = max(kernel - stride, 0) // 2
    for row in range(found.shape[-2]):
        start = row * stride - before
        window = maps[..., max(start, 0) : start + kernel, :].sum((0, 1, 2))  # (W,)
        columns = [window[max(start, 0) : start + kernel].sum() for start in
                   (column * stride - before for column in range(found.shape[-1]))]  # fmt: skip
        torch.testing.assert_close(found[0, 0, row], torch.stack(columns))
