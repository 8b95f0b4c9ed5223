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
        help=f"a model from pixels in [0, 1] to logits: {model_forms.help_text()}; append @imagenet or "
        "@mean/deviation to normalise pixels first"
    ),
]
DataOption = Annotated[Path, typer.Option(help=data_forms.help_text())]
MetricOption = Annotated[str, typer.Option(help=f"{metric_names()} of your own")]
GoalOption = Annotated[
    str | None,
    typer.Option(help=f"what counts as a success, instead of another class: {goals.WRITTEN}; y is that of the data"),
]
LevelsOption = Annotated[
    int | None,
    typer.Option(min=2, help="restrict results to this many evenly spaced values between the bounds: 256 for 8 bits"),
]
TargetOption = Annotated[
    int | None, typer.Option(min=0, help="the only class that counts as a success; images of that class are left out")
]
TargetsOption = Annotated[
    Path | None, typer.Option(help="a target class for each image: a .npy file with a class for every row of the data")
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
    typer.Option(min=1, max=MOST, help="for a model with random outputs: attack the mean over this many draws, say 16"),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        help="precision of the model during the search: own, or bf16 or fp16 by autocast, for which GPUs have faster "
        "units; successes are always judged in the model's own precision"
    ),
]
CountOption = Annotated[
    int | None, typer.Option("--n", help="number of images; the first ones, unless --sample is given")
]
OutOption = Annotated[Path, typer.Option(help="directory for the results; must be new or empty")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace an earlier run in --out")]
ReplaceOption = Annotated[bool, typer.Option("--overwrite", help="replace existing files")]
SeedOption = Annotated[int, typer.Option(help="random seed; the result for an image depends only on it and the image")]

# of commands that run a model
WeightsOption = Annotated[
    Path | None, typer.Option(help="a state dict or a checkpoint with one, .safetensors or .pt (no pickled objects)")
]
TrustOption = Annotated[bool, typer.Option("--trust", help="load models that are programs: TorchScript, torch.export")]
DEVICE = typer.Option(help="cpu, cuda, cuda:1, mps")
DeviceOption = Annotated[str, DEVICE]
DeviceOrPlansOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; cuda:0,cuda:1 or all: one process for each GPU")
]
BOUNDS = typer.Option(
    help="bounds of the inputs: two numbers, or an .npz with low, high and mask (what may change) for each feature"
)
BoundsOption = Annotated[str, BOUNDS]
BoundsOrPlansOption = Annotated[str | None, BOUNDS]
SampleOption = Annotated[
    str | None, typer.Option(help="which N images: first (default), random, or balanced over classes; uses --seed")
]
IndicesOption = Annotated[str | None, typer.Option(help="rows of the data to use: 3,7,20-29, or a text file of them")]

# of commands that read runs
RunsArgument = Annotated[list[Path], typer.Argument(help="directories of runs on the same images", metavar="RUN...")]


def asks_one_model(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every question to one model before the command's own. The command is called with all of them
    by name, as they are stored in summary.json."""
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
