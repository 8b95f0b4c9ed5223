"""`plica merge` and `plica export`: what is done with run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plica.cli.reading import tell_beliefs
from plica.cli.run import WrongInputError
from plica.cli.table import answers, show
from plica.evaluation.export import export as write_tables
from plica.evaluation.merge import merge as join
from plica.utils.messages import sentence


def merge(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="the shards, all of 1/N to N/N")],
    out: Annotated[Path, typer.Option(help="a new directory")],
) -> None:
    """Join the shards of one evaluation to one run."""
    try:
        run = join(directories, out)
    except (ValueError, OSError) as error:
        raise WrongInputError(sentence(error)) from error
    show(run.summary)
    tell_beliefs([run])
    print(f"{out}: {answers(run.summary)} answers from {len(directories)} shards")


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="a run")],
    out: Annotated[Path | None, typer.Option(help="a folder; by default the run's own")] = None,
) -> None:
    """Write a run as samples.csv, summary.csv and table.tex."""
    try:
        files = write_tables(directory, out)
    except (ValueError, OSError) as error:
        raise WrongInputError(sentence(error)) from error
    print(", ".join(str(file) for file in files))
