"""`plica radius`: the nearest misclassified input of every image."""

from typing import Any

import plica
from plica.cli.options import asks_one_model
from plica.cli.question import WRITES, answer_question, read_distance

EPILOG = f"""{WRITES}

    plica radius --model net.py:make --weights net.safetensors --data test.npz --metric l2 --out runs/l2

    plica radius --model plica.demo:resnet18 --data cifar10.npz --metric l1.5 --gradients 300 --n 10 --out runs/l1.5

    plica radius --model plica.demo:resnet18 --data cifar10.npz --through flow --metric theta --n 10 --out runs/flow"""


@asks_one_model
def radius(**options: Any) -> None:
    """Find, for every image, the nearest input that the model gets wrong, and its distance: the robustness radius."""
    distance = options["metric"], options["through"]
    answer_question("radius", options, lambda within: plica.MinRadius(*read_distance(*distance, within)))
