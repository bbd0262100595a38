import copy

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from boxwright.nn.backbones import Backbone, FeaturePyramid, _timm_body

CHANNELS = {
    "resnet18": [128, 256, 512],
    "regnet_x_400mf": [64, 160, 400],
    "mobilenet_v3_large": [40, 112, 960],
    "efficientnet_b0": [40, 112, 1280],
    "convnext_tiny": [192, 384, 768],
    "swin_t": [192, 384, 768],
    "densenet121": [512, 1024, 1024],
    "timm/resnet18": [128, 256, 512],
}


@pytest.fixture(autouse=True)
def _quick_initial_weights(monkeypatch):
    """Truncated normal numbers take seconds in large networks, and here any weights will do."""
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, *_rest, **_settings: tensor)


def backbone(name, *arguments, **settings):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return Backbone(name, *arguments, **settings)


def test_swin_is_told_by_its_kind_and_not_by_a_size():
    """At a height of 384 its first map is (B, 96, W, 96): as many rows as channels."""
    body = backbone("swin_t", ("c2", "c3")).eval()
    images = torch.randn(1, 3, 384, 64)
    with torch.no_grad():
        maps, own = body(images), list(body.body(images).values())
    assert own[0].shape == (1, 96, 16, 96)
    assert [tuple(map_.shape) for map_ in maps] == [(1, 96, 96, 16), (1, 192, 48, 8)]
    assert torch.equal(maps[0], own[0].permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", CHANNELS)
def test_maps_have_the_stated_channels_at_strides_8_16_and_32(name):
    body = backbone(name).eval()
    assert body.channels == CHANNELS[name]
    assert body.strides == [8, 16, 32]
    with torch.no_grad():
        maps = body(torch.randn(1, 3, 64, 128))
    assert [tuple(map_.shape) for map_ in maps] == [
        (1, channels, 64 // stride, 128 // stride) for channels, stride in zip(body.channels, body.strides, strict=True)
    ]


@pytest.mark.parametrize("name", ["resnet18", "regnet_x_400mf", "mobilenet_v3_large", "timm/resnet18"])
def test_odd_images_round_up(name):
    with torch.no_grad():
        maps = backbone(name).eval()(torch.randn(1, 3, 65, 97))
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(9, 13), (5, 7), (3, 4)]


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_levels_are_those_asked_for(name):
    body = backbone(name, ("c2", "c4")).eval()
    with torch.no_grad():
        maps = body(torch.randn(1, 3, 64, 64))
    assert [tuple(map_.shape[1:]) for map_ in maps] == [(64, 16, 16), (256, 4, 4)]


def test_maps_are_those_of_the_classification_network():
    body = backbone("resnet18").eval()
    network = torchvision.models.resnet18(weights=None).eval()
    network.load_state_dict(body.body.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        early = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        expected = network.layer2(network.layer1(early))
        torch.testing.assert_close(body(images)[0], expected)


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("resnet18", 0),
        ("resnet18", 2),
        ("resnet18", 5),
        ("regnet_x_400mf", 2),
        ("mobilenet_v3_large", 2),
        ("convnext_tiny", 2),
        ("timm/resnet18", 0),
        ("timm/resnet18", 2),
        ("timm/tf_efficientnet_lite0", 2),
    ],
)
def test_frozen_stages_get_no_gradient_and_keep_their_statistics_in_training(name, frozen):
    body = backbone(name, frozen_stages=frozen).train()
    before = {key: value.clone() for key, value in body.state_dict().items()}
    maps = body(torch.randn(2, 3, 32, 64))
    if frozen == 5:
        assert not any(parameter.requires_grad for parameter in body.parameters())
    else:
        sum(map_.square().mean() for map_ in maps).backward()
    trained = [name for name, parameter in body.named_parameters() if parameter.grad is not None]
    moved = [key for key, value in body.state_dict().items() if not torch.equal(value, before[key])]
    first = ("body.conv1", "body.bn1", "body.layer1", "body.stem", "body.trunk_output.block1.", "body.features.0.")
    first += ("body.conv_stem", "body.blocks.0.", "body.blocks.1.")
    early = [key for key in [*trained, *moved] if key.startswith(first)]
    assert bool(early) == (frozen == 0)
    assert bool(trained) == (frozen < 5)
    if name != "convnext_tiny":  # it has no statistics
        assert bool(moved) == (frozen < 5)


@pytest.mark.parametrize("norm", ["bn", "sync_bn", "frozen_bn"])
def test_frozen_stages_keep_their_statistics_whatever_the_norm_of_the_others(norm):
    body = backbone("resnet18", norm=norm, frozen_stages=2).body
    kinds = {}
    for name, part in body.named_modules():
        if "bn" in name or "downsample.1" in name:
            kinds.setdefault(name.split(".")[0], set()).add(type(part).__name__)
    other = {"bn": "BatchNorm2d", "sync_bn": "SyncBatchNorm", "frozen_bn": "FrozenBatchNorm2d"}[norm]
    assert kinds == {
        **{part: {"FrozenBatchNorm2d"} for part in ("bn1", "layer1")},
        **{part: {other} for part in ("layer2", "layer3", "layer4")},
    }


def test_frozen_stages_are_counted_from_the_stem():
    parameters = dict(backbone("resnet18", frozen_stages=2).named_parameters())
    trainable = {name.split(".")[1] for name, parameter in parameters.items() if parameter.requires_grad}
    assert trainable == {"layer2", "layer3", "layer4"}
    with pytest.raises(ValueError, match="0 to 5, got 6"):
        backbone("resnet18", frozen_stages=6)


def test_the_stages_of_a_timm_network_are_found_within_its_containers():
    pytest.importorskip("timm")
    _, stages = _timm_body("tf_efficientnet_lite0", ("c3", "c4", "c5"))
    assert stages == [
        ("conv_stem", "bn1", "blocks.0"),
        ("blocks.1",),
        ("blocks.2",),
        ("blocks.3", "blocks.4"),
        ("blocks.5", "blocks.6"),
    ]


@pytest.mark.parametrize(
    ("name", "frozen", "expected"),
    [
        ("timm/xception41", 2, "expected frozen_stages 0 or at least 5, got 2"),
        ("timm/convnext_atto", 1, "0 or at least 2, got 1"),
    ],
)
def test_stages_that_are_not_known_are_not_frozen_in_silence(name, frozen, expected):
    with pytest.raises(ValueError, match=expected):
        backbone(name, frozen_stages=frozen)


@pytest.mark.parametrize("norm", ["frozen_bn", "sync_bn"])
def test_an_activation_within_a_norm_survives_the_change_of_the_norm(norm):
    """timm's EfficientNets have no other: `BatchNormAct2d` is norm and ReLU6."""
    images = torch.randn(1, 3, 64, 64)
    plain, other = (backbone("timm/tf_efficientnet_lite0", norm=kind).eval() for kind in ("bn", norm))
    with torch.no_grad():
        for one, same in zip(plain(images), other(images), strict=True):
            torch.testing.assert_close(same, one, rtol=1e-4, atol=1e-4)
    names = {key for key in plain.state_dict() if not key.endswith("num_batches_tracked")}
    assert names <= set(other.state_dict())
    assert torch.equal(copy.deepcopy(other)(images)[0], other(images)[0])


@pytest.mark.parametrize("norm", ["gn", "none"])
def test_an_activation_within_a_norm_stays_where_the_norm_is_another(norm):
    body = backbone("timm/tf_efficientnet_lite0", norm=norm).eval()
    found = []
    body.body.blocks[1][0].bn2.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    body(torch.randn(1, 3, 64, 64))
    assert (float(found[0].detach().min()), float(found[0].detach().max()) <= 6) == (0, True)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18", "timm/tf_efficientnet_lite0"])
def test_frozen_batch_norm_equals_batch_norm_in_evaluation(name):
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain, frozen = backbone(name).eval(), backbone(name, norm="frozen_bn").train()
        for one, other in zip(plain(images), frozen(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in frozen.modules())
    assert any(isinstance(part, FrozenBatchNorm2d) for part in frozen.modules())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "torchvision has no classification model 'resnet19'"),
        ("timm/no_such_net", "timm has no model 'no_such_net'"),
        ("alexnet", "does not know where its stages end; use it as `timm/alexnet`"),
        ("shufflenet_v2_x0_5", "does not know where its stages end"),
    ],
)
def test_networks_that_cannot_serve_are_refused_by_name(name, message):
    with pytest.raises(ValueError, match=message):
        backbone(name)


@pytest.mark.parametrize("channels", [16, 64])
def test_extra_levels_learn_from_a_single_cell_in_bf16(channels):
    """oneDNN's gradient of a bf16 convolution of stride 2 on a map of one cell is partly what was in memory."""
    pyramid = FeaturePyramid([channels], channels, extra_levels=2, extra_from="p5")
    for _ in range(8):
        pyramid.zero_grad()
        map_ = torch.randn(2, channels, 1, 1)
        freed = [torch.full((channels * channels * 9,), float("nan")) for _ in range(4)]
        del freed
        with torch.autocast("cpu", torch.bfloat16):
            levels = pyramid([map_])
        torch.stack([level.float().square().sum() for level in levels]).sum().backward()
        for extra in pyramid.extras:
            gradient = extra.weight.grad
            assert gradient.isfinite().all()
            assert gradient[..., 1, 1].abs().sum() > 0
            assert gradient.sum((0, 1)).count_nonzero() == 1  # the middle tap only: the others see the padding
