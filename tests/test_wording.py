"""Counts and lists in sentences."""

import re
from pathlib import Path

import pytest

import boxwright
from boxwright.wording import counted, listed, plural

PACKAGE = Path(boxwright.__file__).parent


@pytest.mark.parametrize("noun", ["class", "box", "image", "entry", "key", "match", "step", "process"])
def test_one_is_singular_and_all_else_plural(noun: str) -> None:
    assert counted(1, noun) == counted(1.0, noun) == f"1 {noun}"
    assert {counted(n, noun).split()[1] for n in (0, 2, 3.5, 100)} == {plural(noun)}
    assert plural(noun) != noun


def test_long_lists_are_cut_and_say_so() -> None:
    assert listed(range(3)) == "0, 1, 2"
    assert listed(range(100_000), 3) == "0, 1, 2 and 99997 more"
    assert len(listed(["x" * 10_000])) == 200


def test_no_message_counts_classes_in_the_plural_only() -> None:
    """The noun that a user's first dataset has one of."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\{len\([^{}]*\)\} classes\b", line)
    ]
    assert found == []
