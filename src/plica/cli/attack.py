"""`plica attack`: a misclassified input within a radius of every image."""

from typing import Annotated, Any

import typer

import plica
from plica.cli.options import asks_one_model
from plica.cli.question import WRITES, answer_question, read_distance
from plica.core.domain.bounds import Bounds
from plica.core.formulations import parse_radius

EPILOG = f"""{WRITES}

    plica attack --model net.py:make --weights net.safetensors --data test.npz --metric linf --radius 8/255 --out runs/8

    plica attack --model plica.demo:resnet18 --data cifar10.npz --metric l2 --radius 0.5 --loss ce --out runs/half"""


@asks_one_model
def attack(
    *,
    radius: Annotated[str, typer.Option(help="largest distance allowed: 0.5 or 8/255")],
    loss: Annotated[str, typer.Option(help="the loss to maximise: margin, ce (cross-entropy) or dlr")] = "margin",
    **options: Any,
) -> None:
    """Find, for every image, an input within the radius that the model gets wrong."""

    def question(within: Bounds) -> plica.MaxLoss:
        distance, perturbation = read_distance(options["metric"], options["through"], within)
        return plica.MaxLoss(distance, parse_radius(radius), loss, perturbation)

    answer_question("attack", options | {"radius": radius, "loss": loss}, question)
