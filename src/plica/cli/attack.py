"""`plica attack`: a misclassified input within a radius of every image."""

from typing import Annotated

import typer

import plica
from plica.cli.options import (
    BoundsOption,
    CountOption,
    DataOption,
    DeviceOption,
    GradientsOption,
    IndicesOption,
    MethodOption,
    MetricOption,
    ModelOption,
    OutOption,
    OverwriteOption,
    SampleOption,
    SeedOption,
    ThroughOption,
    TrustOption,
    WeightsOption,
)
from plica.cli.question import WRITES, answer, read_distance
from plica.core.bounds import Bounds
from plica.core.formulations import parse_radius

EPILOG = f"""{WRITES}

    plica attack --model net.py:make --weights net.safetensors --data test.npz --metric linf --radius 8/255 --out runs/8

    plica attack --model plica.demo:resnet18 --data cifar10.npz --metric l2 --radius 0.5 --loss ce --out runs/half"""


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
    options = locals()  # by their names, as summary.json keeps them

    def question(within: Bounds) -> plica.MaxLoss:
        distance, perturbation = read_distance(metric, through, within)
        return plica.MaxLoss(distance, parse_radius(radius), loss, perturbation)

    answer("attack", options, question)
