"""One word for one thing, and the one of the field: image, ground truth, evaluate; nothing cites hidden documents."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from boxwright.cli.main import VERBS, app

ROOT = Path(__file__).resolve().parents[1]
TEXTS = sorted(
    path
    for pattern in (
        "src/**/*.py",
        "src/**/*.yaml",
        "src/**/*.html",
        "docs/*.md",
        "notebooks/*.py",
        "README.md",
        "CONTRIBUTING.md",
    )
    for path in ROOT.glob(pattern)
)
OLD = {
    "image": r"pictur\w*",
    "ground truth": r"(?<!ground)(?<!ground[ _-])(?<!ground- )truths?(?! value)",
    "the paper, the code base or the law": r"\bseeds? 00\d|pitfall\w*",
    "evaluate": r"\bmeasur\w+ (?:on\b|AP\b|by (?:the )?recall|a checkpoint|a detector)"
    r"|\btrain(?:ed)?,?(?: and)? measur\w+|boxes are measured",
}
"""The word to use, and what stood for it once. Time is measured; AP is evaluated."""
ALLOWED = (
    ("src/boxwright/data/formats/", r'"pictures"'),  # what users call their folders
    ("src/boxwright/recipes/", r'max_pictures|"picture"'),  # keys and values of recipes of version 0.1
    ("src/boxwright/cli/evaluate.py", r"--truth|\btruth\b"),  # the old name of --ground-truth, which still works
)


def old_words(text: str) -> list[str]:
    """What a text says with a word of old, with what stands around it, and the word to use."""
    plain = re.sub(r"\s+(?:# )?", " ", text)
    return [
        f"{plain[max(0, found.start() - 30) : found.end() + 30]!r}: say {word}"
        for word, pattern in OLD.items()
        for found in re.finditer(pattern, plain, re.IGNORECASE)
    ]


def test_old_words_are_found_and_new_ones_are_not() -> None:
    for text in (
        "a Picture", "no_pictures", "the truth", "a truth_box", "seed 001", "Pitfall 3", "measured on val",
        "measures AP", "train and measure", "only boxes are\n    measured",
    ):  # fmt: skip
        assert len(old_words(text)) == 1, text
    for text in (
        "an image", "ground truth", "the ground\n    truth", "GroundTruth", "--ground-truth", "ground_truths",
        "a truth value", "seed 1", "evaluated on val", "time is measured", "measure a few steps",
    ):  # fmt: skip
        assert old_words(text) == [], text


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_the_fields(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    for place, allowed in ALLOWED:
        if name.startswith(place):
            text = re.sub(allowed, "", text)
    assert old_words(text) == []


@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_help_has_the_words_of_the_field(verb: str) -> None:
    result = CliRunner().invoke(app, [*([verb] if verb else []), "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert old_words(result.output) == []


def test_the_old_name_of_an_option_is_hidden_and_works(tmp_path: Path) -> None:
    commands: Any = typer.main.get_command(app)
    (option,) = [one for one in commands.commands["evaluate"].params if one.name == "truth"]
    assert option.hidden
    assert option.opts == ["--truth"]
    missing = tmp_path / "missing"
    for flag in ("--truth", "--ground-truth"):
        result = CliRunner().invoke(app, ["evaluate", flag, str(missing), "--detections", str(missing)])
        assert "no such file or folder of ground truth" in str(result.exception), flag
