"""Names are data: whatever a class or an image is called, result files keep it, and no two share a file."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxwright.evaluation import result_files
from boxwright.evaluation.joining import Image, join_results, read_text_ground_truth
from boxwright.evaluation.result_files import read_results
from boxwright.evaluation.written_names import file_stems, name_of_row, names_of_stems, row_name
from boxwright.structures import Classes, Detections, GroundTruth

ODD = ["w/o hat", "w-o hat", "w%2Fo hat", "Hat", "hat", "two  spaces", " edge ", "a\nb", "a%0Ab", "..", "[/bold]",
       "$x$", "é", "x" * 400, "x" * 399 + "y", "100% wool", "car 5", "\u2028", "C:\\nul"]  # fmt: skip
NAMES = st.lists(st.text(min_size=1, max_size=12), unique=True, min_size=1, max_size=6)


@given(NAMES)
def test_file_names_are_all_different_and_read_back(names):
    stems = file_stems(names)
    assert len({stem.casefold() for stem in stems}) == len(names)
    assert list(names_of_stems(stems, names).values()) == names
    assert not any(set(stem) & set('/\\:*?"<>|\n\0') for stem in stems)


@given(st.text(min_size=1))
def test_a_row_gives_its_name_back(name):
    written = row_name(name)
    assert name_of_row(written) == name
    assert written == written.strip()
    assert len(written.splitlines()) == 1


def test_a_usual_name_is_written_as_it_is():
    usual = ["traffic light", "cat", "w-o mask", "été", "a_b", "tool#3", "two  spaces"]
    assert file_stems(usual) == usual
    assert [row_name(name) for name in [*usual, "w/o mask", "50%"]] == [*usual, "w/o mask", "50%"]


def test_a_file_that_another_tool_named_is_the_class_that_it_can_only_be():
    assert names_of_stems(["w-o hat"], ["w/o hat", "hat"]) == {"w-o hat": "w/o hat"}
    assert names_of_stems(["a%2Fb"], ["a%2Fb"]) == {"a%2Fb": "a%2Fb"}
    assert names_of_stems(["unknown%20one"], ["hat"]) == {"unknown%20one": "unknown one"}


@pytest.mark.parametrize("kind", ["text", "voc"])
def test_odd_class_names_round_trip(tmp_path, kind):
    classes = Classes.named(ODD)
    count = len(classes)
    boxes = torch.tensor([[5.0, 5.0, 30.0, 40.0]]).expand(count, 4) + torch.arange(count)[:, None]
    found = Detections(boxes, torch.linspace(0.9, 0.1, count), torch.arange(count), (100, 100), classes)
    if kind == "text":
        result_files.write_text_results(tmp_path, [found], ["one"])
    else:
        result_files.write_voc_results(tmp_path, [found], ["one  image"], classes)
        assert len(list(tmp_path.iterdir())) == count
    table = read_results(tmp_path, classes.names)
    assert table.format == kind
    joined = join_results(table, [Image(1, "one.png" if kind == "text" else "one  image.png")], classes)
    assert joined.warnings == ()
    assert joined.detections[0].labels.tolist() == list(range(count))


def test_odd_class_names_of_ground_truth_round_trip(tmp_path):
    classes = Classes.named(ODD)
    ground_truth = GroundTruth.of([[1.0, 1, 9, 9]] * len(ODD), range(len(ODD)), [True, False] * 9 + [True])
    result_files.write_text_ground_truth(tmp_path, [ground_truth], ["one"], classes)
    text = read_text_ground_truth(tmp_path)
    assert [text.classes.names[label] for label in text.ground_truths[0].labels.tolist()] == ODD
    assert torch.equal(text.ground_truths[0].ignore, ground_truth.ignore)
