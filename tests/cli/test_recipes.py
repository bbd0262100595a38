"""The verb recipes: its list, its YAML that train takes back, its explanation of keys."""

from pathlib import Path

import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner, Result

from boxwright.cli.recipes import recipes
from boxwright.recipes import check_recipe, load_recipe, recipe_names


def call(*arguments: str | Path) -> Result:
    app = Typer()
    app.command()(recipes)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_list_has_name_description_model_and_reference_of_each() -> None:
    result = call()
    assert result.exit_code == 0
    for name in recipe_names():
        recipe = load_recipe(name)
        assert f"\n{name}" in "\n" + result.stdout
        assert f"    {recipe.description}\n" in result.stdout
        assert f"reference: {recipe.reference or 'none published'}\n" in result.stdout
    assert "fcos-small  (short: fcos)" in result.stdout
    assert "model: fcos, resnext101_32x8d with IMAGENET1K_V1 weights" in result.stdout
    assert "training: 9000 steps of 16, sgd, short side 224, trained on centred squares of it" in result.stdout


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_shown_is_a_file_that_train_takes_back(name: str, tmp_path: Path) -> None:
    result = call(name)
    assert result.exit_code == 0
    file = tmp_path / f"{name}.yaml"
    file.write_text(result.stdout, encoding="utf-8")
    assert load_recipe(file) == load_recipe(name)


def test_overrides_are_shown_too() -> None:
    result = call("fcos", "optim.lr=1e-5", "model.head.stem_channels=[32]", "schedule.epochs=4")
    shown = check_recipe(yaml.safe_load(result.stdout), "shown")
    assert shown.optim.lr == 1e-5
    assert shown.model.head.stem_channels == (32,)
    assert shown.schedule.steps is None
    assert shown == load_recipe("fcos", ["optim.lr=1e-5", "model.head.stem_channels=[32]", "schedule.epochs=4"])


def test_keys_are_explained_with_type_default_and_meaning() -> None:
    lines = call("--keys").stdout.splitlines()
    place = lines.index("data.batch_size = 16    (whole number >= 1)")
    assert lines[place + 1] == "    Images per process and step."
    assert "model.[fcos].head.norm = gn    (none | gn | bn | sync_bn | frozen_bn | level_bn)" in lines
    assert "model.[retinanet].head.norm = none    (none | gn | bn | sync_bn | frozen_bn)" in lines


def test_keys_of_a_recipe_show_its_values() -> None:
    lines = call("fcos-r50-fpn-1x", "optim.lr=0.5", "--keys").stdout.splitlines()
    assert "model.head.norm = none    (none | gn | bn | sync_bn | frozen_bn | level_bn)" in lines
    assert "model.assignment.center_radius = null    (number | null)" in lines
    assert "optim.lr = 0.5    (number > 0)" in lines


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["fcos-smal"], "did you mean fcos-small"), (["fcos", "optim.lrr=1"], "optim.lrr: unknown key, did you mean lr?")],
)
def test_mistakes_are_one_sentence(arguments: list[str], sentence: str) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, ValueError)
    assert sentence in str(result.exception)
