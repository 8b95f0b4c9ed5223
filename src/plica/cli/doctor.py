"""`plica doctor`: checks for problems that make results on a model misleading; exit status 1 for a fatal one."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from plica.cli.errors import Status, wrong_input
from plica.cli.options import DeviceOption, WeightsOption
from plica.core.domain.bounds import Bounds
from plica.core.domain.read_bounds import read_bounds
from plica.data import open_data
from plica.data.sample import select
from plica.models import load_model, prepare_inputs
from plica.models.adapt import split_normalisation
from plica.runs import load
from plica.runs.check.json_files import Checks, read_object
from plica.runs.schema import CHECKS
from plica.trust import TrustLevel, Verdict, conclude, examine, refresh
from plica.trust.audit.load import models_of
from plica.trust.examine import IMAGES
from plica.trust.run_checks import examine_model
from plica.utils.files import write_json
from plica.utils.messages import plain


def doctor(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="a run, instead of --model and --data")
    ] = None,
    model: Annotated[str | None, typer.Option(help="the model, as for plica radius")] = None,
    data: Annotated[Path | None, typer.Option(help="labelled images, as for plica radius")] = None,
    weights: WeightsOption = None,
    surrogate: Annotated[
        list[str] | None, typer.Option(help="another model of the same task, whose points are tried on this one")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="images to attack; up to 256 are examined")] = 64,
    seed: Annotated[int, typer.Option(help="random seed of the sample and the checks")] = 0,
    bounds: Annotated[str, typer.Option(help="bounds of --data: two numbers, or an .npz with low and high")] = "0,1",
    device: DeviceOption = "cpu",
    trust: Annotated[
        bool, typer.Option("--trust", help="load models that are programs; run the Python code that the run names")
    ] = False,
) -> None:
    """Look for problems that make results on a model misleading: wrong pixels, masked gradients, random outputs."""
    with wrong_input(), Console(stderr=True).status("examining"):
        if directory is not None:
            verdict = _run(directory, model, weights, images, seed, device, trust)
        elif model is None or data is None:
            raise ValueError("Give a run, or --model and --data.")
        else:
            box = read_bounds(bounds)
            verdict = _model(model, data, weights, surrogate or [], box, images, seed, device, trust)
    _print(verdict)
    if verdict.belief is TrustLevel.NOT_BELIEVED:
        raise typer.Exit(Status.OTHER)


def _run(directory: Path, model, weights, images: int, seed: int, device: str, trust: bool) -> Verdict:
    """Examine the models of a run, store the findings in its directory, and update its verdict."""
    run = load(directory)
    specs = {} if model is None else {"": model}
    models = models_of(run, specs, None if weights is None else str(weights), trust, device)
    found = {
        name: examine_model(run, name, net, images, run.bounds.pair, seed).record() for name, net in models.items()
    }
    examined = {**read_object(run.directory / CHECKS, Checks), **found}
    with suppress(OSError):  # a run that is not ours to write to
        write_json(run.directory / CHECKS, examined)
        refresh(run)
    return conclude(run, examined)


def _model(
    spec: str, data: Path, weights, surrogates: list[str], bounds: Bounds, images: int, seed: int, device: str, trust
) -> Verdict:
    source = open_data(data, allow_out_of_range=not bounds.is_default, takes_goals=False)
    x, y = source.read(select(source.labels, min(IMAGES, len(source)), None, "balanced", seed))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    net = load_model(spec, weights, device, trust)
    others = [load_model(other, None, device, trust) for other in surrogates]
    net, x, y = prepare_inputs(net, x[order], y[order])
    return examine(net, x, y, bounds=bounds.pair, images=images, seed=seed, surrogates=others,
                   spec=split_normalisation(spec)[0])  # fmt: skip


def _print(verdict: Verdict) -> None:
    """The findings, the heaviest first, and the verdict."""
    for finding in verdict.findings:
        print(plain(f"{finding.weight.name.lower()}, {finding.check}: {finding.sentence}"))
    print(f"{len(verdict.checks)} checks: {verdict}")
