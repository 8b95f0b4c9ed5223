"""`plica report`: one HTML file for people."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from plica.cli.errors import wrong_input
from plica.cli.options import ReplaceOption, RunsArgument
from plica.cli.runs import load_runs
from plica.report import write_report
from plica.utils.files import check_replaceable, writing
from plica.utils.messages import plain

EPILOG = """The report is a single file that works offline. Several runs on the same images become one comparison.

    plica report runs/demo -o report.html

    plica report runs/resnet runs/wide -o both.html --title "Two networks"
"""


def report(
    runs: RunsArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="the file to write")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="the heading; by default the models' names")] = None,
    overwrite: ReplaceOption = False,
) -> None:
    """Make a report of runs: verdict, accuracy by radius, results by method, patterns, a gallery, how to reproduce."""
    start = time.monotonic()
    with wrong_input((ValueError, OSError)):
        check_replaceable([output], overwrite)
        loaded = load_runs(runs)
        with writing(output):
            size = write_report(loaded, output, title)
    print(plain(f"{output}: {decimal(size)} in {time.monotonic() - start:.0f} s"))
