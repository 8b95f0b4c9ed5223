"""`plica export`: a run as tables."""

from pathlib import Path
from typing import Annotated

import typer

from plica.cli.errors import wrong_input
from plica.evaluation.export import export as write_tables


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="a run")],
    out: Annotated[Path | None, typer.Option(help="a folder; by default the run's own")] = None,
) -> None:
    """Write a run as samples.csv, summary.csv and table.tex."""
    with wrong_input((ValueError, OSError)):
        files = write_tables(directory, out)
    print(", ".join(str(file) for file in files))
