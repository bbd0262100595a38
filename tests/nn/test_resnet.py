import pickle

import pytest
import torch
import torchvision
from torch import nn

from boxwright.nn.backbones import Backbone
from boxwright.nn.pretrained import load_pretrained
from boxwright.nn.resnet import Bottleneck, ResNet, ResNetVariant, resnet_stage, stage_widths

ALL = ("c2", "c3", "c4", "c5")
SLIM = (16, 32, 8, 1)


def loaded(name, weights, *levels, **settings):
    backbone = Backbone(name, *levels, **settings)
    load_pretrained(backbone, weights)
    return backbone


def randomised(module):
    """Statistics and scales that are not those of the start, so that a wrong one is seen."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnext50_32x4d"])
def test_without_any_difference_it_is_torchvisions_network(name):
    theirs = randomised(torchvision.models.get_model(name, weights=None))
    ours = ResNet(name, ALL, ResNetVariant()).eval()
    state = theirs.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        c2 = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images)))))
        c5 = theirs.layer4(theirs.layer3(theirs.layer2(c2)))
        maps = ours(images)
    torch.testing.assert_close(maps["c2"], c2)
    torch.testing.assert_close(maps["c5"], c5)


def test_the_stride_can_be_in_the_first_convolution():
    """Then the 3x3 sees every second pixel only: a pixel between them changes nothing."""
    block = Bottleneck(4, 4, 8, stride=2, groups=1, stride_in_1x1=True, dilation=1, norm_eps=1e-5).eval()
    other = Bottleneck(4, 4, 8, stride=2, groups=1, stride_in_1x1=False, dilation=1, norm_eps=1e-5).eval()
    other.load_state_dict(block.state_dict())
    image, changed = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    changed[..., 3, 3] = 1.0
    with torch.no_grad():
        assert torch.equal(block(image), block(changed))
        assert not torch.equal(other(image), other(changed))
        assert block(image).shape == other(image).shape == (1, 8, 4, 4)


def test_widths_follow_the_name_or_the_variant():
    assert stage_widths("resnet101", ResNetVariant()) == (64, [256, 512, 1024, 2048], [64, 128, 256, 512], 1)
    slim = stage_widths("resnet50", ResNetVariant(widths=SLIM))
    assert slim == (16, [32, 64, 128, 256], [8, 16, 32, 64], 1)
    state = ResNet("resnet50", ALL, ResNetVariant(widths=(16, 32, 2, 4))).state_dict()
    assert state["layer1.0.conv2.weight"].shape == (8, 2, 3, 3)
    with pytest.raises(ValueError, match="not for regnet_x_400mf"):
        Backbone("regnet_x_400mf", variant=ResNetVariant(stride_in_1x1=True))
    half = Backbone("resnet18", variant=ResNetVariant(widths=(32, 32, 32, 1)))
    assert half.channels == [64, 128, 256]
    with pytest.raises(ValueError, match="no 1x1 convolution and no groups"):
        Backbone("resnet18", variant=ResNetVariant(stride_in_1x1=True))
    with pytest.raises(ValueError, match="no 1x1 convolution and no groups"):
        Backbone("resnet18", variant=ResNetVariant(widths=(32, 64, 32, 1)))
    with pytest.raises(ValueError, match="four numbers above 0"):
        ResNetVariant(widths=(0, 1, 1, 1))


def test_a_dilated_last_stage_keeps_stride_16():
    body = Backbone("resnet50", ("c4", "c5"), variant=ResNetVariant(dilated_c5=True, widths=SLIM)).eval()
    assert body.strides == [16, 16]
    with torch.no_grad():
        maps = body(torch.randn(1, 3, 64, 96))
    assert [tuple(map_.shape[1:]) for map_ in maps] == [(128, 4, 6), (256, 4, 6)]
    assert all(block.conv2.dilation == (2, 2) for block in body.body.layer4)
    assert body.body.layer3[0].conv2.dilation == (1, 1)


def test_stages_above_the_last_wanted_are_not_built_and_one_alone_is_a_head():
    body = Backbone("resnet50", ("c4",), variant=ResNetVariant(stride_in_1x1=True, widths=SLIM), frozen_stages=2)
    assert not hasattr(body.body, "layer4")
    assert (body.strides, body.channels) == ([16], [128])
    head = resnet_stage("resnet50", 5, ResNetVariant(widths=SLIM))
    assert head(torch.randn(2, 128, 14, 14)).shape == (2, 256, 7, 7)


@pytest.mark.parametrize("name", ["resnet50", "regnet_x_400mf"])
@pytest.mark.parametrize(("norm", "eps"), [("bn", 1e-3), ("frozen_bn", 0.0)])
def test_norms_have_the_variants_eps(name, norm, eps):
    """Frozen norms of older torchvision checkpoints have none at all; torch 2.11 refuses that for BatchNorm."""
    body = Backbone(name, norm=norm, variant=ResNetVariant(norm_eps=eps), frozen_stages=2)
    assert {part.eps for part in body.modules() if hasattr(part, "running_var")} == {eps}


def test_pretrained_weights_load_by_torchvisions_names(monkeypatch, tmp_path):
    network = randomised(torchvision.models.resnet50(weights=None))
    monkeypatch.setattr(torchvision.models, "get_model", lambda _name, weights: network)
    body = loaded("resnet50", "IMAGENET1K_V1", variant=ResNetVariant(stride_in_1x1=True)).body
    assert torch.equal(body.state_dict()["layer4.2.bn3.weight"], network.state_dict()["layer4.2.bn3.weight"])
    with pytest.raises(
        ValueError, match=r"do not fit\. Here resnet50 has widths of its own \(model\.backbone\.widths\)"
    ):
        loaded("resnet50", "IMAGENET1K_V1", variant=ResNetVariant(widths=SLIM))
    torch.save(network.state_dict(), tmp_path / "r50.pth")
    body = loaded("resnet50", str(tmp_path / "r50.pth"), variant=ResNetVariant(stride_in_1x1=True)).body
    assert torch.equal(body.state_dict()["conv1.weight"], network.state_dict()["conv1.weight"])


def caffe2_pickle(path, variant):
    """A backbone as MSRA's `R-50.pkl` has it: Caffe2's names, scale and shift only, BGR."""
    torch.manual_seed(3)
    state = ResNet("resnet50", ALL, variant).state_dict()
    branches = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "bn1": "2a_bn", "bn2": "2b_bn", "bn3": "2c_bn"}
    names = {}
    for key in state:
        *place, end = key.split(".")
        if end in ("running_mean", "running_var", "num_batches_tracked"):
            continue
        if place[0] in ("conv1", "bn1"):
            names[key] = "conv1_w" if place[0] == "conv1" else f"res_conv1_bn_{end[0].replace('w', 's')}"
            continue
        stage, block, part = int(place[0][-1]) + 1, place[1], place[2]
        branch = branches.get(part, "1" if place[-1] == "0" else "1_bn")
        suffix = end[0] if "bn" not in branch else end[0].replace("w", "s")
        names[key] = f"res{stage}_{block}_branch{branch}_{suffix}"
    arrays = {name: state[key].numpy() for key, name in names.items()}
    arrays["pred_w"] = torch.zeros(1000, 2048).numpy()
    path.write_bytes(pickle.dumps(arrays, protocol=2))
    return state


def test_an_msra_backbone_is_read_turned_to_rgb_and_checked_for_its_strides(tmp_path):
    file = tmp_path / "R-50.pkl"
    variant = ResNetVariant(widths=SLIM, stride_in_1x1=True)
    state = caffe2_pickle(file, variant)
    body = loaded("resnet50", str(file), ALL, variant=variant).body.state_dict()
    assert torch.equal(body["conv1.weight"], state["conv1.weight"].flip(1))
    assert torch.equal(body["layer1.0.downsample.1.bias"], state["layer1.0.downsample.1.bias"])
    assert torch.equal(body["layer4.2.conv3.weight"], state["layer4.2.conv3.weight"])
    assert body["bn1.running_var"].eq(1).all()
    with pytest.raises(ValueError, match=r"needs model\.backbone\.stride_in_1x1=true and model\.backbone\.pixel_std="):
        loaded("resnet50", str(file), ALL, variant=ResNetVariant(widths=SLIM))
    with pytest.raises(ValueError, match=r"not those of resnet101, \d+ entries missing"):
        loaded("resnet101", str(file), ALL, variant=variant)


def test_a_torchvision_backbone_in_detectron2s_layout_is_rgb_already(tmp_path):
    torch.manual_seed(3)
    state = ResNet("resnet50", ALL, ResNetVariant(widths=SLIM)).state_dict()
    theirs = {}
    for key, value in state.items():
        place = key.split(".")
        if place[-1] == "num_batches_tracked":
            continue
        if len(place) == 2:
            name = f"stem.conv1.{'norm.' if place[0] == 'bn1' else ''}{place[1]}"
        else:
            part = {"downsample": "shortcut" + (".norm" if place[3] == "1" else "")}.get(
                place[2], f"conv{place[2][-1]}" + (".norm" if place[2].startswith("bn") else "")
            )
            name = f"res{int(place[0][-1]) + 1}.{place[1]}.{part}.{place[-1]}"
        theirs[name] = value.numpy()
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps({"model": theirs, "__author__": "torchvision", "matching_heuristics": True}))
    body = loaded("resnet50", str(file), ALL, variant=ResNetVariant(widths=SLIM)).body.state_dict()
    assert all(torch.equal(body[key], value) for key, value in state.items() if "tracked" not in key)
