"""What `plica radius` and `plica attack` do: read the inputs, attack one model, write and print the results."""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import plica
from plica.cli.errors import WrongInputError, wrong_input
from plica.cli.progress import AttackProgress
from plica.core.domain.bounds import Bounds
from plica.core.domain.read_bounds import read_bounds
from plica.core.formulations import Question
from plica.core.model.eval_mode import eval_mode
from plica.core.model.randomness import randomness_of
from plica.data import load_data, open_data
from plica.data.indices import parse_indices
from plica.data.sample import select
from plica.data.targets import check_targets, read_targets, targets_name
from plica.goals import parse_goal
from plica.metrics import Metric, parse_metric, warn_of_slip
from plica.models import load_model, prepare_inputs
from plica.perturbations import join_distance
from plica.runs.own import remember
from plica.runs.single import FILES, check_directory, save_run
from plica.utils.files import is_full, locked
from plica.utils.limits import check_memory
from plica.utils.messages import one_line, plain

SAMPLES = ("first", "random", "balanced")
WRITES = (
    "--out receives samples.parquet (one row per image), x_adv.safetensors, inputs.safetensors, summary.json and "
    "perturbations.png, all of them or none."
)


def answer_question(command: str, options: dict[str, Any], question: Callable[[Bounds], Question]) -> None:
    """Carry out a command from its options by name; `question` makes the question, within bounds.

    Raises:
        WrongInputError: wrong input, or a full disk; nothing was written.
    """
    start = time.monotonic()
    out, overwrite = options["out"], options["overwrite"]
    arguments = {"command": command} | {name: str(v) if isinstance(v, Path) else v for name, v in options.items()}
    with AttackProgress(options["gradients"]) as progress, wrong_input(accepted=lambda: progress.began):
        check_directory(out, overwrite)
        with locked(out, keep=False):
            check_directory(out, overwrite)  # another process may have ended meanwhile
            bounds = read_bounds(options["bounds"])
            problem = question(bounds)
            goal = None if options["goal"] is None else parse_goal(options["goal"])
            x, y, ids = read_images(options, allow_out_of_range=not bounds.is_default)
            x, y, ids, targets, arguments["target"] = select_targets(options, x, y, ids)
            problem = replace(problem, metric=bounds.metric(problem.metric, x.shape[1:]))
            model = load_model(options["model"], options["weights"], options["device"], options["trust"])
            model, x, y = prepare_inputs(model, x, y)
            if options["draws"] is None:
                _warn_of_randomness(model, x)
            spend = {name: options[name] for name in ("method", "gradients", "seed", "draws", "precision")}
            aimed = None if targets is None else targets.to(y.device)
            result = plica.attack(
                model,
                x,
                y,
                problem,
                **spend,
                bounds=bounds.pair,
                targets=aimed,
                goal=goal,
                levels=options["levels"],
                on_progress=progress,
            )
            from plica.plot.perturbations import draw_perturbations  # not above: see cli/app.py

            settings = dict(overwrite=overwrite, ids=ids, bounds=bounds, draw=draw_perturbations, targets=targets)
            try:
                summary = save_run(out, x, y, result, arguments, time.monotonic() - start, **settings)
            except OSError as error:
                cure = "free some space" if is_full(error) else "give another directory"
                raise WrongInputError(
                    f"The results could not be written to {out} ({one_line(error)}); {cure}."
                ) from error
    remember(options.get(name) for name in ("model", "metric", "through", "goal"))
    _print(summary, out)
    if result.share is not None and bool(result.success.any()):
        shares = result.share[result.success]
        low, high = float(shares.min()), float(shares.max())
        print(
            f"mean over {options['draws']} draws; at the points found {low:.0%} to {high:.0%} of fresh draws misbehave"
        )


def _warn_of_randomness(model: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Warn if the model gives an image different outputs from call to call. Its errors are left to the search."""
    random = None
    with suppress(Exception), eval_mode(model):
        random = randomness_of(model, x)
    if random is not None:
        warnings.warn(
            "The model answers at random, and one lucky draw counts as a success; give --draws 16 to attack the mean.",
            stacklevel=2,
        )


def read_images(options: dict[str, Any], allow_out_of_range: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images, labels and, where they are not the first ones, their rows in the data.

    Raises:
        ValueError, OSError: one sentence.
    """
    sample, indices = options["sample"] or "first", options["indices"]
    any_y = options["goal"] not in (None, "misclassified")
    if sample == "first" and indices is None:
        return *load_data(options["data"], options["n"], allow_out_of_range, any_y), None
    if sample not in SAMPLES or (indices is not None and (options["n"] is not None or options["sample"])):
        raise ValueError(f"Give --indices alone, or --n with --sample one of {', '.join(SAMPLES)}.")
    source = open_data(options["data"], allow_out_of_range, any_y)
    rows = None if indices is None else parse_indices(indices)
    ids = select(source.labels, options["n"], rows, sample, options["seed"])
    check_memory(len(ids) * math.prod(source.shape), options["data"])
    return *source.read(ids), ids


def select_targets(
    options: dict[str, Any], x: Tensor, y: Tensor, ids: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, int | str | None]:
    """Images, labels, rows in the data, targets, and what the run calls them, of --target and --targets; images of the
    one --target are left out.

    Raises:
        ValueError, OSError: one sentence.
    """
    target, file = options["target"], options["targets"]
    if target is None and file is None:
        return x, y, ids, None, None
    if options["goal"] is not None or (target is not None and file is not None):
        raise ValueError("Give one of --target, --targets and --goal.")
    rows = torch.arange(len(x)) if ids is None else ids
    if file is not None:
        targets = read_targets(file)
        check_targets(file, targets, y, rows)
        return x, y, rows, targets[rows], targets_name(file, targets)
    targets = torch.full_like(y, target or 0)
    kept = (targets != y).nonzero()[:, 0]
    if not len(kept):
        raise ValueError(f"The images all have the label {target}; give another target.")
    if len(kept) < len(x):
        print(f"{len(x) - len(kept)} images have the target as their label and are left out")
    return x[kept], y[kept], rows[kept], targets[kept], target


def _print(summary: dict[str, Any], out: Path) -> None:
    """Print the result in four lines on standard output."""
    options, count = summary["arguments"], summary["images"]
    print(f"{count} images, accuracy {summary['accuracy']:.1%}", end="")
    print(f", not broken {summary['robust_accuracy']:.1%}" if "robust_accuracy" in summary else "")
    quantiles = {q: "not found" if d is None else f"{d:.4g}" for q, d in summary["radius"].items()}
    distance = plain(join_distance(options["metric"], options["through"]))
    if summary["radius"]["0"] is None:
        print(f"{distance} distance: not found for any image")
    else:
        print(f"{distance} distance: median {quantiles['0.5']}", end="")
        print(f", quartiles {quantiles['0.25']} and {quantiles['0.75']}", end="")
        print(f", smallest {quantiles['0']}, largest {quantiles['1']}")
    print(f"{summary['gradients'] / count:.0f} gradients per image, {summary['seconds']:.1f} s")
    print(plain(f"{out}: {', '.join(FILES)}"))


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
    warn_of_slip(text)
    try:
        return parse_metric(text)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"The metric {text} failed: {one_line(error, named=True)}.") from error
