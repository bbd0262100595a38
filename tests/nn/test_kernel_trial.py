"""Which kernels are used on a GPU: those that were right and faster there. Ways of a CPU stand in for them here."""

import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from boxwright.nn import gpu_kernels, kernel_trial
from boxwright.nn.gpu_kernels import GPU_KERNELS, takes_kernels
from boxwright.nn.kernel_layers import use_tried_kernels
from boxwright.nn.kernel_trial import Trial, Way, tried, try_kernels

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
        assert tried(CPU, torch.float32, lambda asked: pytest.fail("asked for"), LARGE) == []


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

    def test_without_triton_nothing_is_said(self, recwarn):
        def missing(device, dtype):
            raise ImportError("triton")

        assert not try_kernels(CARD, torch.float32, trials=missing)
        assert not recwarn

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
