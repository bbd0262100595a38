"""The verb `recipes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from boxwright.wording import counted, plural

if TYPE_CHECKING:
    from boxwright.recipes.schema import Recipe


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Show this recipe (a name, a short alias, or a YAML path) in full.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Overrides, as for `train`: optim.lr=0.01 ...")] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="Explain every key instead: its type, its value or default, its meaning.")
    ] = False,
) -> None:
    """List the recipes, or show one in full.

    The output is YAML with all inherited values and defaults, which `train` accepts:
    boxwright recipes fcos-small > mine.yaml, then boxwright train mine.yaml --data FOLDER.
    """
    from boxwright.recipes import load_recipe

    if name is None:
        _explain(None) if keys else _list()
        return
    recipe = load_recipe(name, overrides or ())
    if keys:
        _explain(recipe)
    else:
        _show(recipe)


def _list() -> None:
    """Name, description, model, training and published AP of every recipe in the package."""
    from boxwright.recipes import load_recipe, recipe_names
    from boxwright.recipes.choice import ALIASES

    for name in recipe_names():
        recipe = load_recipe(name)
        short = [alias for alias, target in ALIASES.items() if target == name]
        typer.echo(name + (f"  (short: {', '.join(short)})" if short else ""))
        typer.echo(f"    {recipe.description}")
        typer.echo(f"    model: {_model_sentence(recipe)}")
        typer.echo(f"    training: {_training_sentence(recipe)}")
        typer.echo(f"    reference: {recipe.reference or 'none published'}\n")
    typer.echo("boxwright recipes NAME shows one in full; boxwright recipes --keys explains every key.")


def _model_sentence(recipe: Recipe) -> str:
    model = recipe.model
    widths, weights = model.backbone.widths, model.backbone.weights
    parts = [model.name, model.backbone.name + (f" of widths {' '.join(map(str, widths))}" if widths else "")]
    return ", ".join(part for part in parts if part) + (f" with {weights} weights" if weights else ", random weights")


def _training_sentence(recipe: Recipe) -> str:
    schedule, resize = recipe.schedule, recipe.data.resize
    length = (
        counted(schedule.steps, "step")
        if schedule.steps is not None
        else f"{schedule.epochs:g} {plural('epoch', schedule.epochs or 0)}"
    )
    sizes = {
        "short_side": f"short side {resize.size}, long side at most {resize.max_size}",
        "none": "images in their original size",
        "centre_crop": f"short side {resize.size}, trained on centred squares of it",
    }
    size = sizes.get(resize.mode, f"{resize.mode} {resize.height} x {resize.width}")
    return f"{length} of {recipe.optim.reference_batch}, {recipe.optim.kind}, {size}"


def _show(recipe: Recipe) -> None:
    """The whole recipe as YAML on standard output."""
    from yaml import safe_dump

    from boxwright.recipes import dump_recipe

    typer.echo(safe_dump(dump_recipe(recipe), sort_keys=False, allow_unicode=True, width=110), nl=False)


def _explain(recipe: Recipe | None) -> None:
    """Every key with its type, its value in the recipe (else its default) and its meaning."""
    from boxwright.models import MODELS
    from boxwright.recipes import dump_recipe
    from boxwright.recipes.keys import recipe_keys

    data = None if recipe is None else dump_recipe(recipe)
    models = list(MODELS) if recipe is None else [recipe.model.name]
    seen: set[str] = set()
    for model in models:
        for key in recipe_keys(model):
            entry = key.key if len(models) == 1 else key.key.replace("model.", f"model.[{model}].", 1)
            if entry in seen:
                continue
            seen.add(entry)
            value = key.default if data is None else _at(data, key.key)
            typer.echo(f"{entry} = {_flow(value)}    ({key.type})")
            if key.text:
                typer.echo(f"    {key.text}")


def _at(data: dict[str, Any], key: str) -> Any:
    value: Any = data
    for part in key.split("."):
        value = value[part]
    return value


def _flow(value: Any) -> str:
    """A value as it is written in an override."""
    from yaml import safe_dump

    plain = list(value) if isinstance(value, tuple) else value
    text = safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()
