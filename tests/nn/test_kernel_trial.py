"""Which kernels are used on a GPU: those that were right and faster there. Ways of a CPU stand in for them here."""

import time
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from boxwright.nn import gpu_kernels, kernel_trial
from boxwright.nn.gpu_kernels import GPU_KERNELS, takes_kernels
from boxwright.nn.group_norm import GroupNorm
from boxwright.nn.kernel_layers import use_tried_kernels
from boxwright.nn.kernel_trial import Trial, Way, tried, try_kernels
from boxwright.nn.rectify import rectified

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
LARGE = (1, 8, 9, 5)


def plain(maps, weight, bias):
    return F.relu(maps.float() * weight[:, None, None] + bias[:, None, None]).to(maps.dtype)


def slow(maps, weight, bias):
    time.sleep(0.02)
    return plain(maps, weight, bias)


def trial_of(ours, torchs=plain, dtype=torch.float32, right=plain):
    (found,) = tried(CPU, dtype, lambda asked: [Way("group norm", ours, torchs, right)], LARGE)
    return found


class TestTrial:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_same_in_less_time(self, dtype):
        found = trial_of(plain, slow, dtype)
        assert (found.right, found.difference) == (True, 0.0)
        assert found.gain > 1

    def test_the_same_in_more_time(self):
        found = trial_of(slow)
        assert found.right
        assert found.gain < 1

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_roundings_are_right(self, dtype):
        def rounded(maps, weight, bias):
            return plain(maps, weight, bias) * (1 + torch.finfo(dtype).eps / 4)

        assert trial_of(rounded, dtype=dtype).right

    def test_half_of_what_is_right_is_wrong(self):
        found = trial_of(lambda maps, weight, bias: plain(maps, weight, bias) / 2)
        assert found == ("group norm", False, pytest.approx(0.5), 0.0)

    def test_a_wrong_gradient_is_wrong(self):
        def forgets(maps, weight, bias):
            return plain(maps, weight, bias.detach() * 1.01 + bias - bias * 1.01)

        assert not trial_of(forgets).right

    @pytest.mark.parametrize("number", [torch.nan, torch.inf])
    def test_what_is_not_a_number_is_wrong(self, number):
        assert trial_of(lambda maps, weight, bias: plain(maps, weight, bias) * number).difference == torch.inf

    def test_another_type_is_wrong(self):
        found = trial_of(lambda *given: plain(*given).float(), dtype=torch.bfloat16)
        assert (found.right, found.difference) == (False, torch.inf)

    def test_one_wrong_tile_in_a_large_map_is_enough(self):
        def cut(maps, weight, bias):
            out = plain(maps, weight, bias).clone()
            if out.shape[-1] == 64:
                out[0, :, :8, :2] = 0.0
            return out

        (found,) = tried(CPU, torch.bfloat16, lambda asked: [Way("group norm", cut, plain, plain)], (4, 32, 64, 64))
        assert not found.right

    def test_works_where_nothing_is_learnt_and_leaves_chance_alone(self):
        torch.manual_seed(0)
        wanted = torch.rand(3)
        torch.manual_seed(0)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert trial_of(plain).right
        assert torch.equal(torch.rand(3), wanted)

    def test_nothing_without_memory(self, monkeypatch):
        monkeypatch.setattr(kernel_trial, "_room", lambda device: 1000)
        with pytest.raises(torch.OutOfMemoryError):
            tried(CPU, torch.float32, lambda asked: pytest.fail("asked for"), LARGE)

    def test_a_variant_that_is_wrong_is_wrong(self):
        def half(*given):
            return plain(*given) / 2

        for variants, right in (([(plain, plain)], True), ([(half, plain)], False)):
            way = Way("group norm", plain, plain, plain, variants)
            assert tried(CPU, torch.float32, lambda asked, way=way: [way], LARGE)[0].right is right

    def test_what_is_wrong_on_small_maps_only_is_wrong(self):
        def cut(maps, weight, bias):
            return plain(maps, weight, bias) * (0.5 if maps.shape[1] == kernel_trial.SMALL[1] else 1.0)

        assert not trial_of(cut).right

    def test_right_is_what_float32_gives_and_not_what_torch_does(self):
        assert trial_of(plain, torchs=lambda *given: plain(*given) / 2).right

    def test_another_number_of_gradients_is_wrong(self):
        found = trial_of(lambda maps, weight, bias: plain(maps, weight, bias.detach()))
        assert (found.right, found.difference) == (False, torch.inf)

    def test_a_small_part_is_too_much_in_float32(self):
        assert not trial_of(lambda *given: plain(*given) * 1.002).right

    def test_maps_are_channels_last_and_nothing_is_cast(self):
        def looks(maps, weight, bias):
            assert maps.is_contiguous(memory_format=torch.channels_last)
            assert not torch.is_autocast_enabled("cpu")
            return plain(maps, weight, bias)

        with torch.autocast("cpu", torch.bfloat16):
            assert trial_of(looks).right

    def test_each_kernel_that_layers_ask_for_is_tried(self):
        assert [way.kernel for way in kernel_trial.ways_of(torch.float32)] == list(get_args(gpu_kernels.Kernel))


def map_of_a_card(dtype=torch.float32, channels_last=True):
    maps = torch.zeros(1, 8, 2, 2).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return SimpleNamespace(
        is_cuda=True, dtype=dtype, numel=maps.numel, is_contiguous=maps.is_contiguous, device=CARD
    )  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_tried(monkeypatch):
    monkeypatch.setattr(gpu_kernels, "IN_USE", in_use := {})
    monkeypatch.setattr(kernel_trial, "IN_USE", in_use)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setenv(GPU_KERNELS, "auto")


FASTER, SLOWER = Trial("group norm", True, 1e-7, 3.0), Trial("bias and ReLU", True, 0.0, 0.9)


class TestDecision:
    def test_nothing_is_tried_unless_asked_for(self, monkeypatch):
        monkeypatch.delenv(GPU_KERNELS)
        assert not try_kernels(CARD, torch.float32, trials=lambda *given: pytest.fail("tried"))

    def test_nothing_is_used_untried(self):
        assert not takes_kernels(map_of_a_card(), "group norm")

    def test_what_is_right_and_faster_is_used_for_maps_of_that_type(self):
        said = []
        used = try_kernels(CARD, torch.float32, said.append, lambda device, dtype: [FASTER, SLOWER])
        assert used == {"group norm"}
        assert said == [
            "GPU kernels: group norm 3.00 times as fast as torch's operators on this card, used; bias and ReLU 0.90 "
            "times as fast as torch's operators on this card, not used"
        ]
        assert takes_kernels(map_of_a_card(), "group norm")
        assert not takes_kernels(map_of_a_card(), "bias and ReLU")
        assert not takes_kernels(map_of_a_card(torch.bfloat16), "group norm")
        assert not takes_kernels(map_of_a_card(channels_last=False), "group norm")

    def test_once_for_a_card_and_a_type(self):
        asked = []

        def trials(device, dtype):
            asked.append(dtype)
            return [FASTER]

        for dtype in (torch.float32, torch.bfloat16, torch.float32):
            assert try_kernels(CARD, dtype, trials=trials) == {"group norm"}
        assert asked == [torch.float32, torch.bfloat16]

    def test_what_is_wrong_is_never_used_and_said(self, monkeypatch):
        monkeypatch.setenv(GPU_KERNELS, "1")
        with pytest.warns(UserWarning, match=r"a card: our kernel for group norm differs .* \(0.5 of its size\)"):
            assert not try_kernels(CARD, torch.float32, trials=lambda *given: [Trial("group norm", False, 0.5, 0.0)])
        assert not takes_kernels(map_of_a_card(), "group norm")

    def test_1_takes_what_is_slower_and_0_nothing(self, monkeypatch):
        monkeypatch.setenv(GPU_KERNELS, "1")
        assert try_kernels(CARD, torch.float32, trials=lambda *given: [FASTER, SLOWER]) == {
            "group norm", "bias and ReLU",
        }  # fmt: skip
        assert takes_kernels(map_of_a_card(), "bias and ReLU")
        monkeypatch.setenv(GPU_KERNELS, "0")
        assert not takes_kernels(map_of_a_card(), "group norm")
        assert not try_kernels(CARD, torch.bfloat16, trials=lambda *given: pytest.fail("tried"))

    def test_a_card_that_triton_does_not_know_is_said_once(self):
        def fails(device, dtype):
            raise RuntimeError("no such instruction\nand more")

        with pytest.warns(
            UserWarning, match=r"a card: our kernels cannot be used \(no such instruction\): torch's"
        ) as one:
            assert not try_kernels(CARD, torch.float32, trials=fails)
        assert len(one) == 1
        assert not try_kernels(CARD, torch.float32, trials=fails)

    def test_too_little_memory_is_said_and_decides_nothing(self, recwarn):
        def full(device, dtype):
            raise torch.OutOfMemoryError("out of memory")

        said = []
        assert not try_kernels(CARD, torch.float32, said.append, full)
        assert said == ["GPU kernels: too little memory is free to try them: torch's operators are used"]
        assert not recwarn
        assert try_kernels(CARD, torch.float32, trials=lambda *given: [FASTER])

    def test_what_is_hardly_faster_is_not_used(self):
        assert not try_kernels(CARD, torch.float32, trials=lambda *given: [FASTER._replace(gain=1.04)])

    def test_a_network_that_has_such_layers_already_is_tried_in_another_type(self, monkeypatch):
        asked, network = [], torch.nn.Sequential(torch.nn.GroupNorm(2, 4))
        monkeypatch.setattr("boxwright.nn.kernel_layers.try_kernels", lambda device, dtype, log: asked.append(dtype))
        for dtype in (torch.float32, torch.bfloat16):
            use_tried_kernels(network, CARD, dtype)
        assert asked == [torch.float32, torch.bfloat16]

    def test_layers_ask_for_their_own_kernel(self, monkeypatch):
        asked = []

        def none(maps, kernel):
            asked.append(kernel)
            return False

        monkeypatch.setattr("boxwright.nn.rectify.takes_kernels", none)
        monkeypatch.setattr("boxwright.nn.group_norm.takes_kernels", none)
        rectified(torch.nn.Conv2d(2, 2, 3), torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2))
        assert set(asked) == {"bias and ReLU"}
        asked.clear()
        GroupNorm(1, 2)(torch.zeros(1, 2, 4, 4))
        assert asked == ["group norm"]

    def test_compiled_networks_and_empty_maps_take_none(self, monkeypatch):
        try_kernels(CARD, torch.float32, trials=lambda *given: [FASTER])
        maps = map_of_a_card()
        maps.numel = lambda: 0
        assert not takes_kernels(maps, "group norm")
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not takes_kernels(map_of_a_card(), "group norm")

    def test_a_cpu_tries_nothing(self):
        assert not try_kernels(CPU, torch.float32, trials=lambda *given: pytest.fail("tried"))
        use_tried_kernels(torch.nn.Sequential(torch.nn.GroupNorm(2, 4)), CPU, torch.float32, pytest.fail)

    def test_a_network_without_such_layers_tries_nothing(self, monkeypatch):
        monkeypatch.setattr("boxwright.nn.kernel_layers.try_kernels", lambda *given: pytest.fail("tried"))
        use_tried_kernels(torch.nn.Sequential(torch.nn.ReLU()), CARD, torch.float32)

    def test_one_with_them_does(self, monkeypatch):
        asked = []
        monkeypatch.setattr("boxwright.nn.kernel_layers.try_kernels", lambda *given: asked.append(given))
        use_tried_kernels(torch.nn.Sequential(torch.nn.GroupNorm(2, 4)), CARD, torch.bfloat16, print)
        assert asked == [(CARD, torch.bfloat16, print)]
