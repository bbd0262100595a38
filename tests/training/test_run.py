"""Where a run computes and in what arithmetic: each run of a process anew, a resumed one as it began."""

import os

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes import load_recipe, recipe_names
from boxwright.structures import Classes
from boxwright.training import run as run_module
from boxwright.training.accelerator import choose_accelerator
from boxwright.training.prepare import worker_count
from boxwright.training.run import train
from boxwright.training.run_folder import newest_run


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


@pytest.mark.parametrize("device", [None, "cuda:1", "auto"])
@pytest.mark.parametrize("saved", ["bf16", "fp32"])
def test_a_resumed_run_goes_on_in_the_arithmetic_that_it_began_with_on_any_device(tmp_path, monkeypatch, saved, device):
    class AskedError(Exception):
        pass

    def asked(device, precision):
        raise AskedError(f"{precision} on {device}")

    monkeypatch.setattr(run_module, "choose_accelerator", asked)
    recipe = load_recipe("fcos-small")
    assert recipe.precision == "auto"
    arguments = {"data": str(tmp_path), "device": "cpu"}
    training = {"precision": saved, "arguments": arguments, "progress": {"steps": 4, "fixed": True, "step": 1}}
    path = tmp_path / "run" / "weights" / "last.pt"
    path.parent.mkdir(parents=True)
    save_checkpoint(Checkpoint(recipe, Classes.named("ab"), {"a": torch.zeros(1)}, training=training), path)
    with pytest.raises(AskedError, match=f"{saved} on {device or 'cpu'}$"):
        train(resume=path.parent.parent, device=device)


def test_from_python_too_what_would_do_nothing_beside_resume_is_refused(tmp_path):
    with pytest.raises(ValueError, match="so recipe, overfit, minutes, seed would have no effect"):
        train("retinanet", resume=tmp_path, overfit=0, minutes=3, seed=1, device="cpu", data=tmp_path)


@pytest.mark.parametrize(
    "given",
    [{"recipe": "fcos"}, {"seed": 0}, {"train_split": "train"}, {"val_split": "val"}],
    ids=lambda given: [*given],
)
def test_beside_resume_the_default_is_refused_too_where_it_is_given(tmp_path, given):
    """The run may have begun with something else."""
    with pytest.raises(ValueError, match=f"so {next(iter(given))} would have no effect"):
        train(resume=tmp_path, **given)


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if name.endswith("-shapes")])
def test_the_sanity_check_shows_images_at_one_size(tmp_path, monkeypatch, recipe):
    seen = []
    monkeypatch.setattr(run_module, "_run", lambda start, *_: seen.append(start.recipe.data.train_scales))
    train(recipe, tmp_path, overfit=8, runs=tmp_path.parent / "runs")
    train(recipe, tmp_path, overfit=8, runs=tmp_path.parent / "runs", overrides=["data.train_scales=[0.5]"])
    assert seen == [(), (0.5,)]


def test_loader_processes_are_shared_out_among_the_processes_of_a_machine(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(17), raising=False)
    assert worker_count(None, gpu, cached=False) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert worker_count(None, gpu, cached=False) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert worker_count(None, gpu, cached=False) == 1
    assert worker_count(5, gpu, cached=False) == 5


def test_the_newest_run_is_one_that_is_not_finished(tmp_path):
    for number, (name, finished) in enumerate([("a", False), ("b", False), ("c", True)]):
        (tmp_path / name / "weights").mkdir(parents=True)
        last = tmp_path / name / "weights" / "last.pt"
        last.write_bytes(b"x")
        os.utime(last, (number, number))
        if finished:
            (tmp_path / name / "metrics.json").write_text("{}")
    assert newest_run(tmp_path, None) == tmp_path / "b"
    (tmp_path / "b" / "metrics.json").write_text("{}")
    assert newest_run(tmp_path, None) == tmp_path / "a"
    (tmp_path / "a" / "metrics.json").write_text("{}")
    assert newest_run(tmp_path, None) == tmp_path / "c"  # so that it can be said that it is finished
