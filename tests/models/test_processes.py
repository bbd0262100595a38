"""Two gloo processes, one of which has no box: every detector keeps in step, and nothing hangs."""

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
