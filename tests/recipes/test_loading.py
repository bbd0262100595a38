"""Recipes: inheritance, overrides, and every kind of mistake in one sentence."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from configs import dotted

from boxwright.models import MODELS
from boxwright.models.fcos import FCOSConfig
from boxwright.models.sections import BackboneSection
from boxwright.recipes import ALIASES, check_recipe, dump_recipe, load_recipe, recipe_names

ISSUED = {
    "fcos-shapes",
    "fcos-small",
    "fcos-regnetx400mf-224",
    "fcos-regnetx400mf-224-overfit",
    "fcos-r50-fpn-1x",
    "fcos-r50-fpn-1x-gn",
    "fcos-r50-fpn-1x-improved",
    "fcos-r101-fpn-2x-improved",
    "fcos-x101-32x8d-fpn-2x-improved",
}

# Table 3 of Tian et al. 2019: what each row adds to the one before it, from row 5 on
ROWS = {
    5: ["model.head.norm=gn"],
    6: ["model.head.centerness_on=box"],
    7: ["model.assignment.center_radius=1.5"],
    8: ["model.loss.box=giou"],
    9: ["model.head.normalise_targets=true", "model.head.box_output=relu"],
}


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_package_has_the_recipes_of_the_issue() -> None:
    assert set(recipe_names()) >= ISSUED


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_says_what_it_is_and_survives_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert check_recipe(yaml.safe_load(yaml.safe_dump(dump_recipe(recipe))), "again") == recipe


def test_an_alias_is_the_recipe_that_it_stands_for() -> None:
    assert ALIASES["fcos"] == "fcos-small"
    assert load_recipe("fcos") == load_recipe("fcos-small")


def test_each_row_of_table_3_is_one_override_away_from_the_row_before() -> None:
    overrides: list[str] = []
    before = load_recipe("fcos-r50-fpn-1x").model
    for row, added in ROWS.items():
        overrides += added
        model = load_recipe("fcos-r50-fpn-1x", overrides).model
        one, other = dotted(dataclasses.asdict(before)), dotted(dataclasses.asdict(model))
        changed = {f"model.{key}" for key in other if one[key] != other[key]}
        assert changed == {override.partition("=")[0] for override in added}, row
        before = model
    assert before == load_recipe("fcos-r50-fpn-1x-improved").model
    assert load_recipe("fcos-r50-fpn-1x", ROWS[5]).model == load_recipe("fcos-r50-fpn-1x-gn").model


def test_the_improved_recipe_is_the_default_configuration() -> None:
    config = load_recipe("fcos-r50-fpn-1x-improved").model
    assert config == FCOSConfig(backbone=BackboneSection(weights="IMAGENET1K_V1"))


def test_a_recipes_model_is_the_config_of_its_detector_and_builds_it() -> None:
    recipe = load_recipe("fcos-small")
    assert type(recipe.model) is FCOSConfig
    model = recipe.build_model(num_classes=5)
    assert (type(model), model.config, model.num_classes) == (MODELS["fcos"].build, recipe.model, 5)


def test_the_big_recipes_differ_from_the_improved_one_in_backbone_and_length() -> None:
    improved, deep, wide = (
        load_recipe(name)
        for name in ("fcos-r50-fpn-1x-improved", "fcos-r101-fpn-2x-improved", "fcos-x101-32x8d-fpn-2x-improved")
    )
    assert (deep.model.backbone.name, wide.model.backbone.name) == ("resnet101", "resnext101_32x8d")
    assert dataclasses.replace(deep.model, backbone=improved.model.backbone) == improved.model
    assert deep.schedule.steps == wide.schedule.steps == 2 * improved.schedule.steps


def test_a_file_without_base_stands_on_its_own(write) -> None:
    recipe = load_recipe(write("model: {name: fcos, backbone: resnet18}\nschedule: {steps: 7}\noptim: {lr: 1e-4}\n"))
    assert (recipe.name, recipe.schedule.steps, recipe.model.backbone.name) == ("mine", 7, "resnet18")
    assert recipe.optim.lr == 1e-4  # YAML 1.1 reads it as text


def test_a_base_is_a_recipe_or_a_file_beside_and_is_laid_under_key_by_key(write) -> None:
    write("base: fcos-small\noptim: {lr: 0.5}\n", "first.yaml")
    recipe = load_recipe(write("base: first.yaml\nmodel: {head: {norm: none}}\noptim: {weight_decay: 0}\n"))
    small = load_recipe("fcos-small")
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.kind) == (0.5, 0, small.optim.kind)
    assert recipe.model == dataclasses.replace(small.model, head=dataclasses.replace(small.model.head, norm="none"))


def test_overrides_take_numbers_lists_null_and_words() -> None:
    recipe = load_recipe(
        "fcos-small",
        ["optim.lr=1e-4", "data.train_scales=[0.5,1e0]", "optim.clip_norm=null", "model.head.norm=none",
         "model.head.stem_channels=[32, 32, 32]", "data.augment.scale_jitter=[0.5,2]", "data.cache=false"],
    )  # fmt: skip
    assert recipe.optim.lr == 1e-4
    assert recipe.data.train_scales == (0.5, 1.0)
    assert recipe.optim.clip_norm is None
    assert recipe.model.head.norm == "none"
    assert recipe.model.head.stem_channels == (32, 32, 32)
    assert recipe.data.augment.scale_jitter == (0.5, 2.0)
    assert recipe.data.cache is False


def test_the_last_override_of_a_key_counts() -> None:
    assert load_recipe("fcos-small", ["optim.lr=1", "optim.lr=2"]).optim.lr == 2


def test_who_names_a_backbone_means_it_in_its_own_width(write):
    assert load_recipe("fcos-small").model.backbone.widths == (32, 32, 32, 1)
    for name in ("regnet_x_400mf", "resnet18"):
        assert load_recipe("fcos-small", [f"model.backbone={name}"]).model.backbone.widths is None
    given = ["model.backbone=resnet34", "model.backbone.widths=[16,16,16,1]"]
    for overrides in (given, given[::-1]):
        assert load_recipe("fcos-small", overrides).model.backbone.widths == (16, 16, 16, 1)
    path = write("base: fcos-small\nmodel: {backbone: resnet34}\n", "own.yaml")
    assert load_recipe(path).model.backbone.widths is None
    assert load_recipe("faster-rcnn-r50-dc5-1x", ["model.backbone=resnet101"]).model.backbone.dilated_c5


def test_epochs_replace_steps_and_steps_replace_epochs() -> None:
    by_epochs = load_recipe("fcos-small", ["schedule.epochs=3.5"]).schedule
    assert (by_epochs.steps, by_epochs.epochs) == (None, 3.5)
    by_steps = load_recipe("fcos-small", ["schedule.epochs=3", "schedule.steps=9"]).schedule
    assert (by_steps.steps, by_steps.epochs) == (9, None)


def test_all_mistakes_are_told_at_once_with_the_nearest_key() -> None:
    overrides = ["optim.lrr=1", "model.headnorm=gn", "schedul.steps=3", "data.batch_size=0", "model.loss.box=huber"]
    with pytest.raises(ValueError, match="recipe fcos-small") as caught:
        load_recipe("fcos-small", overrides)
    text = str(caught.value)
    assert "optim.lrr: unknown key, did you mean lr?" in text
    assert "model.headnorm: unknown key, did you mean head.norm?" in text
    assert "schedul: unknown key, did you mean schedule?" in text
    assert "data.batch_size: input should be greater than or equal to 1, got 0" in text
    assert "model.loss.box: input should be 'iou', 'giou' or 'l1', got 'huber'" in text
    assert "\n" not in text


def test_an_unknown_detector_does_not_hide_the_other_mistakes() -> None:
    with pytest.raises(
        ValueError, match=r"model.name: expected one of fcos.*, got 'fcoss', did you mean fcos"
    ) as caught:
        load_recipe("fcos-small", ["model.name=fcoss", "optim.lrr=1"])
    assert "optim.lrr: unknown key, did you mean lr?" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fcos-r50-fpn", "no recipe 'fcos-r50-fpn'; did you mean fcos-r50-fpn-1x"),
        ("nothing-like-it", r"no recipe 'nothing-like-it' \(`boxwright recipes` lists them"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_recipe(name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.yaml: no such file"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected settings by name, got NoneType"),
        ("[1, 2]", "expected settings by name, got list"),
        ("model: [", "not YAML"),
        ("base: fcos-smal", "base: no recipe 'fcos-smal'; did you mean fcos-small"),
        ("base: other.yaml", "base: recipe other.yaml: no such file"),
        ("base: mine.yaml", r"its base leads back to itself \(mine -> mine\)"),
        ("model: {name: fcos}", "schedule: missing"),
        ("schedule: {steps: 1}", "model.name: expected one of fcos"),
        ("model: {name: [fcos]}\nschedule: {steps: 1}", "model.name: expected one of fcos"),
        ("base: fcos-small\nversion: 3", "version: input should be 2, got 3"),
        ("base: fcos-small\nschedule: {epochs: 3}", "exactly one of steps and epochs"),
        ("base: fcos-small\nno: 3", "expected a key that is text, got False"),
        ("base: fcos-small\nmodel: {5: 3}", "model.5: expected a key that is text"),
        ("base: fcos-small\nmodel: {fpn: {extra_levels: 2}}", "model.assignment.level_bounds: expected 4 for 5 levels"),
        ("base: fcos-small\ndata: {resize: {mode: fixed}}", "mode fixed needs height and width"),
        ("base: fcos-small\noptim: {lr: .inf}", "optim.lr: input should be a finite number"),
        ("base: fcos-small\noptim: 3", "optim: input should be a valid dictionary"),
    ],
)
def test_a_broken_file_is_one_sentence_that_names_it(write, text: str, sentence: str) -> None:
    path = write(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        load_recipe(path)
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_circle_of_bases_is_told_as_such(write) -> None:
    write("base: mine.yaml", "second.yaml")
    with pytest.raises(ValueError, match=r"leads back to itself \(mine -> second -> mine\)"):
        load_recipe(write("base: second.yaml"))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine.yaml: not YAML"):
        load_recipe(path)


@pytest.mark.parametrize("override", ["optim.lr", "=3", "optim.lr=[", ""])
def test_an_override_that_is_none_is_quoted(override: str) -> None:
    with pytest.raises(ValueError, match="override"):
        load_recipe("fcos-small", [override])


@pytest.mark.parametrize(
    "value", ["[[]]", "{}", "[fcos]", "{name: fcos}", "null", "3", ".inf", "2024-01-01", "[[1, [2]]]"]
)
@pytest.mark.parametrize(
    "key",
    [
        "model",
        "model.name",
        "data",
        "optim.lr",
        "model.backbone",
        "model.assignment.level_bounds",
        "schedule",
        "version",
    ],
)
def test_a_value_of_any_kind_is_taken_or_refused_in_one_sentence(write, key, value):
    section, _, name = key.partition(".")
    text = f"{section}: {{{name}: {value}}}" if name else f"{section}: {value}"
    for source, overrides in ((write(f"base: fcos-small\n{text}\n"), []), ("fcos-small", [f"{key}={value}"])):
        try:
            load_recipe(source, overrides)
            sentence = "recipe"
        except ValueError as error:
            sentence = str(error)
        assert sentence.startswith("recipe")
        assert len(sentence) < 1000


@pytest.mark.parametrize("base", ["[fcos]", "{a: b}", "3", "''", "a" * 2000, '"a\\0b"'])
def test_a_base_is_a_name(write, base):
    with pytest.raises(ValueError, match=r"recipe .*base: expected a recipe's name or a file beside this one"):
        load_recipe(write(f"base: {base}\n"))


def test_a_base_that_leads_back_by_another_way_is_found(write):
    path = write("base: first.yaml\n")
    path.write_text(f"base: ../{path.parent.name}/{path.name}\n")
    with pytest.raises(ValueError, match="leads back to itself"):
        load_recipe(path)


def test_channels_beyond_reason_take_no_memory():
    with pytest.raises(ValueError, match="class_channels: expected channels below"):
        load_recipe("fcos-small", ["model.compat.class_channels=[10000000000]"])
