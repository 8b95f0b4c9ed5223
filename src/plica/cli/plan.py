"""`plica plan`: a commented plan to start from."""

from pathlib import Path
from typing import Annotated

import typer

from plica.cli.errors import WrongInputError
from plica.evaluation.example import EXAMPLE
from plica.utils.messages import one_line, plain


def plan(file: Annotated[Path | None, typer.Argument(metavar="PLAN.yaml", help="a new file")] = None) -> None:
    """Write a commented plan to start from, to a new file or to standard output."""
    if file is None:
        print(EXAMPLE, end="")
        return
    try:
        with file.open("x") as stream:
            stream.write(EXAMPLE)
    except FileExistsError:
        raise WrongInputError(f"{file} is there already; give a new name.") from None
    except OSError as error:
        raise WrongInputError(f"{file} cannot be written ({one_line(error)}); give another place.") from error
    print(plain(f"{file}: change it, then plica evaluate {file} --out DIR"))
