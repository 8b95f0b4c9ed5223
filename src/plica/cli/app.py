"""`plica radius` and `plica attack`, and the exit status: 0 done, 2 wrong input (one sentence), 1 anything else.

Every command line imports this module and with it all commands. matplotlib, which takes as long as they do together, is
therefore imported where something is drawn.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

import plica
from plica.cli import compare, figures, report, show
from plica.cli.audit import audit
from plica.cli.directories import export, merge
from plica.cli.doctor import doctor
from plica.cli.evaluate import evaluate, plan
from plica.cli.run import WrongInputError, parse_radius, read_distance, run
from plica.data import registry as data_forms
from plica.data.bounds import Bounds
from plica.metrics import metric_names
from plica.models import registry as model_forms
from plica.perturbations import perturbation_names

app = typer.Typer(
    name="plica",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="How far is the nearest input that a PyTorch classifier gets wrong?",
    epilog="`plica radius --help` shows examples. Exit status: 0 done, 2 wrong input, 1 anything else.",
)

ModelOption = Annotated[
    str,
    typer.Option(
        help=f"takes pixels in [0, 1] and gives logits: {model_forms.help_text()}; with @imagenet or "
        "@mean/deviation behind it a normalisation comes before it"
    ),
]
WeightsOption = Annotated[Path | None, typer.Option(help="a state dict, .safetensors or .pt (no pickled objects)")]
DataOption = Annotated[Path, typer.Option(help=data_forms.help_text())]
MetricOption = Annotated[str, typer.Option(help=f"{metric_names()} of your own")]
ThroughOption = Annotated[
    str | None,
    typer.Option(
        help=f"a perturbation other than x + delta: {perturbation_names()}; --metric theta is its own distance"
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        help=f"auto (the best that the metric allows), or {', '.join(m for m in plica.methods() if m != 'auto')}"
    ),
]
GradientsOption = Annotated[int, typer.Option(min=1, help="budget of gradient evaluations per image")]
CountOption = Annotated[int | None, typer.Option("--n", help="so many images, the first if --sample says nothing else")]
SampleOption = Annotated[
    str | None, typer.Option(help="which N images: first (default), random, or balanced over the classes, by --seed")
]
IndicesOption = Annotated[str | None, typer.Option(help="these rows of the data: 3,7,20-29, or a text file of such")]
BoundsOption = Annotated[
    str, typer.Option(help="of the inputs: two numbers, or an .npz with low, high and mask (what may move) per feature")
]
SeedOption = Annotated[int, typer.Option(help="answers depend on it and on the image alone")]
TrustOption = Annotated[bool, typer.Option("--trust", help="read models that are programs: TorchScript, torch.export")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps")]
OutOption = Annotated[Path, typer.Option(help="directory for the results; must be new or empty")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace a former run in --out")]

WRITES = (
    "--out receives samples.parquet (one row per image), x_adv.safetensors, inputs.safetensors, summary.json and "
    "perturbations.png, all of them or none."
)


def _version(asked: bool) -> bool:
    if asked:
        print(version("plica"))
        raise typer.Exit
    return asked


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """What stands before the commands."""


@app.command(
    epilog=f"""{WRITES}

    plica radius --model net.py:make --weights net.safetensors --data test.npz --metric l2 --out runs/l2

    plica radius --model plica.demo:resnet18 --data cifar10.npz --metric l1.5 --gradients 300 --n 10 --out runs/l1.5

    plica radius --model plica.demo:resnet18 --data cifar10.npz --through flow --metric theta --n 10 --out runs/flow"""
)
def radius(
    model: ModelOption,
    data: DataOption,
    metric: MetricOption,
    out: OutOption,
    through: ThroughOption = None,
    weights: WeightsOption = None,
    method: MethodOption = "auto",
    gradients: GradientsOption = 100,
    n: CountOption = None,
    sample: SampleOption = None,
    indices: IndicesOption = None,
    seed: SeedOption = 0,
    bounds: BoundsOption = "0,1",
    device: DeviceOption = "cpu",
    trust: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Find, for every image, the nearest input that the model gets wrong, and its distance: the robustness radius."""
    given = locals()  # the options by their names, as summary.json keeps them
    run("radius", given, lambda within: plica.MinRadius(*read_distance(metric, through, within)))


@app.command(
    epilog=f"""{WRITES}

    plica attack --model net.py:make --weights net.safetensors --data test.npz --metric linf --radius 8/255 --out runs/8

    plica attack --model plica.demo:resnet18 --data cifar10.npz --metric l2 --radius 0.5 --loss ce --out runs/half"""
)
def attack(
    model: ModelOption,
    data: DataOption,
    metric: MetricOption,
    radius: Annotated[str, typer.Option(help="largest distance allowed: 0.5 or 8/255")],
    out: OutOption,
    loss: Annotated[str, typer.Option(help="margin, ce or dlr")] = "margin",
    through: ThroughOption = None,
    weights: WeightsOption = None,
    method: MethodOption = "auto",
    gradients: GradientsOption = 100,
    n: CountOption = None,
    sample: SampleOption = None,
    indices: IndicesOption = None,
    seed: SeedOption = 0,
    bounds: BoundsOption = "0,1",
    device: DeviceOption = "cpu",
    trust: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Find, for every image, an input within the radius that the model gets wrong, where there is one."""
    given = locals()

    def pose(within: Bounds) -> plica.MaxLoss:
        distance, moving = read_distance(metric, through, within)
        return plica.MaxLoss(distance, parse_radius(radius), loss, moving)

    run("attack", given, pose)


app.command()(audit)
app.command()(doctor)
app.command(epilog=report.EPILOG)(report.report)
app.command(epilog=figures.EPILOG)(figures.figures)
app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=show.EPILOG)(show.show)
app.command(
    epilog="""plica evaluate plan.yaml --out runs/all

    plica evaluate --model net.py:make --data test.npz --metric linf --radius 8/255 --method autoattack --out runs/aa

    plica evaluate plan.yaml --shard 2/8 --out runs/shard-2"""
)(evaluate)
app.command()(plan)
app.command(epilog="plica merge runs/shard-* --out runs/all")(merge)
app.command()(export)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; gives the exit status. A fault of the program itself, and no other, shows a traceback."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # package.module:factory is looked for in the current folder too, as `python -m` does
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"plica: warning: {message}", file=sys.stderr)
        try:
            status = app(args=words, prog_name="plica", standalone_mode=False) or 0
        except WrongInputError as refused:
            print(f"plica: {refused}", file=sys.stderr)
            return 2
        except typer.TyperException as misused:
            print(f"plica: {misused.format_message().rstrip('.')}; see plica --help.", file=sys.stderr)
            return 2
    if status == 130:  # how typer hands on an interruption
        print("plica: interrupted, nothing was written.", file=sys.stderr)
        return 1
    return status
