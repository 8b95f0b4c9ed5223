"""The command line: one module of this folder for each command, and the exit status.

Every command line imports this module and with it all commands. matplotlib, which takes as long as they do together, is
therefore imported where something is drawn.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Annotated

import typer

from plica.cli import (
    attack,
    audit,
    compare,
    doctor,
    evaluate,
    export,
    figures,
    merge,
    plan,
    radius,
    report,
    show,
)
from plica.cli.errors import Status, WrongInputError

COMMANDS = (radius, attack, audit, doctor, report, figures, compare, show, evaluate, plan, merge, export)

app = typer.Typer(
    name="plica",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="How far is the nearest input that a PyTorch classifier gets wrong?",
    epilog="`plica radius --help` shows examples. Exit status: 0 done, 2 wrong input, 1 anything else.",
)


def _print_version(requested: bool) -> bool:
    if requested:
        print(version("plica"))
        raise typer.Exit
    return requested


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """What stands before the commands."""


def _add(module: ModuleType) -> None:
    """A command is the function named after its module; EPILOG, where there is one, ends its help."""
    name = module.__name__.rpartition(".")[2]
    app.command(epilog=getattr(module, "EPILOG", None))(getattr(module, name))


for command in COMMANDS:
    _add(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; gives the exit status. A fault of the program itself, and no other, shows a traceback."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # package.module:factory is looked for in the current folder too, as `python -m` does
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"plica: warning: {message}", file=sys.stderr)
        try:
            status = app(args=words, prog_name="plica", standalone_mode=False) or Status.DONE
        except WrongInputError as error:
            print(f"plica: {error}", file=sys.stderr)
            return Status.WRONG_INPUT
        except typer.TyperException as error:
            print(f"plica: {error.format_message().rstrip('.')}; see plica --help.", file=sys.stderr)
            return Status.WRONG_INPUT
    if status == 130:  # how typer hands on an interruption
        print("plica: interrupted, nothing was written.", file=sys.stderr)
        return Status.OTHER
    return status
