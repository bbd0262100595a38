"""Where a run computes and in what arithmetic: each run of a process anew, a resumed one as it began."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes import load_recipe
from boxwright.structures import Classes
from boxwright.training import run as run_module
from boxwright.training.prepare import worker_count
from boxwright.training.run import choose_accelerator, train


@pytest.fixture
def other_state():
    """What an earlier run of the process left in accelerate."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_second_run_of_a_process_has_its_own_arithmetic(other_state):
    assert other_state.mixed_precision == "bf16"
    accelerator, precision = choose_accelerator("cpu", "fp32")
    assert (accelerator.mixed_precision, accelerator.device.type, precision) == ("no", "cpu", "fp32")


def test_what_fits_is_left_alone(other_state):
    choose_accelerator("cpu", "fp32")
    kept = AcceleratorState._shared_state
    before = dict(kept)
    choose_accelerator("cpu", "bf16")  # ours, and not accelerate's
    assert AcceleratorState._shared_state is kept
    assert kept == before


@pytest.mark.parametrize("saved", ["bf16", "fp32"])
def test_a_resumed_run_goes_on_in_the_arithmetic_that_it_began_with(tmp_path, monkeypatch, saved):
    class AskedError(Exception):
        pass

    def asked(device, precision):
        raise AskedError(precision)

    monkeypatch.setattr(run_module, "choose_accelerator", asked)
    recipe = load_recipe("fcos-small")
    assert recipe.precision == "auto"
    arguments = {"data": str(tmp_path), "device": "cpu"}
    training = {"precision": saved, "arguments": arguments, "progress": {"finished": False, "step": 1}}
    path = tmp_path / "run" / "weights" / "last.pt"
    path.parent.mkdir(parents=True)
    save_checkpoint(Checkpoint(recipe, Classes.named("ab"), {"a": torch.zeros(1)}, training=training), path)
    with pytest.raises(AskedError, match=saved):
        train(resume=path.parent.parent)


def test_loader_processes_are_shared_out_among_the_processes_of_a_machine(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(17), raising=False)
    assert worker_count(None, gpu, cached=False) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert worker_count(None, gpu, cached=False) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert worker_count(None, gpu, cached=False) == 1
    assert worker_count(5, gpu, cached=False) == 5
