"""The options that several commands take, each declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import plica
from plica import goals
from plica.core.model.draws import MOST
from plica.data import registry as data_forms
from plica.metrics import metric_names
from plica.models import registry as model_forms
from plica.perturbations import perturbation_names

# of `plica radius` and `plica attack`
ModelOption = Annotated[
    str,
    typer.Option(
        help=f"takes pixels in [0, 1] and gives logits: {model_forms.help_text()}; with @imagenet or "
        "@mean/deviation behind it a normalisation comes before it"
    ),
]
DataOption = Annotated[Path, typer.Option(help=data_forms.help_text())]
MetricOption = Annotated[str, typer.Option(help=f"{metric_names()} of your own")]
GoalOption = Annotated[
    str | None,
    typer.Option(help=f"what counts as a success, if not another class: {goals.WRITTEN}; it is given y of the data"),
]
LevelsOption = Annotated[
    int | None,
    typer.Option(min=2, help="every pixel found is one of so many even levels between the bounds: 256 for 8 bits"),
]
TargetOption = Annotated[
    int | None, typer.Option(min=0, help="the only class that counts as a success; images of that class are left out")
]
TargetsOption = Annotated[
    Path | None, typer.Option(help="the same for each image: a .npy file of one class for every row of the data")
]
ThroughOption = Annotated[
    str | None,
    typer.Option(
        help=f"a perturbation other than x + delta: {perturbation_names()}; --metric theta measures its parameters"
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        help=f"auto (the best that the metric allows), or {', '.join(m for m in plica.methods() if m != 'auto')}"
    ),
]
GradientsOption = Annotated[int, typer.Option(min=1, help="budget of gradient evaluations per image")]
DrawsOption = Annotated[
    int | None,
    typer.Option(min=1, max=MOST, help="for a model with random outputs: attack the mean over so many draws, say 16"),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        help="of the model in the search: own, or by autocast bf16 or fp16, for which GPUs have faster units; "
        "successes are judged with the model as it is in any case"
    ),
]
CountOption = Annotated[
    int | None, typer.Option("--n", help="number of images; the first ones, unless --sample is given")
]
OutOption = Annotated[Path, typer.Option(help="directory for the results; must be new or empty")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace a former run in --out")]
ReplaceOption = Annotated[bool, typer.Option("--overwrite", help="replace files that are there")]
SeedOption = Annotated[int, typer.Option(help="answers depend on it and on the image alone")]

# of commands that ask a model
WeightsOption = Annotated[
    Path | None, typer.Option(help="a state dict or a checkpoint with one, .safetensors or .pt (no pickled objects)")
]
TrustOption = Annotated[bool, typer.Option("--trust", help="read models that are programs: TorchScript, torch.export")]
DEVICE = typer.Option(help="cpu, cuda, cuda:1, mps")
DeviceOption = Annotated[str, DEVICE]
DeviceOrPlansOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; cuda:0,cuda:1 or all: one process for each GPU")
]
BOUNDS = typer.Option(help="of the inputs: two numbers, or an .npz with low, high and mask (what may move) per feature")
BoundsOption = Annotated[str, BOUNDS]
BoundsOrPlansOption = Annotated[str | None, BOUNDS]
SampleOption = Annotated[
    str | None, typer.Option(help="which N images: first (default), random, or balanced over the classes, by --seed")
]
IndicesOption = Annotated[str | None, typer.Option(help="these rows of the data: 3,7,20-29, or a text file of them")]

# of commands that read runs
RunsArgument = Annotated[list[Path], typer.Argument(help="directories of runs on the same images", metavar="RUN...")]


def asks_one_model(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that every question to one model takes, before its own; it is called with all of
    them by name, as summary.json keeps them."""
    shared, own = (inspect.signature(function, eval_str=True).parameters for function in (_one_model, command))
    named = [*shared.values(), *(option for option in own.values() if option.kind is option.KEYWORD_ONLY)]

    @functools.wraps(command)
    def with_options(**options: Any) -> None:
        command(**options)

    with_options.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    with_options.__annotations__ = {option.name: option.annotation for option in named}
    return with_options


def _one_model(
    *,
    model: ModelOption,
    data: DataOption,
    metric: MetricOption,
    out: OutOption,
    through: ThroughOption = None,
    goal: GoalOption = None,
    levels: LevelsOption = None,
    target: TargetOption = None,
    targets: TargetsOption = None,
    weights: WeightsOption = None,
    method: MethodOption = "auto",
    gradients: GradientsOption = 100,
    draws: DrawsOption = None,
    precision: PrecisionOption = None,
    n: CountOption = None,
    sample: SampleOption = None,
    indices: IndicesOption = None,
    seed: SeedOption = 0,
    bounds: BoundsOption = "0,1",
    device: DeviceOption = "cpu",
    trust: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """The options of `asks_one_model`."""
