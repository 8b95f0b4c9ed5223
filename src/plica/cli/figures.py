"""`plica figures`: a run as figures and tables of a paper."""

from pathlib import Path
from typing import Annotated

import typer

from plica.cli.reading import with_runs

EPILOG = """Figures are vector PDF and SVG, 3.35 inches wide; tables need the LaTeX package booktabs.

    plica figures runs/all -o figures
"""


def figures(
    runs: Annotated[list[Path], typer.Argument(help="directories of runs on the same images", metavar="RUN...")],
    output: Annotated[Path, typer.Option("-o", "--output", help="directory to write to")] = Path("figures"),
) -> None:
    """Draw accuracy by radius, radii with budgets, differences, patterns; write the tables in LaTeX."""
    from plica.report.paper import write_figures  # not above: see cli/app.py

    files = with_runs(runs, lambda read: write_figures(read, output))
    for file in files:
        print(file)
