"""Choosing and merging classes, and comparing a model's with the data's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.data.class_selection import check_same_classes, parse_classes, relabelled, select_classes
from boxwright.data.records import Annotation, LabelledFolder, Record, Split
from boxwright.structures import Classes

KNOWN = Classes(("car", "truck", "cat", "a+b,c"), (3, 8, 17, 40))


def data_of(classes: Classes, labels: list[int]) -> LabelledFolder:
    items = tuple(Annotation((0, 0, 5, 5), label, f"a.xml:{n}") for n, label in enumerate(labels))
    record = Record(Path("a.jpg"), "a", None, items, "a.xml")
    return LabelledFolder(Path("."), "voc", classes, {"train": Split("train", (record,), classes)})


def labels_of(data: LabelledFolder) -> list[int]:
    return [item.label for item in data.splits["train"].records[0].annotations]


def test_a_subset_in_the_given_order() -> None:
    chosen = select_classes(data_of(KNOWN, [0, 1, 2, 0]), "cat, car")
    assert (chosen.classes.names, chosen.classes.ids) == (("cat", "car"), (17, 3))
    assert labels_of(chosen) == [1, 0, 1]
    assert chosen.splits["train"].classes == chosen.classes
    assert chosen.notes == ("1 object of 2 classes that are not selected is dropped: truck, a+b,c",)


def test_a_merge_has_the_id_of_its_first_part() -> None:
    chosen = select_classes(data_of(KNOWN, [0, 1, 2]), "cat,truck+car=vehicle")
    assert (chosen.classes.names, chosen.classes.ids) == (("cat", "vehicle"), (17, 8))
    assert labels_of(chosen) == [1, 1, 0]


def test_one_class_renamed_and_one_split_alone() -> None:
    split = data_of(KNOWN, [0, 2]).splits["train"]
    chosen = select_classes(split, "cat=kitten")
    assert chosen.classes == Classes(("kitten",), (17,))
    assert len(chosen.records[0].annotations) == 1


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("trukc", r"no class is called 'trukc'; did you mean 'truck'\? Known classes: car, truck, cat"),
        ("CAR", r"did you mean 'car'\?"),
        ("car+truck", "a merge needs a name, as in car\\+truck=name"),
        ("car=", "the name after = is missing"),
        ("car,car", "'car' is named twice"),
        ("car,car+truck=v", "'car' is named twice"),
        (" , ", "name no class"),
        ("car=x,truck=x", "class names repeat"),
    ],
)
def test_a_wrong_choice_is_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_classes(KNOWN, spec)


def test_a_name_with_a_plus_sign_is_itself() -> None:
    known = Classes.named(["c++", "c"])
    assert parse_classes(known, "c++") == (Classes(("c++",), (0,)), (0, None))


def test_other_names_are_refused_with_both_lists() -> None:
    with pytest.raises(ValueError, match=r"the model has 2 \(a, b\), the data has 2 \(a, c\)"):
        check_same_classes(Classes.named(["a", "b"]), Classes.named(["a", "c"]))


@given(st.permutations(["a", "b", "c", "d"]), st.lists(st.integers(0, 3), max_size=8))
def test_the_models_order_keeps_names_and_ids(order: list[str], labels: list[int]) -> None:
    model = Classes.named(["a", "b", "c", "d"])
    known = Classes(tuple(order), (10, 20, 30, 40))
    data = relabelled(data_of(known, labels), model)
    assert data.classes.names == model.names
    assert [data.classes.names[label] for label in labels_of(data)] == [known.names[label] for label in labels]
    assert [data.classes.ids[label] for label in labels_of(data)] == [known.ids[label] for label in labels]
    assert data.notes == ()


def test_objects_on_one_side_only_are_told_as_such():
    pixels, objects = Classes((), (), stuff=("sky", "road")), Classes(("cat",), (1,), stuff=("sky", "road"))
    with pytest.raises(ValueError, match=r"the data has classes of objects \(cat\), the model labels of pixels only"):
        check_same_classes(pixels, objects)
    with pytest.raises(ValueError, match=r"the model has classes of objects \(cat\), the data labels of pixels only"):
        check_same_classes(objects, pixels)
