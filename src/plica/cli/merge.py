"""`plica merge`: the shards of an evaluation joined to one run."""

from pathlib import Path
from typing import Annotated

import typer

from plica.cli.errors import wrong_input
from plica.cli.runs import print_verdicts
from plica.cli.table import count_answers, print_summary
from plica.evaluation.merge import merge as merge_shards
from plica.utils.messages import plain

EPILOG = "plica merge runs/shard-* --out runs/all"


def merge(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="directories of all N shards")],
    out: Annotated[Path, typer.Option(help="a new directory")],
) -> None:
    """Join the shards of one evaluation into one run."""
    with wrong_input((ValueError, OSError)):
        run = merge_shards(directories, out)
    print_summary(run.summary)
    print_verdicts([run])
    print(plain(f"{out}: {count_answers(run.summary)} answers from {len(directories)} shards"))
