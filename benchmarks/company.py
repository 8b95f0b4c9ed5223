"""Does the answer for an image depend on the images beside it? MinRadius under l2, alone and in company.

    python benchmarks/company.py --into build/company.jsonl [--only attention lstm] [--precision float32 bfloat16]

Each network (random weights, norms with statistics of their own; with --data also trained ones of that folder) answers
for four CIFAR-like images together, in the reverse order, and for the first and the last one alone. The table says how
many of the perturbed images have the same bits, and the largest relative difference of a radius. Lines that are in the
file already are not measured again.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torchvision
from torch import nn

import plica

IMAGES, GRADIENTS, CLASSES = 4, 10, 10
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TRAINED = ("resnet_2b", "cifar_base_kw", "cifar_wide_kw", "cifar10_small", "cifar10_large")


class Of(nn.Module):
    """Layers, and a function of them and of the images."""

    def __init__(self, forward: Callable, **layers: nn.Module):
        super().__init__()
        self.layers, self.function = nn.ModuleDict(layers), forward

    def forward(self, x):
        return self.function(self.layers, x)


def convolutions(norm=None, act: type[nn.Module] = nn.ReLU, pool: type[nn.Module] = nn.MaxPool2d) -> nn.Module:
    """Two of them; the last layer takes 1617 numbers, no multiple of 4."""
    parts = [nn.Conv2d(3, 16, 3, padding=1), *([norm(16)] if norm else []), act(), pool(2)]
    parts += [nn.Conv2d(16, 33, 3), *([norm(33)] if norm else []), act(), pool(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(33 * 49, CLASSES))


def perceptron(width: int, depth: int, act: type[nn.Module], norm: type[nn.Module] | None = None) -> nn.Module:
    sizes, layers = [3072, *[width] * depth], [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), *([norm(after)] if norm else []), act()]  # type: ignore[call-arg]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def pooled(*layers: nn.Module, channels: int = 32) -> nn.Module:
    """A first convolution, the layers, and the mean of every channel."""
    stem = nn.Conv2d(3, channels, 4, stride=4), nn.BatchNorm2d(channels), nn.ReLU()
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES))


def patches(x):
    """(b, 64, 48): patches of 4 x 4."""
    return x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(len(x), 64, 48)


def attention(norm_first: bool, activation: str) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        64, 4, 128, dropout=0, activation=activation, batch_first=True, norm_first=norm_first
    )
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Of(
        lambda net, x: net["last"](net["encoder"](net["embed"](patches(x))).mean(1)),
        embed=nn.Linear(48, 64), encoder=encoder, last=nn.Linear(64, CLASSES),
    )  # fmt: skip


def recurrent(kind: type[nn.Module]) -> nn.Module:
    return Of(
        lambda net, x: net["last"](net["rows"](x.permute(0, 2, 1, 3).flatten(2))[0][:, -1]),
        rows=kind(96, 48, batch_first=True), last=nn.Linear(48, CLASSES),
    )  # fmt: skip


def mixer() -> nn.Module:
    def forward(net, x):
        x = net["embed"](patches(x))
        x = x + net["tokens"](net["norm"](x).transpose(1, 2)).transpose(1, 2)
        return net["last"]((x + net["channels"](x)).mean(1))

    sides = {
        name: nn.Sequential(nn.Linear(n, 96), nn.GELU(), nn.Linear(96, n))
        for name, n in (("tokens", 64), ("channels", 40))
    }
    return Of(forward, embed=nn.Linear(48, 40), norm=nn.LayerNorm(40), last=nn.Linear(40, CLASSES), **sides)


def squeezed() -> nn.Module:
    """Squeeze and excitation."""
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.SiLU(), nn.Conv2d(8, 32, 1), nn.Sigmoid())
    return pooled(Of(lambda net, x: x * net["gate"](x), gate=gate))


def spectrum() -> nn.Module:
    """Features of a Fourier transform, which has no half precision."""
    return Of(
        lambda net, x: net["last"](torch.fft.rfft2(x.float()).abs().to(x.dtype).flatten(1)),
        last=nn.Linear(3 * 32 * 17, CLASSES),
    )


def vision(name: str, **more) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, num_classes=CLASSES, **more)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES)),
    "perceptron, ReLU, 33 wide": lambda: perceptron(33, 2, nn.ReLU),
    "perceptron, GELU, 64": lambda: perceptron(64, 2, nn.GELU),
    "perceptron, SiLU, layer norm, 50": lambda: perceptron(50, 3, nn.SiLU, nn.LayerNorm),
    "perceptron, tanh, batch norm, 40": lambda: perceptron(40, 2, nn.Tanh, nn.BatchNorm1d),
    "perceptron, RMS norm, 48": lambda: perceptron(48, 2, nn.ELU, nn.RMSNorm),
    "perceptron, ReLU, 512, 4 layers": lambda: perceptron(512, 4, nn.ReLU),
    "convolutions": convolutions,
    "convolutions, batch norm": lambda: convolutions(nn.BatchNorm2d),
    "convolutions, instance norm, ELU": lambda: convolutions(nn.InstanceNorm2d, nn.ELU),
    "convolutions, batch norm, GELU, means": lambda: convolutions(nn.BatchNorm2d, nn.GELU, nn.AvgPool2d),
    "convolutions, group norm": lambda: pooled(nn.Conv2d(32, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.ReLU()),
    "convolutions, layer norm": lambda: pooled(nn.Conv2d(32, 48, 3), nn.LayerNorm([6, 6]), nn.ReLU()),
    "depthwise, Hardswish": lambda: pooled(nn.Conv2d(32, 32, 3, groups=32), nn.Hardswish(), nn.Conv2d(32, 64, 1)),
    "groups of channels": lambda: pooled(nn.Conv2d(32, 64, 3, groups=8), nn.BatchNorm2d(64), nn.Mish()),
    "dilated": lambda: pooled(nn.Conv2d(32, 32, 3, dilation=2, padding=2), nn.LeakyReLU(), nn.Conv2d(32, 32, 3)),
    "transposed": lambda: pooled(nn.ConvTranspose2d(32, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3)),
    "enlarged bilinearly": lambda: pooled(nn.UpsamplingBilinear2d(scale_factor=2), nn.Conv2d(32, 24, 3), nn.GELU()),
    "pixel shuffle": lambda: pooled(nn.PixelShuffle(2), nn.Conv2d(8, 40, 3), nn.PReLU(40)),
    "squeeze and excitation": squeezed,
    "mixer": mixer,
    "attention, norm after": lambda: attention(False, "relu"),
    "attention, norm before, GELU": lambda: attention(True, "gelu"),
    "recurrent": lambda: recurrent(nn.RNN),
    "GRU": lambda: recurrent(nn.GRU),
    "LSTM": lambda: recurrent(nn.LSTM),
    "Fourier transform": spectrum,
    "vision transformer": lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=CLASSES),
    "shufflenet_v2_x0_5": vision("shufflenet_v2_x0_5"),
    "mobilenet_v3_small": vision("mobilenet_v3_small"),
    "mnasnet0_5": vision("mnasnet0_5"),
    "resnet18": vision("resnet18"),
}  # fmt: skip


@torch.no_grad()
def built(name: str, data: Path | None) -> nn.Module:
    """Random weights of one seed; norms of batches as after training, with statistics that are not 0 and 1."""
    if name in TRAINED:
        assert data is not None
        spec = importlib.util.spec_from_file_location("plica_benchmark_data", data / "load.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load_net(name)
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()
    net(images()[:1])  # lazy layers learn their sizes
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            mean, var = layer.running_mean, layer.running_var
            assert mean is not None
            assert var is not None
            mean.normal_(0, 0.1)
            var.uniform_(0.5, 1.5)
    return net


def images() -> torch.Tensor:
    """Smooth images of 8 bits, 3 x 32 x 32."""
    coarse = torch.rand(IMAGES, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return (nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 1) * 255).round() / 255


def measured(net: nn.Module, dtype: torch.dtype) -> dict[str, float]:
    """Of the points: how many were found, how many comparisons there are and have equal bits, and the largest relative
    difference of a radius."""
    net, x = net.to(dtype).requires_grad_(False), images().to(dtype)
    with torch.no_grad():
        y = net(x.repeat(4, 1, 1, 1))[:IMAGES].argmax(1)

    def ask(rows):
        return plica.attack(net, x[rows], y[rows], plica.MinRadius(plica.Lp(2)), gradients=GRADIENTS)

    together, order = ask(list(range(IMAGES))), list(range(IMAGES))[::-1]
    pairs = [*((i, k, ask(order)) for k, i in enumerate(order)), *((i, 0, ask([i])) for i in (0, IMAGES - 1))]
    equal, largest = 0, 0.0
    for i, k, other in pairs:
        equal += int(torch.equal(together.x_adv[i], other.x_adv[k]))
        a, b = float(together.distance[i]), float(other.distance[k])
        largest = max(largest, 0.0 if a == b else abs(a - b) / min(a, b))
    return {"found": int(together.success.sum()), "pairs": len(pairs), "equal": equal, "largest": largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path("build/company.jsonl"))
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32", "bfloat16"])
    parser.add_argument("--data", type=Path, help="folder of trained networks, with a load.py")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.into.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in given.into.read_text().splitlines()] if given.into.is_file() else []
    done = {(row["network"], row["precision"]): row for row in rows}
    for name in given.only or [*NETWORKS, *(TRAINED if given.data else ())]:
        for precision in given.precision:
            if (name, precision) not in done:
                row = {"network": name, "precision": precision}
                row |= measured(built(name, given.data), PRECISIONS[precision])
                with given.into.open("a") as file:
                    print(json.dumps(row), file=file, flush=True)
                done[name, precision] = row
    print("| network | precision | found | same bits | largest difference of a radius |\n|---|---|---:|---:|---:|")
    for (name, precision), row in done.items():
        counts = f"{row['found']} of {IMAGES} | {row['equal']} of {row['pairs']}"
        print(f"| {name} | {precision} | {counts} | {row['largest']:.1e} |")


if __name__ == "__main__":
    main()
