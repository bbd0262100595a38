"""The explanation of every key of a recipe."""

from boxwright.models import MODELS
from boxwright.recipes import dump_recipe, load_recipe
from boxwright.recipes.keys import recipe_keys


def flat(data: dict, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name, value in data.items():
        keys |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return keys


def test_the_keys_are_those_of_a_recipe() -> None:
    for model in MODELS:
        recipe = load_recipe(f"{model.replace('_', '-')}-small")
        assert recipe.model.name == model
        assert {key.key for key in recipe_keys(model)} == flat(dump_recipe(recipe))


def test_a_key_tells_its_type_with_bounds_its_default_and_its_meaning() -> None:
    keys = {key.key: key for key in recipe_keys("fcos")}
    assert keys["optim.clip_norm"].type == "number > 0 | null"
    assert keys["model.fpn.extra_from"].type == "p5 | c5"
    assert keys["data.augment.hue"].type == "number in [0, 0.5]"
    assert keys["model.head.stem_channels"].type == "[whole number, ...]"
    assert keys["data.train_scales"].type == "[number > 0, ...]"
    assert keys["optim.lr"].default == 0.01
    assert keys["model.head.norm"].text == "Row 5: group norm in the head."
    assert keys["schedule.steps"].default is None
