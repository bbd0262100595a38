"""Changed and hostile files, by the thousand: each is read, or refused in one sentence; none runs code or takes long.

The corpus is our own: small files of each kind, changed at random places. `make test-long` runs it with a fixed budget.
"""

import argparse
import io
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from boxwright.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from boxwright.convert.files import convert_file
from boxwright.data.formats.yolo_layout import find_layout
from boxwright.data.proposals import read_proposals, write_proposals
from boxwright.recipes import check_recipe, dump_recipe, load_recipe
from boxwright.structures import Classes, Detections
from boxwright.weights.backbone_files import read_tensors

pytestmark = pytest.mark.slow
EXAMPLES = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)
SECONDS = 20


def changed(content, changes):
    """Bytes with some of them set, removed or doubled, or the end cut off; places are fractions of the length."""
    content = bytearray(content)
    for kind, share, value in changes:
        place = int(share * len(content))
        if kind == "set" and content:
            content[min(place, len(content) - 1)] = value
        elif kind == "cut":
            content = content[:place]
        elif kind == "out":
            del content[place : place + value]
        elif kind == "twice":
            content[place:place] = content[place : place + value]
    return bytes(content)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "set", "set", "cut", "out", "twice"]), st.floats(0, 1), st.integers(0, 255)
    ),
    min_size=1,
    max_size=4,
)


def held(read, path):
    """Read a file: its content or one sentence that names it, and neither takes long."""
    start = time.perf_counter()
    found, sentence = None, path.name
    try:
        found = read(path)
    except (ValueError, OSError) as error:
        sentence = str(error)
    assert path.name in sentence
    assert "\n" not in sentence
    assert len(sentence) < 2000
    assert time.perf_counter() - start < SECONDS
    return found


class Trap:
    """Leaves a file behind where it is built."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return open, (str(self.place), "w")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small file of each kind, by its name."""
    folder = tmp_path_factory.mktemp("corpus")
    torch.manual_seed(0)
    recipe = load_recipe("fcos-small", ["model.backbone=resnet18"])
    weights = {"a.weight": torch.rand(3, 4), "a.steps": torch.tensor(7), "b": torch.rand(2).half()}
    training = {"progress": {"step": 3}, "optimizer": {"state": {0: {"exp_avg": torch.rand(3)}}}}
    save_checkpoint(
        Checkpoint(recipe, Classes(("a", "b"), (1, 7)), weights, 0.5, {"AP": 0.1}, training), folder / "own.pt"
    )
    trap = Trap(folder / "PWNED")
    foreign = {"model": weights, "args": argparse.Namespace(a=1), "more": [trap], "epoch": 3}
    torch.save(foreign, folder / "new.pth")
    torch.save(foreign, folder / "old.pth", _use_new_zipfile_serialization=False)
    arrays = {"model": {name: value.numpy() for name, value in weights.items()}, "matching_heuristics": True}
    for protocol in (0, 2, 4, 5):
        (folder / f"arrays{protocol}.pkl").write_bytes(pickle.dumps({**arrays, "x": trap}, protocol=protocol))
    save_file(weights, folder / "a.safetensors")
    found = Detections(
        torch.tensor([[1.0, 2, 30, 40]]), torch.tensor([0.5]), torch.tensor([0]), (60, 80), Classes(("object",), (1,))
    )
    write_proposals(folder / "p.npz", [("a/b.jpg", found), ("c.jpg", found)])
    yield folder
    assert not (folder / "PWNED").exists()


READERS = {
    "own.pt": load_checkpoint,
    "new.pth": read_tensors,
    "old.pth": read_tensors,
    "a.safetensors": read_tensors,
    **{f"arrays{protocol}.pkl": read_tensors for protocol in (0, 2, 4, 5)},
    "p.npz": read_proposals,
}


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_read_or_refused(corpus, tmp_path, name):
    whole = (corpus / name).read_bytes()
    assert held(READERS[name], corpus / name) is not None

    @EXAMPLES
    @given(CHANGES)
    def every(changes):
        path = tmp_path / name
        path.write_bytes(changed(whole, changes))
        held(READERS[name], path)
        if name.endswith((".pth", ".pkl", ".safetensors")):
            held(convert_file, path)

    every()


def test_a_changed_checkpoint_is_the_same_or_refused(corpus, tmp_path):
    whole, path = (corpus / "own.pt").read_bytes(), tmp_path / "own.pt"
    good = load_checkpoint(corpus / "own.pt")

    @EXAMPLES
    @given(st.integers(0, len(whole) - 1), st.integers(0, 7))
    def every(place, bit):
        content = bytearray(whole)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        found = held(load_checkpoint, path)
        if found is not None:
            assert found.recipe == good.recipe
            assert all(torch.equal(found.weights[name], value) for name, value in good.weights.items())

    every()


@pytest.mark.parametrize("name", ["own.pt", "new.pth"])
def test_a_changed_pickle_with_the_right_checksum_is_read_or_refused(corpus, tmp_path, name):
    with zipfile.ZipFile(corpus / name) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    program = next(member for member in members if member.endswith("data.pkl"))

    @EXAMPLES
    @given(CHANGES)
    def every(changes):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, changed(content, changes) if member == program else content)
        held(READERS[name], tmp_path / name)

    every()


def test_a_safetensors_header_of_any_numbers_is_read_or_refused(tmp_path):
    number = st.integers(-2, 40) | st.sampled_from([2**31, 2**63, -(2**40)])
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "U8", "X", 3]),
            "shape": st.lists(number, max_size=3) | number,
            "data_offsets": st.lists(number, min_size=1, max_size=3),
        }
    )

    @EXAMPLES
    @given(st.dictionaries(st.text(max_size=3), entry, max_size=3), st.integers(0, 48), st.integers(-3, 3))
    def every(header, room, off):
        text = str(header).replace("'", '"').encode()
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", max(0, len(text) + off)) + text + bytes(room))
        held(read_tensors, path)

    every()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["fcos", "bn"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=4),
    max_leaves=12,
)


def places(data, path=()):
    for key, value in data.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("name", ["fcos-small", "mask-rcnn-small", "fast-rcnn-small"])
def test_a_recipe_of_any_values_is_taken_or_refused(name):
    full = yaml.safe_dump(dump_recipe(load_recipe(name)))

    @EXAMPLES
    @given(st.lists(st.tuples(st.sampled_from(list(places(yaml.safe_load(full)))), VALUES), min_size=1, max_size=3))
    def every(changes):
        data = yaml.safe_load(full)
        for path, value in changes:
            below = data
            for key in path[:-1]:
                below = below.get(key) if isinstance(below, dict) else None
            if isinstance(below, dict):
                below[path[-1]] = value
        sentence = "recipe taken"
        try:
            check_recipe(data, "x")
        except ValueError as error:
            sentence = str(error)
        assert sentence.startswith("recipe ")
        assert "\n" not in sentence

    every()


YAML_TEXT = st.text(alphabet=list("[]{}:,-?&*!|>'\"#%@ \n\tab01<~.e\\"), max_size=60)


def test_yaml_of_any_text_is_read_or_refused(tmp_path):
    @EXAMPLES
    @given(YAML_TEXT)
    def every(text):
        path = tmp_path / "data.yaml"
        path.write_text(text, encoding="utf-8")
        held(find_layout, path)
        held(load_recipe, path)

    every()


def test_arrays_of_any_header_are_read_or_refused(corpus, tmp_path):
    with np.load(corpus / "p.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}

    @EXAMPLES
    @given(st.sampled_from(sorted(arrays)), CHANGES)
    def every(name, changes):
        path = tmp_path / "p.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for other, array in arrays.items():
                stream = io.BytesIO()
                np.save(stream, array)
                content = stream.getvalue()
                archive.writestr(f"{other}.npy", changed(content, changes) if other == name else content)
        held(read_proposals, path)

    every()
