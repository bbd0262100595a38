import copy

import pytest
import torch
from torch import nn

from boxwright.nn.backbones import Backbone, FeaturePyramid
from boxwright.nn.depthwise import DepthwiseConv2d
from boxwright.nn.fixed_norms import absorb_fixed_norms
from boxwright.nn.norm import FrozenBatchNorm2d
from boxwright.runtime.folding import fold_norms


def lively(network: nn.Module) -> nn.Module:
    """Statistics, scales and shifts that change something."""
    for norm in network.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            norm.weight.uniform_(0.5, 1.5)
            norm.running_var.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.3)
            norm.running_mean.normal_(0, 0.3)
    return network


def apart(network: nn.Module) -> nn.Module:
    """A copy whose norms follow their convolutions, as they are written."""
    copied = copy.deepcopy(network)
    for part in copied.modules():
        if hasattr(part, "norms"):
            for norm in part.norms:
                norm.absorbed = False
            part.norms = ()
    return copied


def tower(**settings) -> nn.Module:
    return lively(nn.Sequential(nn.Conv2d(3, 4, 3, **settings), FrozenBatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)))


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"stride": 2, "padding": 1, "dilation": 2}])
def test_maps_and_gradients_are_those_of_a_convolution_and_its_norm(settings):
    plain = tower(**settings).double()
    fused = copy.deepcopy(plain)
    assert absorb_fixed_norms(fused) == 1
    images = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    for network in (plain, fused):
        network(images).square().sum().backward()
    torch.testing.assert_close(fused(images), plain(images), rtol=1e-12, atol=1e-12)
    for (name, one), (_, other) in zip(fused.named_parameters(), plain.named_parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "regnet_x_400mf", "timm/tf_efficientnet_lite0"])
def test_every_frozen_norm_of_a_backbone_is_computed_by_its_convolution(name):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    backbone = lively(Backbone(name, norm="frozen_bn", frozen_stages=2)).train()
    norms = [part for part in backbone.modules() if isinstance(part, FrozenBatchNorm2d)]
    assert len(norms) > 15
    assert all(norm.absorbed for norm in norms)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(backbone(images), apart(backbone)(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_parameters_buffers_and_their_names_stay():
    network = tower()
    before = copy.deepcopy(network.state_dict())
    absorb_fixed_norms(network)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert "1.running_mean" in after


def test_a_copy_follows_its_own_norm_and_so_does_a_loaded_state():
    network = tower()
    absorb_fixed_norms(network)
    copied = copy.deepcopy(network)
    images = torch.randn(1, 3, 8, 8)
    before = network(images)
    copied.load_state_dict({**copied.state_dict(), "1.running_mean": torch.full((4,), 5.0)})
    torch.testing.assert_close(network(images), before, rtol=0, atol=0)
    assert not torch.allclose(copied(images), before)


def test_a_norm_whose_statistics_move_is_left_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert absorb_fixed_norms(network) == 0
    assert type(network[0]) is nn.Conv2d


def test_maps_stay_in_bf16_where_training_is():
    network = tower()
    absorb_fixed_norms(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network[:2](torch.randn(1, 3, 8, 8)).dtype == torch.bfloat16


def test_folding_for_inference_leaves_a_plain_convolution_that_computes_the_same():
    network = tower().eval()
    absorb_fixed_norms(network)
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = network(images)
        assert fold_norms(network) == 1
        assert type(network[0]) is nn.Conv2d  # which Winograd's kernels take
        torch.testing.assert_close(network(images), before, rtol=1e-5, atol=1e-5)


def test_depthwise_convolutions_fold_and_keep_their_kernels():
    plain = nn.Conv2d(4, 4, 3, groups=4, bias=False)
    network = lively(nn.Sequential(DepthwiseConv2d(plain, same=True), FrozenBatchNorm2d(4))).eval()
    images = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        before = network(images)
        assert absorb_fixed_norms(network) == 1
        torch.testing.assert_close(network(images), before, rtol=1e-5, atol=1e-5)
        assert fold_norms(network) == 1
        assert type(network[0]) is DepthwiseConv2d
        torch.testing.assert_close(network(images), before, rtol=1e-5, atol=1e-5)


def test_a_pyramid_with_frozen_norms_too():
    pyramid = lively(FeaturePyramid([4, 8], 6, extra_levels=1, norm="frozen_bn"))
    assert all(norm.absorbed for norm in pyramid.modules() if isinstance(norm, FrozenBatchNorm2d))
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)]
    with torch.no_grad():
        for one, other in zip(pyramid(maps), apart(pyramid)(maps), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
