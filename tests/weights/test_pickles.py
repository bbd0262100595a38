import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from boxwright.weights.backbone_files import read_tensors
from boxwright.weights.pickles import read_pickle


class Runs:
    """What a malicious file holds: loading it calls something."""

    def __init__(self, call, *arguments):
        self.made = call, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_numbers_text_and_containers_come_back(tmp_path, protocol):
    content = {
        "model": OrderedDict(w=np.arange(6, dtype=np.float16).reshape(2, 3), flags=np.array([True, False])),
        "numbers": [1, 2.5, np.float32(3.5), None, True],
        "text": ("Grüße", b"\xff\x00"),
        "set": {1, 2},
    }
    path = tmp_path / "good.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_pickle(path)
    assert found["model"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["model"]["w"].dtype == np.float16
    assert found["numbers"] == [1, 2.5, 3.5, None, True]
    assert (found["text"], found["set"]) == (("Grüße", b"\xff\x00"), {1, 2})


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Runs(os.system, "touch PWNED"), r"posix\.system"),
        (Runs(eval, "1 + 1"), r"builtins\.eval"),
        (Runs(getattr, "a", "upper"), r"builtins\.getattr"),
        (Runs(np.load, "x.npy"), r"numpy\S*\.load"),
        (Runs(torch.load, "x.pt"), r"torch\S*\.load"),
        (Runs(exec, "pass"), r"builtins\.exec"),
    ],
)
def test_a_pickle_that_runs_something_is_refused_by_its_name(tmp_path, call, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.ones(2), "x": call}}))
    with pytest.raises(ValueError, match=rf"bad\.pkl: refused: this pickle asks for ({name})"):
        read_pickle(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.pkl"]


def test_nothing_runs_before_the_refusal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Runs(os.system, "touch PWNED")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth: refused: .* asks for (posix|nt)\.system"):
        read_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": np.ones(9)})[:-20]])
def test_what_is_damaged_is_said_so(tmp_path, content):
    path = tmp_path / "cut.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cut\.pkl: (not a pickle of plain data, or damaged|refused)"):
        read_pickle(path)


def test_other_codecs_and_object_scalars_are_refused(tmp_path):
    path = tmp_path / "codec.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(ValueError, match="the codec 'rot13'"):
        read_pickle(path)
