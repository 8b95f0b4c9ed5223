"""One run: read, ask, write, tell. Whatever is wrong with the input is said in one sentence before any work."""

import errno
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

import plica
from plica.cli.progress import Reporter
from plica.core.formulations import Question, parse_radius
from plica.data import load_data, open_data
from plica.data.bounds import Bounds, read_bounds
from plica.data.indices import parse_indices
from plica.data.sample import select
from plica.metrics import Metric, parse_metric
from plica.models import load_model, prepare_inputs
from plica.perturbations import join_distance
from plica.runs.single import FILES, check_directory, save_run
from plica.utils.limits import check_memory
from plica.utils.messages import one_line

__all__ = ["WrongInputError", "parse_radius", "read_distance", "read_metric", "run"]


SAMPLES = ("first", "random", "balanced")


class WrongInputError(Exception):
    """The message is one sentence that says what to do."""


def run(command: str, given: dict[str, Any], pose: Callable[[Bounds], Question]) -> None:
    """Answer one command from its options by name; `pose` makes the question, within bounds, and may refuse it.

    Raises:
        WrongInputError: wrong input, or a full disk; nothing was written.
    """
    start = time.monotonic()
    out, overwrite = given["out"], given["overwrite"]
    with Reporter(given["gradients"]) as report:
        try:
            check_directory(out, overwrite)
            bounds = read_bounds(given["bounds"])
            question = pose(bounds)
            x, y, ids = read_images(given, allow_out_of_range=not bounds.usual)
            question = replace(question, metric=bounds.metric(question.metric, x.shape[1:]))
            model = load_model(given["model"], given["weights"], given["device"], given["trust"])
            x, y = prepare_inputs(model, x, y)
            spend = {name: given[name] for name in ("method", "gradients", "seed")}
            result = plica.attack(model, x, y, question, **spend, bounds=bounds.pair, on_progress=report)
        except (ValueError, TypeError, OSError) as error:
            if report.began:  # the input had been accepted, so this is a fault of the program: let it be seen
                raise
            raise WrongInputError(f"{one_line(error)}.") from error
    from plica.plot.perturbations import draw_perturbations  # not above: see cli/app.py

    kept = dict(overwrite=overwrite, ids=ids, bounds=bounds)
    arguments = {"command": command} | {name: str(v) if isinstance(v, Path) else v for name, v in given.items()}
    try:
        summary = save_run(out, x, y, result, arguments, time.monotonic() - start, draw=draw_perturbations, **kept)
    except OSError as error:
        cure = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "give another directory"
        raise WrongInputError(f"The results could not be written to {out} ({one_line(error)}); {cure}.") from error
    _tell(summary, out)


def read_images(given: dict[str, Any], allow_out_of_range: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images, labels and, where not the first were asked for, their rows in the data.

    Raises:
        ValueError, OSError: one sentence.
    """
    sample, indices = given["sample"] or "first", given["indices"]
    if sample == "first" and indices is None:
        return *load_data(given["data"], given["n"], allow_out_of_range), None
    if sample not in SAMPLES or (indices is not None and (given["n"] is not None or given["sample"])):
        raise ValueError(f"Give --indices alone, or --n with --sample one of {', '.join(SAMPLES)}.")
    source = open_data(given["data"], allow_out_of_range)
    rows = None if indices is None else parse_indices(indices)
    ids = select(source.labels, given["n"], rows, sample, given["seed"])
    check_memory(len(ids) * math.prod(source.shape), given["data"])
    return *source.read(ids), ids


def _tell(summary: dict[str, Any], out: Path) -> None:
    """The answer in four lines on standard output."""
    given, count = summary["arguments"], summary["images"]
    print(f"{count} images, accuracy {summary['accuracy']:.1%}", end="")
    print(f", robust accuracy {summary['robust_accuracy']:.1%}" if "robust_accuracy" in summary else "")
    at = {q: "not found" if d is None else f"{d:.4g}" for q, d in summary["radius"].items()}
    print(f"{join_distance(given['metric'], given['through'])} distance: median {at['0.5']}", end="")
    print(f", quartiles {at['0.25']} and {at['0.75']}", end="")
    print(f", smallest {at['0']}, largest {at['1']}")
    print(f"{summary['gradients'] / count:.0f} gradients per image, {summary['seconds']:.1f} s")
    print(f"{out}: {', '.join(FILES)}")


def read_distance(metric: str, through: str | None, bounds: Bounds) -> tuple[Any, Any]:
    """`metric` and `through` of a question, of --metric and --through.

    Raises:
        ValueError: one sentence.
    """
    try:
        return bounds.distance(metric, through, read_metric)
    except ValueError:
        raise
    except Exception as error:  # a module of the user's
        raise ValueError(f"The perturbation {through} failed: {one_line(error, named=True)}.") from error


def read_metric(text: str) -> Metric:
    """parse_metric; a module named in it runs code of the user's, and whatever that raises is wrong input.

    Raises:
        ValueError: one sentence.
    """
    try:
        return parse_metric(text)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"The metric {text} failed: {one_line(error, named=True)}.") from error
