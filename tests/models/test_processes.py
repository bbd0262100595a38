"""Two gloo processes, one of which has no box: every detector keeps in step, with graphs too, and nothing hangs."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_detectors import TINY

SCRIPT = Path(__file__).parents[1] / "support" / "two_processes.py"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), folder], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=500)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", TINY)
def test_a_rank_without_boxes_keeps_in_step(ranks, name):
    full, empty = (rank[name] for rank in ranks)
    assert "error" not in full, full
    assert "error" not in empty, empty
    assert full["world"] == empty["world"] == 2
    assert all(math.isfinite(value) for one in (full, empty) for value in one["losses"].values())
    assert full["losses"].keys() == empty["losses"].keys()
    assert all(value == 0 for key, value in empty["losses"].items() if "box" in key or "mask" in key)
    assert full["losses"] != empty["losses"]
    assert full["without"] == empty["without"] == []
    assert full["finite"]
    assert empty["finite"]
    assert full["gradients"] == empty["gradients"]  # averaged: the same on both
    assert full["buffers"] == empty["buffers"]


BAD_LUCK = (
    "CUDA graphs: 2 images of 32 x 32 with up to 8 boxes captured in ",
    "CUDA graphs: this shape cannot be captured (something waits for the device)",
    "CUDA graphs: a step needed the memory of all graphs",
)


def test_captured_steps_equal_eager_ones_and_those_of_ddp(ranks):
    """The processes meet at different shapes, one in a graph and one not; `steps_together.py` says what happens."""
    first, second = (rank["steps"] for rank in ranks)
    for steps in (first, second):
        assert steps["as DDP"]
        assert steps["same losses"]
        assert steps["same weights"]
        assert steps["resumed"]
    assert first["weights"] == second["weights"]  # which they would not be if gradients were not averaged
    assert (first["recorded"], first["replayed"], first["replayed after that"]) == (1, 9, 3)
    assert first["splits"] == 2  # the number of positives, and the gradients
    assert (second["recorded"], second["replayed"]) == (1, 2)
    assert all(line.startswith(start) for line, start in zip(second["lines"], BAD_LUCK, strict=True))


def test_statistics_are_the_mean_of_all_processes(ranks):
    """Those of DDP are of each process's own images."""
    first, second = (rank["steps"] for rank in ranks)
    assert first["statistics of DDP"] != second["statistics of DDP"]
    assert first["statistics of ours"] == second["statistics of ours"]
    means = [(one + other) / 2 for one, other in zip(*(x["statistics of DDP"] for x in (first, second)), strict=True)]
    assert first["statistics of ours"] == pytest.approx(means, rel=1e-4, abs=1e-5)


def test_a_gradient_that_overflows_in_one_process_is_left_out_in_all(ranks):
    first, second = (rank["steps"] for rank in ranks)
    assert first["moved"] == second["moved"] == [True, False, True]
    assert first["scale"] == second["scale"] == 512
    assert first["after overflow"] == second["after overflow"]
