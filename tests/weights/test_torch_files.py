"""Files of torch.save: what they hold comes back, what they name is not built, and a flipped byte is noticed."""

import argparse
import io
import os
import pickle
import time
import zipfile
from pathlib import Path

import pytest
import torch

from boxwright.reading.archives import DamagedError
from boxwright.weights.pickles import ALLOWED, Foreign, foreign_names
from boxwright.weights.torch_files import read_torch_file


class Trap:
    def __init__(self, *made):
        self.made = made

    def __reduce__(self):
        return self.made


class Settings(dict):
    """A class of a trainer, which its file names."""


@pytest.mark.parametrize("new", [True, False])
def test_everything_plain_comes_back_as_torch_reads_it(tmp_path, new):
    grid = torch.arange(12.0).view(3, 4)
    content = {
        "views": [grid.t(), grid[1:, 2:], grid[0, 0]],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 4),
        "whole": torch.tensor([1, -2]),
        "half": torch.ones(3).bfloat16(),
        "flags": torch.tensor([True, False]),
        "expanded": torch.ones(1).expand(5),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "text": ("ä", b"\0", None, 2.5, {1, 2}),
        "shared": grid,
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    found, theirs = read_torch_file(tmp_path / "a.pt"), torch.load(tmp_path / "a.pt", weights_only=True)
    assert found.keys() == theirs.keys()
    for key in set(content) - {"views"}:
        same = (
            torch.equal(found[key], theirs[key]) if isinstance(found[key], torch.Tensor) else found[key] == theirs[key]
        )
        assert same, key
    assert all(
        torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(found["views"], theirs["views"], strict=True)
    )
    assert found["views"][1].untyped_storage().data_ptr() == found["shared"].untyped_storage().data_ptr()


@pytest.mark.parametrize("new", [True, False])
def test_objects_of_other_classes_are_stand_ins_that_were_not_built(tmp_path, new):
    args = argparse.Namespace(lr=0.02, out=Path("x"), more=Settings(a=[1]))
    torch.save({"w": torch.ones(2), "args": args}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    found = read_torch_file(tmp_path / "a.pt")
    assert torch.equal(found["w"], torch.ones(2))
    assert isinstance(found["args"], Foreign)
    assert foreign_names(found) == ["argparse.Namespace"]


@pytest.mark.parametrize("new", [True, False])
def test_nothing_is_called(tmp_path, monkeypatch, new):
    monkeypatch.chdir(tmp_path)
    for index, made in enumerate(
        [(os.system, ("touch PWNED",)), (eval, ("open('PWNED', 'w')",)), (open, ("PWNED", "w"))]
    ):
        path = tmp_path / f"{index}.pt"
        torch.save({"w": torch.ones(2), "x": Trap(*made)}, path, _use_new_zipfile_serialization=new)
        assert foreign_names(read_torch_file(path))
    assert not (tmp_path / "PWNED").exists()


def test_a_program_of_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="TorchScript program, which is code"):
        read_torch_file(tmp_path / "a.pt")


def test_every_flipped_byte_is_noticed_or_changes_nothing(tmp_path):
    content = {"w": torch.arange(40.0), "n": torch.arange(9), "text": "abc"}
    torch.save(content, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    noticed = 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (tmp_path / "b.pt").write_bytes(changed)
        try:
            found = read_torch_file(tmp_path / "b.pt")
        except ValueError:
            noticed += 1
        else:
            assert found["text"] == "abc"
            assert torch.equal(found["w"], content["w"])
            assert torch.equal(found["n"], content["n"])
    assert noticed > len(whole) // 3 // 4


def test_weights_are_compared_with_their_checksums(tmp_path):
    torch.save({"w": torch.arange(4000.0)}, tmp_path / "a.pt")
    changed = bytearray((tmp_path / "a.pt").read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "a.pt").write_bytes(changed)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["w"].shape == (4000,)  # torch does not look
    with pytest.raises(DamagedError, match="0 in it is not what was written"):
        read_torch_file(tmp_path / "a.pt")


def test_a_file_that_was_written_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(9.0)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_torch_file(tmp_path / "a.pt")["w"], torch.arange(9.0))


def changed(path, program):
    """The same archive with another pickle."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, program(content) if name.endswith("data.pkl") else content)


def test_a_tensor_is_never_larger_than_what_the_file_holds(tmp_path):
    torch.save({"w": torch.arange(3000.0)}, tmp_path / "a.pt")
    shown = (3000).to_bytes(2, "little")
    for place in (0, 1):  # the length of its storage, and its shape

        def larger(program, place=place):
            start = [at for at in range(len(program)) if program.startswith(b"M" + shown, at)][place]
            return program[:start] + b"J" + (2**30).to_bytes(4, "little") + program[start + 3 :]

        torch.save({"w": torch.arange(3000.0)}, tmp_path / "a.pt")
        changed(tmp_path / "a.pt", larger)
        with pytest.raises(ValueError, match=r"bytes for 1073741824 numbers|larger than its numbers"):
            read_torch_file(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02" + b"]r\xff\xff\xff\x7f.",  # a table of billions of parts
        b"\x80\x02)" + b"\x85" * 100_000 + b"}sK\x01.",  # a tuple in a tuple in a tuple
        b"\x80\x02]" + b"q\x00h\x00\x85" * 300 + b".",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",  # changes a function
        b"\x80\x02c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__X\x05\x00\x00\x00rot13\x85s\x86b.",
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x85R.",
        b"\x80\x02.",
        b"\x80\x02a.",
        b"",
    ],
)
def test_a_pickle_takes_no_memory_stack_or_function(tmp_path, program):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    changed(tmp_path / "a.pt", lambda _: program)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"^.{5,250}$"):
        read_torch_file(tmp_path / "a.pt")
    assert time.perf_counter() - start < 2
    assert ALLOWED["_codecs", "encode"]("a") == b"a"


def test_members_outside_of_the_archive_and_twice_are_refused(tmp_path):
    for name, sentence in (
        ("../x", "would lie outside of it"),
        ("/x", "would lie outside"),
        ("A/DATA.PKL", "two members"),
    ):
        torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
        with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(ValueError, match=sentence):
            read_torch_file(tmp_path / "a.pt")


def test_an_archive_of_which_far_more_would_come_out_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(200 << 20))
    with pytest.raises(ValueError, match="far more would come out of it"):
        read_torch_file(tmp_path / "a.pt")


def test_a_plain_pickle_is_no_file_of_torch(tmp_path):
    stream = io.BytesIO()
    pickle.dump({"a": 1}, stream)
    (tmp_path / "a.pt").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match=r"no file of torch\.save"):
        read_torch_file(tmp_path / "a.pt")
