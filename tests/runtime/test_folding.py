"""Folding: the same outputs with fewer operations."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from boxwright.nn.backbones import Backbone, FeaturePyramid
from boxwright.nn.norm import make_norm
from boxwright.nn.resnet import ResNetVariant
from boxwright.runtime.folding import FIXED_NORMS, fold_norms


def lively(module, seed=0):
    """Statistics, scales and shifts as after training."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, FIXED_NORMS):
            size = norm.running_mean.shape
            norm.running_mean.copy_(torch.randn(size, generator=generator) * 0.2)
            norm.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
            with torch.no_grad():
                norm.weight.copy_(torch.rand(size, generator=generator) + 0.5)
                norm.bias.copy_(torch.randn(size, generator=generator) * 0.2)
    return module.eval()


def norms_left(module):
    return sum(isinstance(part, FIXED_NORMS) for part in module.modules())


@pytest.mark.parametrize("norm", ["bn", "frozen_bn"])
@pytest.mark.parametrize(
    "name",
    ["resnet18", "regnet_x_400mf", "mobilenet_v3_small", "timm/tf_efficientnet_lite0", "timm/mobilenetv3_small_050"],
)
def test_a_backbone_gives_the_same_maps(name, norm):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    backbone = lively(Backbone(name, norm=norm, frozen_stages=2))
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = backbone(images)
        count = norms_left(backbone)
        assert fold_norms(backbone) == count > 15
        assert norms_left(backbone) == 0
        for one, other in zip(backbone(images), before, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize(("name", "widths", "count"), [("resnet50", (8, 16, 4, 1), 53), ("resnet18", (8, 8, 8, 1), 20)])
def test_our_own_resnet_gives_the_same_maps(name, widths, count):
    backbone = lively(Backbone(name, norm="frozen_bn", variant=ResNetVariant(widths=widths)))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = backbone(images)
        assert fold_norms(backbone) == count
        assert norms_left(backbone) == 0
        for one, other in zip(backbone(images), before, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_a_pyramid_with_norms_gives_the_same_levels():
    pyramid = lively(FeaturePyramid([4, 8], 6, extra_levels=1, norm="bn"))
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)]
    with torch.no_grad():
        before = pyramid(maps)
        assert fold_norms(pyramid) == 4
        torch.testing.assert_close(pyramid(maps), before, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_folded_stays():
    for parts in (
        [nn.Conv2d(3, 4, 1), make_norm("gn", 4)],
        [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)],
        [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)],
    ):
        tower = nn.Sequential(*parts).eval()
        assert fold_norms(tower) == 0
        assert list(tower) == parts
    assert fold_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()) == 0


def test_a_convolution_with_a_bias_keeps_its_share():
    tower = nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4))
    lively(tower)
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = tower(images)
        assert fold_norms(tower) == 1
        torch.testing.assert_close(tower(images), before, rtol=1e-5, atol=1e-5)
