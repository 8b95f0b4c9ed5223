"""`plica export`: a run as tables."""

from pathlib import Path
from typing import Annotated

import typer

from plica.cli.errors import wrong_input
from plica.cli.options import ReplaceOption
from plica.evaluation.export import FILES
from plica.evaluation.export import export as write_tables
from plica.utils.files import check_replaceable, writing
from plica.utils.messages import plain


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="a run")],
    out: Annotated[Path | None, typer.Option(help="a folder; by default the run's own")] = None,
    overwrite: ReplaceOption = False,
) -> None:
    """Write a run as samples.csv, summary.csv and table.tex."""
    folder = out or (directory.parent if directory.is_file() else directory)
    with wrong_input((ValueError, OSError)), writing(folder):
        check_replaceable([folder / name for name in FILES], overwrite)
        files = write_tables(directory, folder)
    print(plain(", ".join(str(file) for file in files)))
