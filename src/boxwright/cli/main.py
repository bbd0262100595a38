"""The command `boxwright`: its verbs, and one place where a user's mistake becomes one clear sentence.

Nothing here imports torch; each verb imports what it needs when it runs.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click
import typer
from typer.core import TyperGroup

_HERE = Path(__file__).parent
VERBS = {
    "train": "Train a detector on a folder of labelled pictures.",
    "evaluate": "Measure a detector, or a file of detections, against truth.",
    "predict": "Find objects in pictures; draw and save them.",
    "explain": "Draw what the detector sees: locations, owners, centerness and class maps.",
    "inspect": "Check a data set before training: every bad box with its file and line.",
    "shapes": "Generate the synthetic shapes data set.",
    "recipes": "List the recipes, or show one in full.",
    "demo": "Train, measure and draw on synthetic pictures in four minutes.",
}


class _LazyVerbs(TyperGroup):
    """A command group that imports a verb's file only when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verb in VERBS if (_HERE / f"{verb}.py").exists()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"boxwright.cli.{cmd_name}")
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name=cmd_name, help=module.__doc__)(getattr(module, cmd_name))
        return typer.main.get_command(single)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, VERBS[verb]) for verb in self.list_commands(ctx)])


app = typer.Typer(cls=_LazyVerbs, add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def _version(show: bool) -> None:
    if show:
        from boxwright import __version__

        typer.echo(f"boxwright {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Object detection: train, measure, draw and ship. `boxwright VERB --help` explains a verb."""


def run() -> None:
    """Run the command line; a mistake of the user's ends with one sentence and exit code 2.

    Set BOXWRIGHT_TRACEBACK=1 to see where it came from.
    """
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("BOXWRIGHT_TRACEBACK"):
            raise
        text = str(error) if not isinstance(error, OSError) or error.filename is None else _os_sentence(error)
        print(f"boxwright: {text}", file=sys.stderr)
        sys.exit(2)


def _os_sentence(error: OSError) -> str:
    return f"{error.filename}: {error.strerror or error}"


if __name__ == "__main__":
    run()
