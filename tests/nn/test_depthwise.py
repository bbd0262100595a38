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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [(3, {"padding": 1}), (5, {}), (5, {"padding": (2, 1)}), (5, {"stride": 2, "padding": 2}), (7, {"padding": 3}),
     ((3, 5), {"stride": (2, 1)}), (4, {"padding": 1}), (5, {"dilation": 2})],
)  # fmt: skip
def test_gradients_of_wide_filters_are_those_of_torch(kernel, options, bias, dtype):
    torch.manual_seed(1)
    plain = nn.Conv2d(6, 6, kernel, groups=6, bias=bias, **options).to(dtype)
    maps = torch.randn(2, 6, 12, 13, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    up = torch.randn_like(plain(maps))
    found = torch.autograd.grad(DepthwiseConv2d(plain, same=False)(maps), [maps, *plain.parameters()], up)
    whole, exact = maps.detach().double().requires_grad_(), copy.deepcopy(plain).double()
    expected = torch.autograd.grad(exact(whole), [whole, *exact.parameters()], up.double())
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert one.shape == other.shape
        close = (
            {"rtol": 1e-12, "atol": 1e-12}
            if dtype == torch.float64
            else {"rtol": 0.02, "atol": 0.02 * other.abs().max()}
        )
        torch.testing.assert_close(one.double(), other, **close)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_gradients_with_tensorflows_padding_are_those_of_padded_maps(kernel, stride):
    torch.manual_seed(1)
    plain = nn.Conv2d(6, 6, kernel, stride, groups=6).double()
    maps = torch.randn(2, 6, 11, 10, dtype=torch.float64, requires_grad=True)
    layer = DepthwiseConv2d(plain, same=True)
    expected = plain(F.pad(maps, layer.same))
    up = torch.randn_like(expected)
    assert torch.equal(layer(maps), expected)
    inputs = [maps, *plain.parameters()]
    for one, other in zip(
        torch.autograd.grad(layer(maps), inputs, up), torch.autograd.grad(expected, inputs, up), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_under_bf16_maps_are_bf16_and_gradients_reach_float32_filters():
    holder = nn.Sequential(nn.Conv2d(6, 6, 5, groups=6, padding=2))
    speed_up_depthwise(holder)
    maps = torch.randn(2, 6, 9, 9).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = holder(maps)
        with torch.no_grad():
            assert torch.equal(holder(maps), found)
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    assert maps.grad.dtype == torch.bfloat16
    weight = holder[0].weight
    assert weight.grad.dtype == torch.float32
    expected = torch.autograd.grad(F.conv2d(maps.float(), weight, None, 1, 2, 1, 6).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected, rtol=0.01, atol=0.01 * float(expected.abs().max()))


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
