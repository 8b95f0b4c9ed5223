"""`plica figures`: a run as figures and tables of a paper."""

from pathlib import Path
from typing import Annotated

import typer

from plica.cli.errors import wrong_input
from plica.cli.options import ReplaceOption, RunsArgument
from plica.cli.runs import load_runs
from plica.utils.files import writing
from plica.utils.messages import plain

EPILOG = """Figures are vector PDF and SVG, 3.35 inches wide; tables need the LaTeX package booktabs.

    plica figures runs/all -o figures
"""


def figures(
    runs: RunsArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="directory to write to")] = Path("figures"),
    overwrite: ReplaceOption = False,
) -> None:
    """Draw accuracy by radius, radii with budgets, differences, patterns; write the tables in LaTeX."""
    from plica.report.paper import write_figures  # not above: see cli/app.py

    with wrong_input((ValueError, OSError)):
        loaded = load_runs(runs)
        with writing(output):
            files = write_figures(loaded, output, overwrite)
    for file in files:
        print(plain(str(file)))
