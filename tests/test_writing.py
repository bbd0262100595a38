"""Files being written: an error names the file, and a JSON file is whole at every moment."""

import errno
import json
import resource

import pytest

from boxwright.writing import GrowingJson, replacing, writing


@pytest.fixture
def small_disk():
    """No file of this process may grow beyond 8 KiB: the system refuses as a full disk does, in mid-write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_names_the_file_and_takes_half_of_it_away(tmp_path, small_disk):
    file = tmp_path / "labels.txt"
    with pytest.raises(OSError, match=r"labels\.txt") as caught, writing(file):
        file.write_text("x" * 9000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(file))
    assert not file.exists()


def test_a_file_that_cannot_be_opened_keeps_its_name_and_content(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError) as caught, writing(tmp_path / "file"):
        (tmp_path / "file" / "inner").write_text("x")
    assert caught.value.filename == str(tmp_path / "file" / "inner")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_writer_that_cannot_say_why_is_given_words(tmp_path):
    with (
        pytest.raises(OSError, match=r"could not write .*a\.pt \(unexpected pos\); is the disk full"),
        writing(tmp_path / "a.pt"),
    ):
        raise RuntimeError("unexpected pos\nframe #0")


def test_a_file_that_is_replaced_is_whole_at_every_moment(tmp_path, small_disk):
    file = tmp_path / "metrics.json"
    with replacing(file) as partial:
        partial.write_text("{}")
        assert not file.exists()
    with pytest.raises(OSError, match=r"metrics\.json") as caught, replacing(file) as partial:
        partial.write_text("x" * 9000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(file))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("metrics.json", "{}")]


@pytest.mark.parametrize(("brackets", "expected"), [("[]", [1, 2, 3]), ("{}", {"a": 1, "b": 2, "c": 3})])
def test_json_is_whole_after_each_entry(tmp_path, brackets, expected):
    file = GrowingJson(tmp_path / "a.json", brackets)
    assert json.loads(file.path.read_text()) == type(expected)()
    entries = ["1,\n2", "", "3"] if brackets == "[]" else ['"a": 1', '"b": 2', '"c": 3']
    for count, entry in enumerate(entries, 1):
        file.add(entry)
        assert len(json.loads(file.path.read_text())) >= count - 1
    assert json.loads(file.path.read_text()) == expected


@pytest.mark.parametrize("size", [90, 100, 127, 128, 1000])
def test_json_is_whole_where_the_disk_is_full_in_the_middle_of_an_entry(tmp_path, small_disk, size):
    file, entry = GrowingJson(tmp_path / "a.json", "[]"), json.dumps("x" * size)
    added = 8192 // (len(entry) + 2)  # a comma and a line end; the end of the file may take the room of the last one
    for _ in range(added - 1):
        file.add(entry)
    with pytest.raises(OSError, match=r"a\.json"):
        file.add("1" * 3 * size)
    assert json.loads(file.path.read_text()) == ["x" * size] * (added - 1)
