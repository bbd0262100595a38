"""Single values from files of other tools: one clear meaning is understood, anything else is None."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from boxwright.reading.values import ById, flag, identity, number, numbers, whole_number


@pytest.mark.parametrize(
    "value", [True, False, None, [], {}, [3], "", "x", "1_000", "3,5", "0x10", "٣", "1" * 5000, 10**400]
)
def test_what_is_no_number_is_none(value: object) -> None:
    assert number(value) is None
    assert whole_number(value) is None


@given(st.floats(-1e12, 1e12))
def test_a_number_and_its_text_are_one(value: float) -> None:
    assert number(value) == number(f" {value!r} ") == value


def test_a_number_may_be_infinite_but_a_whole_one_may_not() -> None:
    assert number("-Infinity") == -math.inf
    assert math.isnan(number("nan") or 0)
    assert [whole_number(value) for value in (math.inf, math.nan, 1.5, "1.5", 2.0, "2.0", -3)] == [None] * 4 + [
        2,
        2,
        -3,
    ]


@pytest.mark.parametrize("no", [0, 0.0, "0", "0.0", "false", "False", "no", "", " ", None, False])
@pytest.mark.parametrize("yes", [1, 1.0, "1", "1.0", "true", "TRUE", "yes", True])
def test_a_flag_is_read_by_its_meaning_and_not_as_python_takes_its_text(no: object, yes: object) -> None:
    assert (flag(no), flag(yes)) == (False, True)


@pytest.mark.parametrize("value", [2, -1, 0.5, "maybe", "2", [], [0], {}, math.nan])
def test_a_flag_that_is_none_is_not_guessed(value: object) -> None:
    assert flag(value) is None


def test_a_list_of_numbers_is_all_numbers_or_none() -> None:
    assert numbers([1, "2", 3.5]) == [1.0, 2.0, 3.5]
    assert [numbers(value) for value in ([1, True], [1, None], [[1]], "12", None, {"a": 1})] == [None] * 6


def test_an_id_of_another_kind_is_found_where_it_means_one_thing() -> None:
    known = ById([(1, "a"), ("2", "b"), ("003", "c"), ("x", "d"), ("4", "e"), ("04", "f")])
    assert [known.get(key) for key in ("1", 1.0, 2, 3, "3", "x", "04")] == ["a", "a", "b", "c", "c", "d", "f"]
    assert [known.get(key) for key in (4, "004", True, None, 1.5, [1], {}, "y", "")] == [None] * 9


@given(st.lists(st.one_of(st.integers(), st.text(min_size=1)), unique=True))
@example(["0\x1f"])
def test_every_id_finds_itself(keys: list[int | str]) -> None:
    keys = [key for key in keys if identity(key) == key]
    known = ById((key, key) for key in keys)
    assert [known[key] for key in json.loads(json.dumps(keys))] == keys
