"""YAML texts whose aliases stand for far more than they hold are refused before anything is built; others are read."""

import time

import pytest
import yaml

from boxwright.data.formats.yolo import read_yolo
from boxwright.reading.yaml_text import LARGEST_BYTES, parse_yaml, read_yaml
from boxwright.recipes import load_recipe


def multiplied(levels, width, merge=False):
    """Aliases in levels, each of which repeats the one below it `width` times."""
    lines = ["a0: &a0 {k: 1}" if merge else f"a0: &a0 [{', '.join('x' * width)}]"]
    for level in range(1, levels):
        below = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{below}]}}" if merge else f"[{below}]"))
    return "\n".join(lines)


HOSTILE = {
    "aliases": (multiplied(10, 10), "with its aliases written out"),
    "merged aliases": (multiplied(10, 10, merge=True), "with its aliases written out"),
    "an alias within itself": ("a: &a [*a]", r"the alias \*a refers to a value that contains it"),
    "brackets": ("a: " + "[" * 10_000, "nested more than 64 deep"),
    "braces": ("a: " + "{b: " * 10_000, "nested more than 64 deep"),
    "dashes": ("- " * 10_000, "nested more than 64 deep"),
    "size": ("x" * (LARGEST_BYTES + 1), "larger than 8 MiB"),
    "a list as a key": ("? [a]\n: b", "line 1: expected a key, which is text, and found a list or mapping"),
    "a mapping as a key": ("x: 1\n{a: b}: c", "line 2: expected a key, which is text, and found a list or mapping"),
    "an alias as a key": (
        "a: &a [1]\nb: {*a : 1}",
        "line 2: expected a key, which is text, and found a list or mapping",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("words", [False, True])
def test_what_grows_without_end_is_refused_at_once(name, words):
    text, sentence = HOSTILE[name]
    start = time.perf_counter()
    with pytest.raises(ValueError, match=sentence):
        parse_yaml(text, words=words)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("name", HOSTILE)
def test_recipes_overrides_and_data_yaml_are_read_so(tmp_path, name):
    text, sentence = HOSTILE[name]
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"recipe .*data\.yaml: not YAML .*{sentence}"):
        load_recipe(tmp_path / "data.yaml")
    with pytest.raises(ValueError, match=rf"data\.yaml: this is not valid YAML .*{sentence}"):
        read_yolo(tmp_path / "data.yaml")
    with pytest.raises(ValueError, match=rf"override 'optim.lr=.*{sentence}"):
        load_recipe("fcos", [f"optim.lr={text}"])


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "a: !!binary aGk=",
        "a: !!timestamp x",
        "a: 2024-99-99",
        "a: 0b_",
        "a: " + "9" * 5000,
        "!!bool x",
        "!!float x",
        "*nothing",
        "a\0b",
        "a: 1\n---\nb: 1",
    ],
)
def test_other_types_and_wrong_values_are_one_sentence(text):
    with pytest.raises(ValueError, match=r"^.{5,250}$"):
        parse_yaml(text)


def test_usual_texts_are_read_as_pyyaml_reads_them():
    text = "a: &a {b: [1, 2.5, true, null, no, text, 'no']}\nc: {<<: *a, d: *a}\n3: {}\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml(text, words=True) == yaml.load(text, Loader=yaml.BaseLoader)
    assert parse_yaml("") is None


def test_a_file_begins_with_a_byte_order_mark_or_not(tmp_path):
    (tmp_path / "a.yaml").write_bytes("\ufeffnames: [Kätzchen]".encode())
    assert read_yaml(tmp_path / "a.yaml") == {"names": ["Kätzchen"]}
    (tmp_path / "a.yaml").write_bytes(b"names: [\xff]")
    with pytest.raises(ValueError, match="codec can't decode"):
        read_yaml(tmp_path / "a.yaml")


def test_thousands_of_class_names_are_no_reason_to_refuse():
    names = {number: f"class {number}" for number in range(22_000)}
    assert parse_yaml(yaml.safe_dump({"names": names}))["names"] == names
