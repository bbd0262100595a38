import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from boxwright.nn.norm import group_count, make_norm, replace_batch_norm
from boxwright.nn.towers import conv_tower, init_dense


def trained_network():
    """Two convolutions with BatchNorm whose weights and statistics are not the initial ones."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3), nn.Sequential(nn.BatchNorm2d(8)))
    generator = torch.Generator().manual_seed(0)
    for norm in (network[1], network[2][0]):
        norm.weight.data.uniform_(0.5, 2, generator=generator)
        norm.bias.data.normal_(generator=generator)
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    return network


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (16, 16), (32, 32), (48, 24), (100, 25), (256, 32), (37, 1)])
def test_groups_divide_the_channels_and_are_at_most_32(channels, groups):
    assert group_count(channels) == groups
    assert make_norm("gn", channels)(torch.randn(1, channels, 2, 2)).shape == (1, channels, 2, 2)


@pytest.mark.parametrize("channels", [16, 32, 64])
def test_group_norm_equals_torchs_and_takes_a_single_pixel_in_training(channels):
    norm = make_norm("gn", channels)
    norm.bias.data.uniform_()
    maps = torch.randn(2, channels, 3, 3)
    groups = group_count(channels)
    torch.testing.assert_close(norm(maps), nn.functional.group_norm(maps, groups, norm.weight, norm.bias))
    pixel = norm.train()(torch.randn(1, channels, 1, 1))
    assert pixel.isfinite().all()
    if groups == channels:  # one channel a group: nothing but its shift is left
        torch.testing.assert_close(pixel[0, :, 0, 0], norm.bias, rtol=0, atol=1e-3)


def test_a_frozen_norm_is_torchvisions_and_keeps_the_type_of_its_input():
    ours, theirs = make_norm("frozen_bn", 4), FrozenBatchNorm2d(4)
    for buffer in ours.buffers():
        buffer.uniform_(0.5, 2)
    theirs.load_state_dict(ours.state_dict())
    maps = torch.randn(2, 4, 5, 5)
    assert torch.equal(ours(maps), theirs(maps))
    half = ours(maps.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), theirs(maps), rtol=0.02, atol=0.05)
    assert theirs(maps.bfloat16()).dtype == torch.float32  # what it is for


def test_an_unknown_norm_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="none, gn, bn, sync_bn or frozen_bn, got 'ln'"):
        make_norm("ln", 8)


class TestReplaceBatchNorm:
    def test_frozen_equals_batch_norm_in_evaluation_and_in_training(self):
        images = torch.randn(2, 3, 9, 9)
        network = trained_network().eval()
        expected = network(images)
        replace_batch_norm(network, "frozen_bn")
        torch.testing.assert_close(network(images), expected)
        torch.testing.assert_close(network.train()(images), expected)

    def test_frozen_has_nothing_to_train_but_the_convolution(self):
        network = trained_network()
        replace_batch_norm(network, "frozen_bn")
        assert [name for name, _ in network.named_parameters()] == ["0.weight", "0.bias"]

    def test_frozen_keeps_epsilon(self):
        network = trained_network()
        replace_batch_norm(network, "frozen_bn")
        assert [part.eps for part in (network[1], network[2][0])] == [1e-3, 1e-5]

    def test_synchronised_keeps_weights_and_statistics(self):
        network = trained_network()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        replace_batch_norm(network, "sync_bn")
        assert isinstance(network[1], nn.SyncBatchNorm)
        after = network.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], before[key]) for key in before if "num_batches" not in key)

    def test_group_norm_keeps_scale_and_shift(self):
        network = trained_network()
        scale, shift = network[1].weight.detach().clone(), network[1].bias.detach().clone()
        replace_batch_norm(network, "gn")
        assert isinstance(network[1], nn.GroupNorm)
        assert torch.equal(network[1].weight, scale)
        assert torch.equal(network[1].bias, shift)
        assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())

    def test_none_takes_them_out_and_bn_leaves_them(self):
        network = trained_network()
        replace_batch_norm(network, "bn")
        assert isinstance(network[1], nn.BatchNorm2d)
        replace_batch_norm(network, "none")
        assert isinstance(network[1], nn.Identity)
        assert isinstance(network[2][0], nn.Identity)


class TestTower:
    def test_is_convolution_and_relu_as_the_course_prints_it(self):
        tower = conv_tower(64, [128, 64])
        assert str(tower).splitlines()[1:-1] == [
            "  (0): Conv2d(64, 128, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
            "  (1): ReLU(inplace=True)",
            "  (2): Conv2d(128, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
            "  (3): ReLU(inplace=True)",
        ]

    def test_has_a_norm_after_each_convolution_where_asked(self):
        kinds = [type(part).__name__ for part in conv_tower(16, [16, 16], "gn")]
        assert kinds == ["Conv2d", "ChannelNorm", "ReLU"] * 2

    def test_weights_are_small_normal_numbers_and_biases_zero(self):
        torch.manual_seed(0)
        tower = conv_tower(64, [64, 64])
        for part in (tower[0], tower[2]):
            assert abs(float(part.weight.detach().std()) - 0.01) < 5e-4
            assert abs(float(part.weight.detach().mean())) < 2e-4
            assert not part.bias.detach().any()

    def test_of_no_widths_changes_nothing(self):
        map_ = torch.randn(1, 4, 3, 3)
        assert torch.equal(conv_tower(4, [])(map_), map_)

    def test_init_works_without_biases(self):
        convolution = nn.Conv2d(4, 4, 3, bias=False)
        init_dense(convolution, std=0.0)
        assert not convolution.weight.detach().any()
