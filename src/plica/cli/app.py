"""`plica radius` and `plica attack`, and the exit status: 0 done, 2 wrong input (one sentence), 1 anything else."""

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

import plica
from plica.cli.run import WrongInputError, parse_radius, read_metric, run

app = typer.Typer(
    name="plica",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="How far is the nearest input that a PyTorch classifier gets wrong?",
    epilog="`plica radius --help` shows examples. Exit status: 0 done, 2 wrong input, 1 anything else.",
)

ModelOption = Annotated[
    str, typer.Option(help="file.py:factory or package.module:factory; logits from pixels in [0, 1]")
]
WeightsOption = Annotated[Path | None, typer.Option(help="a state dict, .safetensors or .pt (no pickled objects)")]
DataOption = Annotated[Path, typer.Option(help=".npz with x (uint8, or floats in [0, 1]) and y (class numbers)")]
MetricOption = Annotated[
    str,
    typer.Option(
        help="l1, l1.5, l2, l8, linf, ...; lpips, ssim, ciede2000, ... (a wrong name lists them all); or "
        "module:function for your own distance"
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        help=f"auto (the best that the metric allows), or {', '.join(m for m in plica.methods() if m != 'auto')}"
    ),
]
GradientsOption = Annotated[int, typer.Option(min=1, help="budget of gradient evaluations per image")]
CountOption = Annotated[int | None, typer.Option("--n", help="the first N images only")]
SeedOption = Annotated[int, typer.Option(help="answers depend on it and on the image alone")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps")]
OutOption = Annotated[Path, typer.Option(help="directory for the results; must be new or empty")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace a former run in --out")]

WRITES = (
    "--out receives samples.parquet (one row per image), x_adv.safetensors, summary.json and perturbations.png, "
    "all of them or none."
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

    plica radius --model plica.demo:resnet18 --data cifar10.npz --metric l1.5 --gradients 300 --n 10 --out runs/l1.5"""
)
def radius(
    model: ModelOption,
    data: DataOption,
    metric: MetricOption,
    out: OutOption,
    weights: WeightsOption = None,
    method: MethodOption = "auto",
    gradients: GradientsOption = 100,
    n: CountOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    overwrite: OverwriteOption = False,
) -> None:
    """Find, for every image, the nearest input that the model gets wrong, and its distance: the robustness radius."""
    given = locals()  # the options by their names, as summary.json keeps them
    run("radius", given, lambda: plica.MinRadius(read_metric(metric)))


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
    weights: WeightsOption = None,
    method: MethodOption = "auto",
    gradients: GradientsOption = 100,
    n: CountOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    overwrite: OverwriteOption = False,
) -> None:
    """Find, for every image, an input within the radius that the model gets wrong, where there is one."""
    given = locals()
    run("attack", given, lambda: plica.MaxLoss(read_metric(metric), parse_radius(radius), loss))


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
