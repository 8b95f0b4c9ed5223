"""Networks trained in many ways at equal gradients, and their radii: clean accuracy, mean radius and accuracy by norm.

    python benchmarks/training.py --data ../shared/data --into build/training --sets table --seeds 3

Each way trains the same small network on `--images` of CIFAR-10 with the same number of gradients an image in all; its
radii are those of `plica.attack` at `--gradients`. Weights and one JSON line for every network are kept in `--into`, so
that a run that was ended goes on where it was, and several at once share the work. `--show` prints the tables of what
is there: means over the seeds, and behind them the largest difference from the mean. `--beside NAME` adds what each way
has more than that one, `--frontier` how far radius training under the union lies beyond the others' frontiers, both
with 95 % intervals by bootstrap of the test images in pairs, which hold the networks fixed; `--figure` draws these.
`--dead` counts the neurons that are 0 on all test images.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from filelock import FileLock, Timeout
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import plica
from plica import plot
from plica.attacks import pgd
from plica.plot.style import line
from plica.training import Inner, Union
from plica.training.augment import augmented
from plica.training.inner import Asker

NORMS = {"linf": plica.Lp("inf"), "l2": plica.Lp(2), "l1": plica.Lp(1)}
RADII = {"linf": 4 / 255, "l2": 0.4, "l1": 6.0}
BATCH = 64
PERCEPTUAL = (0.025, 0.05, 0.1)  # the middle one lets points be about as far away in l2 as RADII does
TEST = Path("cifar10", "cifar10_test_5000.npz")
SHORT = 0.25  # radii that steps which are too short sum to


@dataclass(frozen=True)
class Way:
    """How a network is trained.

    Attributes:
        title: of its row.
        inner: the inner problem for a network; None for training on the images themselves.
        outer: the loss at the points found.
        length: what the steps of a MaxLoss sum to, in radii.
        warmup: share of the training in which radii and caps grow from 0.
    """

    title: str
    inner: Callable[[nn.Module], Asker] | None
    outer: str = "plain"
    length: float = pgd.SETTINGS.total_length
    warmup: float = 0.1


def ball(norm: str, factor: float = 1.0) -> plica.MaxLoss:
    return plica.MaxLoss(NORMS[norm], factor * RADII[norm], loss="ce")


def balls(factor: float = 1.0) -> list[plica.MaxLoss]:
    return [ball(norm, factor) for norm in NORMS]


def descent(norm: str, factor: float = 1.0, **settings: Any) -> Callable[[nn.Module], Asker]:
    return lambda net: Inner(ball(norm, factor), **settings)


def perceptual(radius: float) -> Callable[[nn.Module], Asker]:
    return lambda net: Inner(plica.MaxLoss(plica.Perceptual.of(net, ["1", "3"]), radius, loss="ce"))


def boundary_union(factor: float, gradients: int = 4) -> Callable[[nn.Module], Asker]:
    caps = [factor * radius for radius in RADII.values()]
    return lambda net: Union([plica.MinRadius(metric) for metric in NORMS.values()], "estimate", gradients, caps=caps)


TABLE = {
    "standard": Way("standard", None),
    **{f"pgd-{norm}": Way(f"PGD {norm}", descent(norm)) for norm in NORMS},
    "pgd-l2-skip": Way("PGD l2, misclassified images as they are", descent("l2", skip_misclassified=True)),
    "one-norm": Way("one norm a batch", lambda net: Union(balls())),
    "msd": Way("MSD", lambda net: Union(balls(), "msd")),
    **{f"pat-{radius:g}": Way(f"PAT by itself, {radius:g}", perceptual(radius)) for radius in PERCEPTUAL},
    "radius-l2": Way("radius l2", lambda net: Inner(plica.MinRadius(NORMS["l2"]), cap=2 * RADII["l2"])),
    "radius-union": Way("radius, union", boundary_union(2)),
    "trades-l2": Way("TRADES l2", descent("l2"), "trades"),
}
# around the settings of the table: radii of balls, and caps, in units of RADII; at twice the radius PGD under l2 alone
# stays at one class for every image unless the radius grows slowly
FRONTIER = {
    **{
        f"pgd-{norm}-x{factor:g}": Way(f"PGD {norm}, radius x {factor:g}", descent(norm, factor))
        for norm, factor in (("l2", 0.5), ("l2", 2), ("linf", 0.5), ("l1", 0.5))
    },
    "pgd-l2-x2-slow": Way("PGD l2, radius x 2 after half of the training", descent("l2", 2), warmup=0.5),
    **{
        f"one-norm-x{factor:g}": Way(f"one norm a batch, radii x {factor:g}", lambda net, f=factor: Union(balls(f)))
        for factor in (0.5, 2)
    },
    **{f"radius-union-x{factor}": Way(f"radius, union, caps x {factor}", boundary_union(factor)) for factor in (1, 4)},
}
STEPS = {
    **{
        f"pgd-linf-k{k}": Way(f"PGD linf, {k} gradient{'s' * (k > 1)}", descent("linf", gradients=k))
        for k in (1, 2, 10)
    },
    "pgd-linf-short": Way("PGD linf, 4 gradients, steps too short", descent("linf"), length=SHORT),
    **{
        f"radius-union-k{k}": Way(f"radius, union, {k} gradient{'s' * (k > 1)}", boundary_union(2, k))
        for k in (1, 2, 10)
    },
}
MORE = {
    **{
        f"pgd-{norm}-x2": Way(f"PGD {norm}, radius x 2 after half of the training", descent(norm, 2), warmup=0.5)
        for norm in ("linf", "l1")
    },
    "pat-0.2": Way("PAT by itself, 0.2", perceptual(0.2)),
}
SETS = {"table": TABLE, "frontier": FRONTIER, "steps": STEPS, "more": MORE}
WAYS = {name: way for ways in SETS.values() for name, way in ways.items()}


def build_net() -> nn.Sequential:
    """Four layers, 0.1 ms a gradient."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def train(way: Way, x: Tensor, y: Tensor, each: float, seed: int) -> nn.Module:
    """The network after `each` gradients an image in all, inner and outer ones."""
    torch.manual_seed(seed)
    net = build_net()
    inner = None if way.inner is None else way.inner(net)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True)
    budget, spent = each * len(x), 0
    while spent < budget:
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        z, labels, done = augmented(x[rows], generator), y[rows], spent / budget
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * done)) / 2
        if inner is None:
            loss, spent = cross_entropy(net(z), labels), spent + BATCH
        else:
            inner.scale = min(1.0, (done + 1e-3) / way.warmup)
            with patch.object(pgd, "SETTINGS", pgd.PGDSettings(way.length)):
                hard = inner(net, z, labels)
            loss = hard.loss(net, way.outer)
            spent += BATCH * (1 + (way.outer != "plain")) + int(hard.gradients.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def measure(net: nn.Module, x: Tensor, y: Tensor, gradients: int) -> dict[str, list[float]]:
    """The radii of each image, for each norm; 0 where it is misclassified, 10 of RADII where no point was found."""
    return {
        name: plica.attack(net, x, y, plica.MinRadius(metric), gradients=gradients)
        .distance.clamp(max=10 * RADII[name])
        .tolist()
        for name, metric in NORMS.items()
    }


Labelled = tuple[Tensor, Tensor]


def work(names: Sequence[str], seeds: int, images: Labelled, test: Labelled, each: float, gradients: int, into: Path):
    """Trains and measures what is not there yet, of the first seed of all ways first."""
    into.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for name in names:
            weights, line = into / f"{name}-{seed}.safetensors", into / f"{name}-{seed}.json"
            try:
                with FileLock(into / f"{name}-{seed}.lock", timeout=0):
                    if not weights.exists():
                        start = time.process_time()
                        net = train(WAYS[name], *images, each, seed)
                        seconds = time.process_time() - start
                        unfinished = into / f"{name}-{seed}.part"
                        save_file(net.state_dict(), unfinished, {"seconds": str(seconds)})
                        unfinished.rename(weights)
                    if not line.exists():
                        (net := build_net()).load_state_dict(load_file(weights))
                        with safe_open(weights, "pt") as file:
                            seconds = float(file.metadata()["seconds"])
                        radii = measure(net.eval(), *test, gradients)
                        found = {"way": name, "seed": seed, "seconds": seconds, "radii": radii}
                        line.write_text(json.dumps(found) + "\n")
                        print(f"{name} {seed}: {seconds:.0f} s", flush=True)
            except Timeout:
                continue  # another process is at it


def numbers(found: dict) -> dict[str, float]:
    """Clean accuracy; for each norm, and all together, the accuracy at half of the radius and at it; mean radii."""
    radii = {name: np.array(found["radii"][name]) for name in NORMS}
    shown = {"clean": float((radii["l2"] > 0).mean()), "seconds": found["seconds"]}
    standing = {share: np.ones(len(radii["l2"]), dtype=bool) for share in (0.5, 1.0)}
    for name, of_images in radii.items():
        shown[f"{name} mean"] = float(of_images.mean())
        for share in standing:
            held = of_images > share * RADII[name]
            standing[share] &= held
            shown[f"{name} {share}"] = float(held.mean())
    return shown | {f"all {share}": float(np.mean(held)) for share, held in standing.items()}


def results(into: Path) -> dict[str, list[dict[str, float]]]:
    """For each way the numbers of its networks, one for each seed that is there."""
    found: dict[str, list[dict[str, float]]] = {}
    for name in WAYS:
        lines = sorted(into.glob(f"{name}-[0-9].json"))
        if lines:
            found[name] = [numbers(json.loads(line.read_text())) for line in lines]
    return found


def table(found: dict[str, list[dict[str, float]]], names: Sequence[str]) -> str:
    """A row for each way."""
    lines = [
        "| way | clean % | linf 2, 4/255 % | l2 .2, .4 % | l1 3, 6 % | all three % | mean linf x 255, l2, l1 | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in (name for name in names if name in found):
        each = found[name]

        def shown(key: str, factor: float = 100, digits: int = 1, each: list = each) -> str:
            values = factor * np.array([seed[key] for seed in each])
            spread = f" ± {abs(values - values.mean()).max():.{digits}f}" if len(values) > 1 else ""
            return f"{values.mean():.{digits}f}{spread}"

        cells = [shown("clean"), *(f"{shown(f'{norm} 0.5')}, {shown(f'{norm} 1.0')}" for norm in (*NORMS, "all"))]
        cells += [f"{shown('linf mean', 255, 2)}, {shown('l2 mean', 1, 3)}, {shown('l1 mean', 1, 2)}"]
        seconds = np.mean([seed["seconds"] for seed in each])
        lines.append(f"| {WAYS[name].title} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


class Paired:
    """Clean accuracy and mean radii of ways on the same test images, and on resamples of them.

    Radii of an image are means over the seeds that all of the ways have.
    """

    def __init__(self, into: Path, names: Sequence[str], draws: int = 2000):
        there = {name: {file.stem.rpartition("-")[2] for file in into.glob(f"{name}-[0-9].json")} for name in names}
        self.names = [name for name in names if there[name]]
        self.seeds = sorted(set.intersection(*(there[name] for name in self.names)))
        lines = [
            [json.loads((into / f"{n}-{seed}.json").read_text())["radii"] for seed in self.seeds] for n in self.names
        ]
        measured = {norm: np.array([[radii[norm] for radii in each] for each in lines]) for norm in NORMS}
        measured["linf"] *= 255
        measured["clean"] = 100.0 * (measured["l2"] > 0)
        # of each seed alone: (ways, seeds)
        self.of_seeds = {key: of_images.mean(2) for key, of_images in measured.items()}
        values = {key: of_images.mean(1) for key, of_images in measured.items()}
        n = values["clean"].shape[1]
        shares = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws) / n
        # one row for the images as they are, then one for each resample: (1 + draws, ways)
        self.means = {key: np.vstack([one.mean(1), shares @ one.T]) for key, one in values.items()}

    def of(self, name: str) -> dict[str, np.ndarray]:
        return {key: means[:, self.names.index(name)] for key, means in self.means.items()}


def interval(values: np.ndarray, digits: int) -> str:
    """The first of the values, and the 95 % interval of the others."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return f"{values[0]:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def beside(into: Path, names: Sequence[str], other: str) -> str:
    """What each way has more than `other`, its interval over images, and behind it the difference of each seed."""
    paired = Paired(into, [other, *(name for name in names if name != other)])
    lines = [f"| less {WAYS[other].title} | clean % | linf x 255 | l2 | l1 |", "|---|---|---|---|---|"]
    for name in paired.names[1:]:
        more = {key: means - paired.of(other)[key] for key, means in paired.of(name).items()}
        row = paired.names.index(name)
        seeds = {key: values[row] - values[paired.names.index(other)] for key, values in paired.of_seeds.items()}
        cells = []
        for key, digits in (("clean", 1), ("linf", 2), ("l2", 3), ("l1", 2)):
            each = "; " + ", ".join(f"{seed:+.{digits}f}" for seed in seeds[key]) if len(paired.seeds) > 1 else ""
            cells.append(interval(more[key], digits) + each)
        lines.append(f"| {WAYS[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nSeeds: {', '.join(paired.seeds)}\n"


FAMILIES = {
    "PGD linf": ("pgd-linf-x0.5", "pgd-linf", "pgd-linf-x2"),
    "PGD l2": ("pgd-l2-x0.5", "pgd-l2", "pgd-l2-x2-slow"),
    "PGD l1": ("pgd-l1-x0.5", "pgd-l1", "pgd-l1-x2"),
    "one norm a batch": ("one-norm-x0.5", "one-norm", "one-norm-x2"),
    "radius, union": ("radius-union-x1", "radius-union", "radius-union-x4"),
}
OWN = "radius, union"


def frontier(into: Path) -> str:
    """How much larger the mean radii of radius training are than what a family reaches at the same clean accuracy.

    A family's frontier joins its networks and the standard one by straight lines, which are reached by taking one of
    two networks at random for each image; points below the lines do not count.
    """
    paired = Paired(into, ["standard", *(name for family in FAMILIES.values() for name in family)])
    lines = ["| network | family | linf x 255 | l2 | l1 |", "|---|---|---|---|---|"]
    for own in (name for name in FAMILIES[OWN] if name in paired.names):
        for title, family in FAMILIES.items():
            points = [paired.of(name) for name in ("standard", *family) if name in paired.names]
            if title == OWN or len(points) == 1:
                continue
            cells = []
            for norm, digits in (("linf", 2), ("l2", 3), ("l1", 2)):
                at = paired.of(own)
                reached = [
                    hull([p["clean"][i] for p in points], [p[norm][i] for p in points], at["clean"][i])
                    for i in range(len(at["clean"]))
                ]
                cells.append(interval(at[norm] - np.array(reached), digits))
            lines.append(f"| {WAYS[own].title} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\nSeeds: {', '.join(paired.seeds)}\n"


def hull(clean: Sequence[float], radius: Sequence[float], at: float) -> float:
    """The largest mean radius at clean accuracy `at` or more on any line between two of the points."""
    best = max((r for c, r in zip(clean, radius, strict=True) if c >= at), default=0.0)
    for c, r in zip(clean, radius, strict=True):
        for d, s in zip(clean, radius, strict=True):
            if c < at < d:
                best = max(best, r + (s - r) * (at - c) / (d - c))
    return best


def draw(into: Path, file: Path) -> None:
    """Clean accuracy against mean radius under each norm, a line for each family."""
    paired = Paired(into, ["standard", *(name for family in FAMILIES.values() for name in family)])
    with plot.paper():
        figure = Figure(figsize=(plot.PAGE, 2.6))
        FigureCanvasAgg(figure)
        for axes, (norm, label) in zip(
            figure.subplots(1, 3, sharey=True),
            (("linf", "$l_\\infty$ x 255"), ("l2", "$l_2$"), ("l1", "$l_1$")),
            strict=True,
        ):
            for series, (title, family) in enumerate(FAMILIES.items()):
                points = [paired.of(name) for name in family if name in paired.names]
                if points:
                    radii, clean = [p[norm][0] for p in points], [p["clean"][0] for p in points]
                    axes.plot(radii, clean, marker="o", markersize=3, label=title, **line(series))
            standard = paired.of("standard")
            axes.plot(standard[norm][0], standard["clean"][0], "k*", markersize=6, label="standard")
            axes.set_xlabel(f"mean radius, {label}")
        figure.axes[0].set_ylabel("clean accuracy, %")
        figure.axes[0].legend()
        figure.savefig(file, dpi=160)


@torch.no_grad()
def dead(into: Path, names: Sequence[str], x: Tensor) -> str:
    """How many of the 64 neurons before the logits are 0 on all of x, in each network that is there."""
    lines = ["| way | dead, by seed |", "|---|---|"]
    for name in names:
        counts = []
        for weights in sorted(into.glob(f"{name}-[0-9].safetensors")):
            (net := build_net()).load_state_dict(load_file(weights))
            counts.append(int((net[:-1](x) == 0).all(0).sum()))
        if counts:
            lines.append(f"| {WAYS[name].title} | {', '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"


def cost(x: Tensor) -> str:
    """Time of an inner step over that of the network's own gradient, on one batch, least of ten in turns."""
    net = build_net().eval()
    y = net(x).argmax(1)  # all images are sought a point for

    def own() -> None:
        for _ in range(4):
            z = x.clone().requires_grad_(True)
            torch.autograd.grad(cross_entropy(net(z), y), z)

    runs: dict[str, Callable[[], object]] = {"own": own}
    for name, metric in NORMS.items():
        for question in (plica.MinRadius(metric), ball(name)):
            runs[f"{type(question).__name__} {name}"] = partial(Inner(question), net, x, y)
    least = dict.fromkeys(runs, math.inf)
    for turn in range(11):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:  # the first of all checks and warms up
                least[name] = min(least[name], time.process_time() - start)
    whole = least.pop("own")
    shown = ", ".join(f"{name} {seconds / whole:.2f}" for name, seconds in least.items())
    return f"own gradient {whole / 4 / len(x) * 1e3:.3f} ms an image; {shown}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/cifar10_*.npz")
    parser.add_argument("--into", type=Path, default=Path("build/training"), help="folder of weights and results")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=["table"], help="which ways")
    parser.add_argument("--ways", nargs="*", choices=WAYS, help="these alone")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--each", type=float, default=40, help="gradients an image of training, in all")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--gradients", type=int, default=30, help="of a radius")
    parser.add_argument("--show", action="store_true", help="only the tables of what is there")
    parser.add_argument("--beside", choices=WAYS, help="with --show, differences from this way")
    parser.add_argument("--frontier", action="store_true", help="with --show, distances from frontiers")
    parser.add_argument("--figure", type=Path, help="with --show, where to draw the frontiers")
    parser.add_argument("--dead", action="store_true", help="with --show, neurons that are 0 on all test images")
    parser.add_argument("--cost", action="store_true", help="only the time of an inner step over that of a gradient")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.ways or [name for chosen in arguments.sets for name in SETS[chosen]]
    if arguments.show:
        print(table(results(arguments.into), names))
        if arguments.beside:
            print(beside(arguments.into, names, arguments.beside))
        if arguments.frontier:
            print(frontier(arguments.into))
        if arguments.figure:
            draw(arguments.into, arguments.figure)
        if arguments.dead:
            print(dead(arguments.into, names, _images(arguments.data / TEST, arguments.test)[0]))
        return
    images = _images(arguments.data / "cifar10" / "cifar10_train_20000.npz", arguments.images)
    if arguments.cost:
        print(cost(images[0][:128]))
        return
    test = _images(arguments.data / TEST, arguments.test)
    work(names, arguments.seeds, images, test, arguments.each, arguments.gradients, arguments.into)
    print(table(results(arguments.into), names))


def _images(file: Path, n: int) -> Labelled:
    with np.load(file) as data:
        rows = np.random.default_rng(0).permutation(len(data["y"]))[:n]
        return torch.tensor(data["x"][rows]).float() / 255, torch.tensor(data["y"][rows])


if __name__ == "__main__":
    main()
