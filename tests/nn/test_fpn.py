import itertools

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from boxwright.nn.backbones import FeaturePyramid

CHANNELS = (8, 12, 20)


def maps_of(height, width, batch=1):
    """C3 to C5 of an image, rounded up as convolutions of stride 2 do."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, channels, -(-height // stride), -(-width // stride), generator=generator)
        for channels, stride in zip(CHANNELS, (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (97, 33), (224, 224), (31, 270)])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_levels_have_the_size_of_their_maps_for_even_and_odd_images(height, width, extra):
    maps = maps_of(height, width)
    levels = FeaturePyramid(CHANNELS, 16, extra_levels=extra)(maps)
    assert [level.shape for level in levels[:3]] == [(1, 16, *map_.shape[2:]) for map_ in maps]
    sides = [level.shape[2:] for level in levels]
    for finer, coarser in itertools.pairwise(sides):
        assert tuple(coarser) == tuple(-(-side // 2) for side in finer)


@pytest.mark.parametrize("extra_from", ["p5", "c5"])
def test_equals_torchvision_with_the_same_weights(extra_from):
    ours = FeaturePyramid(CHANNELS, 16, extra_levels=2, extra_from=extra_from)
    last = LastLevelP6P7(16 if extra_from == "p5" else CHANNELS[-1], 16)
    theirs = FeaturePyramidNetwork(list(CHANNELS), 16, extra_blocks=last)
    own = ours.state_dict()
    names = {
        **{f"inner_blocks.{k}.0.": f"laterals.{k}." for k in range(3)},
        **{f"layer_blocks.{k}.0.": f"outputs.{k}." for k in range(3)},
        "extra_blocks.p6.": "extras.0.",
        "extra_blocks.p7.": "extras.1.",
    }
    theirs.load_state_dict({f"{a}{part}": own[f"{b}{part}"] for a, b in names.items() for part in ("weight", "bias")})
    last.use_P5 = extra_from == "p5"
    maps = maps_of(72, 104)
    expected = theirs({str(k): map_ for k, map_ in enumerate(maps)})
    for level, reference in zip(ours(maps), expected.values(), strict=True):
        torch.testing.assert_close(level, reference)


def test_finer_levels_see_coarser_maps_and_not_the_other_way_round():
    pyramid = FeaturePyramid(CHANNELS, 4)
    maps = maps_of(64, 64)
    before = pyramid(maps)
    after = pyramid([maps[0], maps[1], maps[2] + 1])
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    after = pyramid([maps[0] + 1, maps[1], maps[2]])
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, True, True]


def test_second_extra_level_follows_relu_of_the_first():
    pyramid = FeaturePyramid(CHANNELS, 4, extra_levels=2)
    levels = pyramid(maps_of(128, 128))
    torch.testing.assert_close(levels[4], pyramid.extras[1](F.relu(levels[3])))
    assert (levels[3] < 0).any()
    pyramid.extra_relu = False  # MMDetection's RetinaNet
    torch.testing.assert_close(pyramid(maps_of(128, 128))[4], pyramid.extras[1](levels[3]))


def test_three_extra_levels_are_refused():
    with pytest.raises(ValueError, match="expected 0 to 2 from p5, got 3"):
        FeaturePyramid(CHANNELS, 4, extra_levels=3)


def test_a_pooled_level_is_every_other_cell_of_the_coarsest_and_has_no_weights():
    pyramid = FeaturePyramid(CHANNELS, 4, extra_levels=1, extra_from="pool")
    levels = pyramid(maps_of(96, 96))
    assert torch.equal(levels[3], F.max_pool2d(levels[2], 1, stride=2))
    assert len(pyramid.extras) == 0
    with pytest.raises(ValueError, match="expected 0 to 1 from pool, got 2"):
        FeaturePyramid(CHANNELS, 4, extra_levels=2, extra_from="pool")


def test_with_a_norm_convolutions_have_no_bias():
    pyramid = FeaturePyramid(CHANNELS, 4, norm="bn")
    assert all(convolution.bias is None for convolution in [*pyramid.laterals, *pyramid.outputs])
    level = pyramid(maps_of(64, 64))[0]
    torch.testing.assert_close(level.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)  # batch statistics


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        FeaturePyramid(CHANNELS, 4)(maps_of(64, 64)[:2])
