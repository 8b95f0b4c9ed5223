"""The command line: one module of this folder for each command, and the exit status.

Every command line imports this module and with it all commands. matplotlib, which takes as long as they do together, is
therefore imported where something is drawn.
"""

import io
import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from plica.cli import (
    attack,
    audit,
    bracket,
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
    train,
)
from plica.cli.errors import Status, WrongInputError, users_line, wrong_input
from plica.cli.signals import ended_by_signals
from plica.core.model.fitting import ModelError
from plica.evaluation.worker import out_of_memory
from plica.runs.check.common import BrokenRunError
from plica.utils.files import check_unicode
from plica.utils.messages import CUT, one_line, plain, shown

COMMANDS = (
    radius,
    attack,
    bracket,
    plan,
    evaluate,
    merge,
    train,
    doctor,
    audit,
    show,
    report,
    compare,
    figures,
    export,
)

LONGEST = 1500  # characters of a sentence

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
    """The options of `plica` itself, before the command."""


def _add(module: ModuleType) -> None:
    """Add a command: the function named after its module. EPILOG, if the module has it, ends its help."""
    name = module.__name__.rpartition(".")[2]
    app.command(epilog=getattr(module, "EPILOG", None))(getattr(module, name))


for command in COMMANDS:
    _add(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; returns the exit status. Only a fault of the program itself shows a traceback."""
    if arguments is None:
        for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character gets a question mark
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
    if "" not in sys.path:
        sys.path.insert(0, "")  # package.module:factory may be in the current folder, as for `python -m`
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with warnings.catch_warnings(), ended_by_signals():
        say_once = cache(_say)  # of an evaluation, every chunk may warn
        warnings.showwarning = lambda message, *_, **__: say_once(f"warning: {message}")
        try:
            with wrong_input((ValueError,)):
                for word in words:
                    check_unicode(Path(word))
            status = app(args=words, prog_name="plica", standalone_mode=False) or Status.DONE
            sys.stdout.flush()
        except (WrongInputError, BrokenRunError) as error:  # of a run some files are read late
            _say(str(error))
            return Status.WRONG_INPUT
        except typer.TyperException as error:
            message = f"{error.format_message().rstrip('.')}{_given(error, words)}"
            _say(f"{message}{' See' if message.endswith('?') else '; see'} {_command(error)} --help.")
            return Status.WRONG_INPUT
        except ModelError as error:
            _say(str(error))
            return Status.OTHER
        except SystemExit as error:  # of a model, a distance or a goal, as the program itself does not
            if isinstance(error.__context__, BrokenPipeError):  # but typer does, where nobody reads its help
                return _unread()
            _say(
                f"A module of yours ended the program by sys.exit({shown(error.code)}); let it raise an error instead."
            )
            return Status.OTHER
        except BrokenPipeError:
            return _unread()
        except Exception as error:
            line = users_line(error)
            if isinstance(error, MemoryError | RuntimeError) and out_of_memory(error):
                cure = "give fewer images (--n) or a smaller --batch-size"
                _say(f"There is not enough memory ({one_line(error)}); {cure}.")
            elif line is not None:
                _say(f"{line}, raised {one_line(error, named=True)}.")
            else:
                raise
            return Status.OTHER
    if status == 130:  # how typer hands on an interruption
        _say("interrupted, nothing was written.")
        return Status.OTHER
    return status


def _command(error: typer.TyperException) -> str:
    """plica, or the command whose options are wrong: plica radius."""
    context = getattr(error, "ctx", None)
    return "plica" if context is None else context.command_path


def _unread() -> Status:
    """Nobody reads the output any more."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python flushes it when it ends
    return Status.OTHER


def _given(error: typer.TyperException, words: list[str]) -> str:
    """The value given for the option that an error is about; "" if the message contains it, or if there is none."""
    options = getattr(getattr(error, "param", None), "opts", [])
    pairs = [*pairwise(words), *(word.partition("=")[::2] for word in words if "=" in word)]
    value = next((value for option, value in reversed(pairs) if option in options), None)
    return "" if value is None or repr(value) in error.format_message() else f", got {shown(value)}"


def _say(text: str) -> None:
    """A sentence on standard error, without what a terminal would obey; a long word in it loses its middle."""
    text = text if len(text) <= LONGEST else text[: LONGEST // 2] + CUT + text[-LONGEST // 2 :]
    print(plain(f"plica: {text}"), file=sys.stderr)
