"""Our GPU kernels equal torch's operators: by Triton's interpreter here, and on a GPU where there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from boxwright.nn import gpu_kernels, kernel_trial
from boxwright.nn.group_norm import GroupNorm, NormalisedGroups
from boxwright.nn.kernel_layers import Tower, use_kernels
from boxwright.nn.kernel_trial import tried
from boxwright.nn.rectify import rectified
from boxwright.nn.towers import conv_tower

CHECKS = Path(__file__).parents[1] / "support" / "kernel_checks.py"
LAST = torch.channels_last
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


QUICK = (
    "group_norm_in_float32_is_that_in_float64",
    "group_norm_in_bf16_is_that_in_float32_rounded_once",
    "group_norm_of_numbers_far_from_0_loses_nothing",
    "group_norm_keeps_channels_last_and_takes_any_gradient",
    "what_is_not_a_number_stays_so",
    "rectified_is_the_plain_way_bit_for_bit",
    "rectified_without_a_shortcut_or_a_bias",
    "rectified_is_written_over_its_maps",
    "what_lies_around_maps_is_neither_read_nor_written",
    "what_kernels_compute_passes_their_trial",
)
LONG = (
    "group_norm_is_torchs_to_float64",
    "group_norm_has_the_gradients_of_its_differences",
    "group_norm_of_many_tiles_sums_all_of_them",
)


def interpreted(names):
    """What went wrong in each check, or None."""
    pytest.importorskip("triton", reason="torch comes with Triton on Linux")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, str(CHECKS), *names], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def quick():
    return interpreted(QUICK)


@pytest.mark.parametrize("name", QUICK)
def test_interpreted(name, quick):
    assert quick[name] is None, quick[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_interpreted_for_longer(name):
    assert interpreted([name]) == {name: None}


class TestPlainWay:
    def test_a_cpu_takes_torchs_operators(self):
        norm, maps = GroupNorm(32, 64), torch.randn(2, 64, 5, 7).to(memory_format=LAST)
        assert not gpu_kernels.takes_kernels(maps, "group norm")
        assert torch.equal(norm(maps), F.group_norm(maps, 32, norm.weight, norm.bias))
        assert torch.equal(norm.of(maps, rectifies=True), F.relu(norm(maps)))

    @pytest.mark.parametrize("kind", ["none", "gn", "frozen_bn", "bn"])
    def test_a_tower_computes_what_it_did(self, kind):
        torch.manual_seed(0)
        tower, maps = conv_tower(4, [8, 8], kind), torch.randn(2, 4, 5, 5)
        wanted, names = tower(maps), list(tower.state_dict())
        use_kernels(tower)
        assert isinstance(tower, Tower) is (kind in ("none", "gn"))
        assert torch.equal(tower(maps), wanted)
        assert list(tower.state_dict()) == names

    def test_an_empty_batch_stays_empty(self):
        use_kernels(tower := conv_tower(8, [8], "gn"))
        assert tower(torch.zeros(0, 8, 4, 4)).shape == (0, 8, 4, 4)

    def test_relu_is_never_left_out(self):
        use_kernels(tower := nn.Sequential(nn.Conv2d(2, 3, 1), nn.Identity(), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.ReLU()))
        maps = torch.randn(1, 2, 4, 4)
        assert torch.equal(tower(maps), tower[3](tower[0](maps).relu()).relu())
        alone = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 3, 1))
        assert use_kernels(alone) == 0

    def test_a_shortcut_is_added_before_relu(self):
        layer, maps, shortcut = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)
        assert torch.equal(rectified(layer, maps, shortcut), F.relu(layer(maps) + shortcut))


@pytest.fixture
def kernels_on(monkeypatch):
    """Every kernel, on a GPU, in all types."""
    monkeypatch.setenv(gpu_kernels.GPU_KERNELS, "1")
    monkeypatch.setattr(gpu_kernels, "IN_USE", in_use := {})
    monkeypatch.setattr(kernel_trial, "IN_USE", in_use)
    for dtype in (torch.float32, torch.bfloat16):
        kernel_trial.try_kernels(torch.device("cuda"), dtype)


@needs_gpu
@pytest.mark.usefixtures("kernels_on")
class TestOnAGPU:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_kernels_are_right_at_their_trial(self, dtype):
        found = tried(torch.device("cuda"), dtype)
        assert [(trial.kernel, trial.right) for trial in found] == [("group norm", True), ("bias and ReLU", True)], (
            found
        )

    def test_chance_is_left_as_it_was(self):
        torch.cuda.manual_seed(3)
        wanted = torch.rand(4, device="cuda")
        torch.cuda.manual_seed(3)
        tried(torch.device("cuda"), torch.float32)
        assert torch.equal(torch.rand(4, device="cuda"), wanted)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_group_norm_is_torchs(self, dtype):
        torch.manual_seed(0)
        maps = torch.randn(3, 96, 37, 41, device="cuda").to(dtype).to(memory_format=LAST).requires_grad_()
        norm = GroupNorm(32, 96).cuda()
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        given = torch.randn_like(maps)
        found = NormalisedGroups.apply(maps, norm.weight, norm.bias, 32, norm.eps, True)
        wanted = F.relu(F.group_norm(maps.double(), 32, norm.weight.double(), norm.bias.double(), norm.eps))
        leaves = (maps, norm.weight, norm.bias)
        ours, theirs = torch.autograd.grad(found, leaves, given), torch.autograd.grad(wanted, leaves, given.double())
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=LAST)
        step = 2**-8 if dtype == torch.bfloat16 else 1e-5
        for one, other in ((found, wanted), *zip(ours, theirs, strict=True)):
            scale = other.abs() if dtype == torch.bfloat16 and one.dim() == 4 else other.abs().max()
            assert ((one.double() - other.double()).abs() <= step * scale + 1e-4).all()

    @pytest.mark.parametrize("norm", ["none", "gn"])
    def test_a_tower_learns_what_it_does_without_kernels(self, norm, monkeypatch):
        torch.manual_seed(0)
        tower = conv_tower(64, [64, 64], norm).cuda().to(memory_format=LAST)
        use_kernels(tower)
        maps = torch.randn(2, 64, 19, 23, device="cuda").to(memory_format=LAST)

        def learnt():
            tower.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                out = tower(maps)
            (out.float() ** 2).mean().backward()
            return [out, *(parameter.grad for parameter in tower.parameters())]

        found = learnt()
        monkeypatch.setenv(gpu_kernels.GPU_KERNELS, "0")
        for one, other in zip(found, learnt(), strict=True):
            assert (one.float() - other.float()).abs().max() <= 0.03 * other.float().abs().max()

    def test_is_captured_as_a_graph(self):
        tower = conv_tower(64, [64], "gn").cuda().to(memory_format=LAST).bfloat16()
        use_kernels(tower)
        maps = torch.randn(2, 64, 8, 8, device="cuda", dtype=torch.bfloat16).to(memory_format=LAST)
        with torch.no_grad():
            wanted = tower(maps)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = tower(maps)
            graph.replay()
        assert torch.equal(found, wanted)
