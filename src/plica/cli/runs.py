"""The runs that a command line names, and how far their numbers can be believed."""

from collections.abc import Sequence
from pathlib import Path

from plica.runs import Run, load
from plica.training.checkpoint import CHECKPOINT, LOG, WEIGHTS
from plica.trust import Severity, Verdict, believed
from plica.utils.messages import plain

MARKS = ("manifest.json", "samples.parquet")  # a folder with one of these is a run


def load_runs(directories: Sequence[Path]) -> list[Run]:
    """The runs in these directories, or directly below them.

    Raises:
        ValueError, OSError: there is no run, or a broken one.
    """
    return [load(run) for directory in directories for run in _run_folders(directory)]


def print_verdicts(runs: Sequence[Run]) -> None:
    """How far the numbers of each run can be believed, on standard output."""
    for run in runs:
        subject = f"{run.directory}: these" if len(runs) > 1 else "These"
        print(plain(f"{subject} numbers: {believed(run)}"))


def print_findings(run: Run) -> None:
    """What speaks against the numbers of a run, and how far they can be believed, on standard output."""
    verdict = Verdict.read(run.summary["verdict"])
    for finding in verdict.findings:
        if finding.weight > Severity.NOTE or finding.check == "rounding":  # how many images it decides is always said
            print(plain(f"{finding.weight.name.lower()}, {finding.check}: {finding.sentence}"))
    print(plain(f"These numbers: {verdict}"))


def _run_folders(directory: Path) -> list[Path]:
    """The directory, or those of its folders that are runs where it is none itself."""
    if directory.is_dir() and not any((directory / mark).is_file() for mark in MARKS):
        inside = sorted({file.parent for mark in MARKS for file in directory.glob(f"*/{mark}")})
        if not inside and any((directory / file).is_file() for file in (CHECKPOINT, LOG, WEIGHTS)):
            raise ValueError(
                f"{directory} is an unfinished training, which is evaluated at its end; plica train goes on with it: "
                f"give the same plan and --out {directory}."
            )
        return inside or [directory]
    return [directory]
