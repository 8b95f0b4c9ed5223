"""`plica export`: a run as tables, or its points as image files."""

from pathlib import Path
from typing import Annotated

import typer

from plica.cli.errors import wrong_input
from plica.cli.options import DeviceOption, ReplaceOption
from plica.evaluation.export import FILES
from plica.evaluation.export import export as write_tables
from plica.evaluation.pictures import Pictures, export_png
from plica.runs import load
from plica.trust.audit.load import models_of
from plica.utils.files import check_replaceable, writing
from plica.utils.messages import plain


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="a run")],
    out: Annotated[Path | None, typer.Option(help="a folder; by default the run's own")] = None,
    png: Annotated[bool, typer.Option("--png", help="the points found, as 8-bit PNG files, instead of tables")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="with --png: run the Python code that the run names")] = False,
    device: DeviceOption = "cpu",
    overwrite: ReplaceOption = False,
) -> None:
    """Write a run as samples.csv, summary.csv and table.tex; or, with --png, its points as png/TASK/ID.png.

    For a run with 256 levels the files contain the points exactly. Other points are rounded and then measured again
    with the model.
    """
    folder = out or (directory.parent if directory.is_file() else directory)
    with wrong_input((ValueError, OSError)), writing(folder):
        if png:
            run = load(directory)
            pictures = export_png(run, folder, lambda: models_of(run, {}, None, trust, device), trust, overwrite)
            for task in pictures:
                _print(task)
            return
        check_replaceable([folder / name for name in FILES], overwrite)
        files = write_tables(directory, folder)
    print(plain(", ".join(str(file) for file in files)))


def _print(pictures: Pictures) -> None:
    """Print in one line what was written for a task."""
    count, name = len(pictures.files), plain(pictures.task.name)
    if not count:
        print(f"{name}: no point was found, no file")
        return
    rounded = count - pictures.exact
    print(plain(f"{pictures.files[0].parent}: {count} files"), end="")
    if not rounded:
        print(", each the judged point to the bit")
    else:
        print(
            f"; {rounded} points lie off the 256 levels and were rounded, of which {pictures.kept} still count; "
            "--levels 256 finds points on them"
        )
