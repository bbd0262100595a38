"""Commands where locale, home folder and package folder are not as on the machine that they were written on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import boxwright
from boxwright.checkpoint import load_checkpoint

NAMES = ("čáp", "ジャガイモ")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0"}
"""A locale in which Python can neither print nor open a name beyond ASCII."""


def command(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, one thread, in this process's environment but for what is given."""
    return subprocess.run(
        [sys.executable, "-m", "boxwright", *map(str, words)], capture_output=True, encoding="utf-8", timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(voc, tmp_path_factory):
    return voc(tmp_path_factory.mktemp("data") / "voc", names=NAMES)


@pytest.mark.slow
def test_a_terminal_of_ascii_shows_other_names_as_escapes(data):
    shown = command("inspect", data, **ASCII)
    assert shown.returncode == 0, shown.stderr
    assert "\\u30b8" in shown.stdout
    parsed = json.loads(command("inspect", data, "--json", **ASCII).stdout)
    assert set(NAMES) <= set(str(parsed).replace("'", " ").split())


def training(data, runs):
    words = ["train", "fcos-shapes", "schedule.steps=1", "validation.times=1", "data.workers=0", "data.batch_size=2"]
    return [*words, "--data", str(data), "--device", "cpu", "--runs", str(runs)]


def test_in_ascii_a_run_is_refused_whose_name_cannot_be_written(data, tmp_path):
    refused = command(*training(data, tmp_path / "runs"), "--name", "tä", **ASCII)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("boxwright: ")
    assert "must be UTF-8" in refused.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_in_ascii_a_run_trains(data, tmp_path):
    words = [*training(data, tmp_path / "runs"), "--name", "t"]
    trained = command(*words, **ASCII, HOME="/nonexistent", TZ="Asia/Kathmandu", COLUMNS="40")
    assert trained.returncode == 0, trained.stderr
    assert set(load_checkpoint(tmp_path / "runs" / "t" / "weights" / "last.pt").classes.names) == set(NAMES)


@pytest.mark.skipif(os.name == "nt", reason="folders have no such permissions")
def test_the_package_and_home_need_not_be_writable(data, tmp_path):
    """Root may write everywhere, so that there the package's folder is compared instead."""
    package = tmp_path / "site" / "boxwright"
    shutil.copytree(Path(boxwright.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    home = tmp_path / "home"
    home.mkdir()
    folders = [home, *(path for path in (tmp_path / "site").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    before = sorted((tmp_path / "site").rglob("*"))
    try:
        environment = {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
        done = command("inspect", data, "--decode", **environment)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert (sorted((tmp_path / "site").rglob("*")), list(home.iterdir())) == (before, [])
