"""`plica report`: one HTML file for people."""

import time
from pathlib import Path
from typing import Annotated

import typer

from plica.cli.errors import wrong_input
from plica.cli.options import RunsArgument
from plica.cli.runs import load_runs
from plica.report import write_report

EPILOG = """The file needs no network and nothing beside it. Several runs on the same images become one comparison.

    plica report runs/demo -o report.html

    plica report runs/resnet runs/wide -o both.html --title "Two networks"
"""


def report(
    runs: RunsArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="the file to write")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="the heading; made of the models' names if not given")] = None,
) -> None:
    """Make a report of runs: verdict, accuracy by radius, who broke what, patterns, a gallery, how to reproduce."""
    start = time.monotonic()
    with wrong_input((ValueError, OSError)):
        size = write_report(load_runs(runs), output, title)
    print(f"{output}: {size / 1e6:.1f} MB in {time.monotonic() - start:.0f} s")
