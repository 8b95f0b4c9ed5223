"""Networks trained in many ways at equal gradients, and their radii: clean accuracy, mean radius and accuracy by norm.

    python benchmarks/training.py --data ../shared/data --epochs 2 --images 2000 --test 200 --into build/training.md

Each row trains the same small network on `--images` of CIFAR-10 with the same number of gradients an image in all; its
radii are those of `plica.attack` at `--gradients`. Means over `--seeds` seeds, and behind them the largest difference
from the mean.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import plica
from plica.training import Inner, Union
from plica.training.augment import augmented
from plica.training.inner import Asker

NORMS = {"linf": plica.Lp("inf"), "l2": plica.Lp(2), "l1": plica.Lp(1)}
RADII = {"linf": 4 / 255, "l2": 0.4, "l1": 6.0}
BATCH = 64


def balls(kind: type) -> list:
    return [kind(NORMS[name], RADII[name], loss="ce") for name in NORMS]


def perceptual(net: nn.Module) -> Asker:
    question = plica.MaxLoss(plica.Perceptual.of(net, ["1", "3"]), 0.2, loss="ce")
    return Inner(question)


# name: the inner problem of a network, or None; and the outer loss
WAYS: dict[str, tuple[Callable[[nn.Module], Asker | None], str]] = {
    "standard": (lambda net: None, "plain"),
    **{
        f"PGD {name}": (lambda net, name=name: Inner(plica.MaxLoss(NORMS[name], RADII[name], loss="ce")), "plain")
        for name in NORMS
    },
    "PGD l2, wrong images as they are": (
        lambda net: Inner(plica.MaxLoss(NORMS["l2"], RADII["l2"], loss="ce"), skip_misclassified=True),
        "plain",
    ),
    "one norm a batch": (lambda net: Union(balls(plica.MaxLoss)), "plain"),
    "MSD": (lambda net: Union(balls(plica.MaxLoss), "msd"), "plain"),
    "PAT, bounded by itself": (perceptual, "plain"),
    "radius l2": (lambda net: Inner(plica.MinRadius(NORMS["l2"]), cap=2 * RADII["l2"]), "plain"),
    "radius, union": (
        lambda net: Union(
            [plica.MinRadius(d) for d in NORMS.values()], "estimate", caps=[2 * r for r in RADII.values()]
        ),
        "plain",
    ),
    "TRADES l2": (lambda net: Inner(plica.MaxLoss(NORMS["l2"], RADII["l2"], loss="ce")), "trades"),
}


def network(seed: int) -> nn.Module:
    """Four layers, 0.1 ms a gradient."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def train(way: str, x: Tensor, y: Tensor, epochs: float, seed: int) -> tuple[nn.Module, float]:
    """The network after as many gradients an image as `epochs` of four inner ones and one outer take; the seconds."""
    net, (make, outer) = network(seed), WAYS[way]
    inner = make(net)
    generator, start = torch.Generator().manual_seed(seed), time.process_time()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True)
    budget, spent, step = 5 * epochs * len(x), 0, 0
    while spent < budget:
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        z, labels, done = augmented(x[rows], generator), y[rows], spent / budget
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * done)) / 2
        if inner is None:
            loss, spent = cross_entropy(net(z), labels), spent + BATCH
        else:
            inner.scale = min(1.0, (done + 1e-3) / 0.1)
            hard = inner(net, z, labels)
            loss, spent = hard.loss(net, outer), spent + BATCH * (1 + (outer != "plain")) + int(hard.gradients.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    return net.eval(), time.process_time() - start


def measure(net: nn.Module, x: Tensor, y: Tensor, gradients: int) -> dict[str, float]:
    """Clean accuracy; for each norm, and all together, the accuracy at half of the radius and at it; mean radii."""
    numbers: dict[str, float] = {"clean": float((net(x).argmax(1) == y).double().mean())}
    standing = [torch.ones(len(x), dtype=torch.bool)] * 2
    for name, metric in NORMS.items():
        distance = plica.attack(net, x, y, plica.MinRadius(metric), gradients=gradients).distance
        held = [distance > share * RADII[name] for share in (0.5, 1.0)]
        standing = [a & b for a, b in zip(standing, held, strict=True)]
        for size, robust in zip(("half", "whole"), held, strict=True):
            numbers[f"{name} {size}"] = float(robust.double().mean())
        numbers[f"{name} mean"] = float(distance.clamp(max=10 * RADII[name]).mean())
    numbers |= {"all half": float(standing[0].double().mean()), "all whole": float(standing[1].double().mean())}
    return numbers


Labelled = tuple[Tensor, Tensor]


def table(ways: list[str], images: Labelled, test: Labelled, epochs: float, seeds: int, gradients: int) -> str:
    """A row for each way."""
    lines = [
        "| way | clean % | linf 2, 4/255 % | l2 .2, .4 % | l1 3, 6 % | all three % | mean linf x 255, l2, l1 | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in ways:
        nets = [train(way, *images, epochs, seed) for seed in range(seeds)]
        each = [measure(net, *test, gradients) for net, _ in nets]

        def shown(key: str, factor: float = 100, digits: int = 1, each: list = each) -> str:
            values = factor * np.array([numbers[key] for numbers in each])
            spread = f" ± {abs(values - values.mean()).max():.{digits}f}" if len(values) > 1 else ""
            return f"{values.mean():.{digits}f}{spread}"

        cells = [shown("clean"), *(f"{shown(f'{name} half')}, {shown(f'{name} whole')}" for name in (*NORMS, "all"))]
        cells += [f"{shown('linf mean', 255, 2)}, {shown('l2 mean', 1, 3)}, {shown('l1 mean', 1, 2)}"]
        lines.append(f"| {way} | {' | '.join(cells)} | {np.mean([seconds for _, seconds in nets]):.0f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def cost(x: Tensor, y: Tensor) -> str:
    """Time of an inner step over that of the network's own gradient, on one batch, median of five."""
    net = network(0).eval()

    def seconds(run: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        return sorted(times)[2]

    def gradient() -> None:
        for _ in range(4):
            z = x.clone().requires_grad_(True)
            torch.autograd.grad(cross_entropy(net(z), y), z)

    lines, own = [], seconds(gradient)
    for name, metric in NORMS.items():
        for question in (plica.MinRadius(metric), plica.MaxLoss(metric, RADII[name], loss="ce")):
            inner = Inner(question)
            inner(net, x, y)
            kind = type(question).__name__
            lines.append(f"{kind} {name}: {seconds(lambda inner=inner: inner(net, x, y)) / own:.2f}")
    return f"own gradient {own / 4 / len(x) * 1e3:.3f} ms an image; " + ", ".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/cifar10_*.npz")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--gradients", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), help="some of the rows")
    parser.add_argument("--into", type=Path, help="a file for the table")
    parser.add_argument("--cost", action="store_true", help="only the time of an inner step over that of a gradient")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, y = _images(arguments.data / "cifar10" / "cifar10_train_20000.npz", arguments.images)
    if arguments.cost:
        print(cost(x[:128], network(0).eval()(x[:128]).argmax(1)))
        return
    test = _images(arguments.data / "cifar10" / "cifar10_test_5000.npz", arguments.test)
    text = table(arguments.ways, (x, y), test, arguments.epochs, arguments.seeds, arguments.gradients)
    if arguments.into:
        arguments.into.parent.mkdir(parents=True, exist_ok=True)
        arguments.into.write_text(text)


def _images(file: Path, n: int) -> tuple[Tensor, Tensor]:
    with np.load(file) as data:
        rows = np.random.default_rng(0).permutation(len(data["y"]))[:n]
        return torch.tensor(data["x"][rows]).float() / 255, torch.tensor(data["y"][rows])


if __name__ == "__main__":
    main()
