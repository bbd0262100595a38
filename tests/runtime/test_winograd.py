"""Winograd: what a direct convolution gives, for any batch, size and memory layout, and only where it is faster."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from boxwright.inference.predictor import TorchEngine
from boxwright.models.fcos import FCOS, FCOSConfig, FCOSPyramid
from boxwright.models.sections import BackboneSection
from boxwright.nn.towers import conv_tower
from boxwright.runtime import winograd
from boxwright.runtime.winograd import WinogradConv2d, transform_filters, use_winograd, wide_convolutions


def wide(channels_in=128, channels_out=130, **options):
    torch.manual_seed(0)
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, **options).requires_grad_(False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 21, 33), (3, 64, 80), (30, 14, 14), (1, 1, 1), (2, 100, 3)])
def test_it_is_the_direct_convolution(size, layout, monkeypatch):
    """In blocks of rows and of whole images, as a module and as an operator; against float64."""
    monkeypatch.setattr(winograd, "FEWEST_TILES", 1)
    convolution = wide(bias=size[0] != 3)
    fast = WinogradConv2d(convolution)
    count, height, width = size
    x = torch.randn(count, 128, height, width, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    bias = None if convolution.bias is None else convolution.bias.double()
    expected = F.conv2d(x.double(), convolution.weight.double(), bias, padding=1)
    for got in (fast(x), winograd.winograd(x, convolution.weight, convolution.bias)):
        assert got.shape == expected.shape
        assert float((got - expected).abs().max()) < 3e-5 * float(expected.abs().max())
    assert fast(x).is_contiguous(memory_format=torch.channels_last)  # as the next layer wants it


def test_a_filter_at_the_border_sees_zeros():
    convolution = wide()
    convolution.weight.fill_(1.0)
    convolution.bias.zero_()
    counts = WinogradConv2d(convolution)(torch.ones(1, 128, 40, 40))[0, 0] / 128
    assert counts[1:-1, 1:-1].sub(9).abs().max() < 1e-4
    assert counts[0, 1:-1].sub(6).abs().max() < 1e-4
    assert abs(float(counts[0, 0]) - 4) < 1e-4


def test_filters_are_transformed_one_by_one():
    """G g G' of the paper, section 4.3, with G written out."""
    weight = torch.randn(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    g = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).double() / 24
    g[0] = torch.tensor([0.25, 0, 0])
    expected = torch.einsum("ij,ocjk,lk->iloc", g, weight, g).reshape(36, 2, 3).transpose(1, 2)
    torch.testing.assert_close(transform_filters(weight), expected, rtol=1e-6, atol=1e-6)


def test_small_maps_other_precisions_and_autocast_are_convolved_directly(monkeypatch):
    convolution = wide()
    fast = WinogradConv2d(convolution)
    monkeypatch.setattr(winograd, "by_blocks", None)
    small = torch.randn(1, 128, 8, 20)
    assert torch.equal(fast(small), convolution(small))
    large = torch.randn(1, 128, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(large), convolution(large))
    halves = WinogradConv2d(wide().bfloat16())
    assert halves(large.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(TypeError):
        fast(large)


def test_only_wide_plain_convolutions_are_taken():
    model = nn.ModuleDict({
        "wide": wide(), "narrow": wide(64), "few_out": wide(128, 60), "strided": wide(stride=2),
        "dilated": nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        "grouped": nn.Conv2d(128, 128, 3, padding=1, groups=2), "one": nn.Conv2d(128, 128, 1),
        "valid": nn.Conv2d(128, 128, 3), "halves": wide().bfloat16(),
        "mirrored": nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        "same": nn.Conv2d(128, 128, 3, padding="same"),
    })  # fmt: skip
    assert wide_convolutions(model) == ["wide", "same"]
    weights = model.state_dict()
    assert use_winograd(model) == 2
    assert wide_convolutions(model) == []
    assert model.state_dict().keys() == weights.keys()


@pytest.fixture(scope="module")
def config():
    return FCOSConfig(backbone=BackboneSection(name="resnet18", norm="bn"), fpn=FCOSPyramid(channels=128))


def test_an_engine_takes_it_in_float32_on_a_cpu_only(config):
    def left(**options):
        return len(wide_convolutions(TorchEngine(FCOS(config, 3), torch.device("cpu"), **options).model))

    assert left(precision="fp32") == 0
    with winograd.direct_convolutions():
        assert left(precision="fp32") > 10
    assert left(precision="fp32") == 0
    assert left(precision="fp32", compile=True) > 10
    assert left(precision="bf16") > 10


def test_an_environment_variable_switches_it(config, monkeypatch):
    def taken():
        return not wide_convolutions(TorchEngine(FCOS(config, 3), torch.device("cpu"), precision="fp32").model)

    for setting, expected in (("0", False), ("1", True), ("", True)):
        monkeypatch.setenv(winograd.SWITCH, setting)
        assert taken() is expected
    monkeypatch.setenv(winograd.SWITCH, "off")
    with pytest.raises(ValueError, match="BOXWRIGHT_WINOGRAD: expected 0 or 1, got 'off'"):
        taken()


def test_weights_that_are_loaded_later_count():
    first, second = wide(), wide()
    second.weight.mul_(-1)
    fast = WinogradConv2d(first)
    fast.load_state_dict(second.state_dict())
    x = torch.randn(1, 128, 40, 40)
    torch.testing.assert_close(fast(x), second(x), rtol=0, atol=1e-3)


def test_gradients_come_from_the_direct_convolution():
    convolution = nn.Conv2d(128, 64, 3, padding=1)
    x = torch.randn(1, 128, 40, 40, requires_grad=True)
    WinogradConv2d(convolution)(x).sum().backward()
    assert x.grad is not None
    assert convolution.weight.grad is not None


@pytest.mark.parametrize("count", [0, 2])
def test_the_operator_promises_what_it_gives(count):
    convolution = wide(bias=count == 0)
    x = torch.randn(count, 128, 9, 14)
    torch.library.opcheck(winograd.winograd, (x, convolution.weight, convolution.bias))
    assert winograd.winograd(x, convolution.weight, convolution.bias).shape == (count, 130, 9, 14)


def test_an_engine_in_bf16_on_a_cpu_has_the_fast_group_norms() -> None:
    def kinds(precision: str) -> set[str]:
        tower = conv_tower(64, [64, 16], "gn")
        TorchEngine(tower, torch.device("cpu"), precision=precision)
        return {type(part).__name__ for part in tower.modules() if isinstance(part, torch.nn.GroupNorm)}

    with winograd.direct_convolutions():
        assert kinds("bf16") == {"GroupNorm", "ChannelNorm"}
    assert kinds("fp32") == {"GroupNorm", "ChannelNorm"}
    assert kinds("bf16") == {"ContiguousNorm"}
