"""`plica radius`: the nearest misclassified input of every image."""

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

EPILOG = f"""{WRITES}

    plica radius --model net.py:make --weights net.safetensors --data test.npz --metric l2 --out runs/l2

    plica radius --model plica.demo:resnet18 --data cifar10.npz --metric l1.5 --gradients 300 --n 10 --out runs/l1.5

    plica radius --model plica.demo:resnet18 --data cifar10.npz --through flow --metric theta --n 10 --out runs/flow"""


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
    options = locals()  # by their names, as summary.json keeps them
    answer("radius", options, lambda within: plica.MinRadius(*read_distance(metric, through, within)))
