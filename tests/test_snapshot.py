"""Answers as they were, to the bit: what `plica.attack` and `plica.minimize` returned when snapshot.json was written.

A change that is meant to leave answers alone must leave these alone. One that is meant to change them writes the file
anew, and its diff says which answers moved:

    python tests/test_snapshot.py --write            every case (minutes)
    python tests/test_snapshot.py --write l2-min     those whose name contains l2-min, and new ones that do

Bits depend on torch, the processor's instructions, the number of threads and the peers' versions. The file says which
they were and keeps a hash of arithmetic and of each network's logits and gradients; where one differs the case is
skipped: a search amplifies a last bit without bound (another line search step, another class), so no tolerance would be
both safe and worth having. Combinations that are refused are compared everywhere, by the type of the error.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import plica

FILE = Path(__file__).with_name("snapshot.json")
FIELDS = "x_adv distance status gradients forwards success margin rest"

OWN = ["auto", "pwcf", "radius", "curved", "grid", "ppgd", "ppgd-newton", "lpa", "lpa-newton", "fast-lpa", "pgd"]
PERCEPTUAL = ["ppgd", "ppgd-newton", "lpa", "lpa-newton", "fast-lpa"]
PEERS = {
    **dict.fromkeys(["fmn", "fmn-projected", "ddn", "deepfool"], "foolbox"),
    **dict.fromkeys(["apgd-ce", "apgd-margin", "apgd-t", "fab-t", "square"], "pyautoattack"),
}
LEFT_OUT = ["alma", "pdpgd", "sdf", "fmn-adv", "ddn-adv"]  # adv-lib comes by hand: seldom there to compare with
LEFT_OUT += ["apgd-dlr"]  # apgd-margin but for its loss
LEFT_OUT += ["hopskipjump"]  # decisions along random directions: rounding of another processor leads elsewhere
LEFT_OUT += ["fab", "cw", "ead", "lbfgs", "brendel-bethge"]  # of the papers' time, to compare with; none is a default
REFUSED = "Unsupported"  # the type of the error, not its words
DTYPES = {"float32": torch.float32, "float64": torch.float64}


# Networks


@dataclass(frozen=True)
class Network:
    """A model, images and labels; the last image is misclassified from the start."""

    model: nn.Module
    x: Tensor
    y: Tensor


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval().requires_grad_(False)


def centred(model: nn.Sequential, x: Tensor) -> Network:
    """The last layer's biases are moved such that no class wins everywhere; the last label is a wrong one."""
    last = model[-1]
    last.bias -= model(x).mean(0)
    y = model(x).argmax(1)
    y[-1] = (y[-1] + 1) % last.out_features
    return Network(model, x, y)


def conv() -> Network:
    def build() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(108, 5),
        )  # fmt: skip

    return centred(seeded(build, 1), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(2)))


def mlp() -> Network:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))

    return centred(seeded(build, 3), torch.rand(4, 6, generator=torch.Generator().manual_seed(4)))


def resnet() -> Network:
    from plica.demo import images, resnet18

    x, y = images()
    x, y, model = x[[0, 9]], y[[0, 9]], resnet18()
    y[1] = (model(x[1:]).argmax() + 1) % 10
    return Network(model, x, y)


NETWORKS = {"conv": conv, "mlp": mlp, "resnet": resnet}


@cache
def network(name: str, dtype: torch.dtype) -> Network:
    made = NETWORKS[name]()
    return Network(made.model.to(dtype), made.x.to(dtype), made.y)


# Distances


def features(name: str, dtype: torch.dtype) -> Callable[[Tensor], list[Tensor]]:
    """The maps behind the activations of a network of its own."""
    model = network(name, dtype).model

    def maps(x: Tensor) -> list[Tensor]:
        if name == "resnet":
            first = torch.relu(model.bn1(model.conv1(x)))
            return [first, model.layer1(first)]
        first = model[:2](x)
        return [first, model[2:4](first)]

    return maps


def huber(x: Tensor, x_adv: Tensor) -> Tensor:
    """A distance that plica knows nothing of."""
    return torch.nn.functional.huber_loss(x_adv, x, reduction="none", delta=0.05).flatten(1).sum(1)


def weights(x: Tensor) -> Tensor:
    return torch.linspace(0.5, 2, x[0].numel(), dtype=x.dtype).view(x[0].shape)


def held(x: Tensor) -> Tensor:
    return (torch.arange(x[0].numel()) % 3 == 0).view(x[0].shape)


METRICS: dict[str, Callable[[str, Network], Any]] = {
    **{f"l{p}": lambda name, of, p=p: plica.Lp(p) for p in ("0.5", "1", "1.5", "2", "8", "inf")},
    "wl1": lambda name, of: plica.WeightedLp(1, weights(of.x)),
    "wl2": lambda name, of: plica.Weighted(plica.Lp(2), weights(of.x)),
    "wlinf_part": lambda name, of: plica.WeightedLp("inf", weights(of.x).masked_fill(held(of.x), torch.inf)),
    "held_l2": lambda name, of: plica.Held(plica.Lp(2), held(of.x)),
    "held_huber": lambda name, of: plica.Held(huber, held(of.x)),
    "sum": lambda name, of: 0.5 * plica.Lp(1) + 2 * plica.Lp("inf"),
    "largest": lambda name, of: plica.Largest(plica.Lp(2), 3 * plica.Lp("inf")),
    "perceptual": lambda name, of: plica.Perceptual(features(name, of.x.dtype)),
    "perceptual1": lambda name, of: plica.Perceptual(features(name, of.x.dtype), p=1),
    "huber": lambda name, of: huber,
    "ciede2000": lambda name, of: plica.CIEDE2000(),
    "gmsd": lambda name, of: plica.Similarity("gmsd"),
    "ssim": lambda name, of: plica.Similarity("ssim", resize=16),
    "dists": lambda name, of: plica.DISTS(features(name, of.x.dtype)),
    "wasserstein": lambda name, of: plica.Wasserstein(),
}
IMAGES_ONLY = ("ciede2000", "gmsd", "ssim", "dists", "wasserstein")
NEEDS = {"gmsd": "piq", "ssim": "piq", "wasserstein": "geomloss"}
RADII = {  # of the max-loss questions; some images can be broken within them, some cannot
    "l0.5": 3.0, "l1": 0.6, "l1.5": 0.3, "l2": 0.2, "l8": 0.05, "linf": 0.03, "wl1": 0.6, "wl2": 0.2,
    "wlinf_part": 0.05, "held_l2": 0.2,
    "held_huber": 0.02, "sum": 0.4, "largest": 0.2, "perceptual": 0.1, "perceptual1": 0.3,
    "huber": 0.02, "ciede2000": 20.0, "gmsd": 0.02, "ssim": 0.02, "dists": 0.02, "wasserstein": 1e-3,
}  # fmt: skip
THROUGH: dict[str, Callable[[], Any]] = {
    "flow": plica.Flow,
    "recolor": lambda: plica.Recolor(nodes=4),
    "recolor_luv": lambda: plica.Recolor(nodes=4, space="luv"),
    "rotate": plica.RotateTranslate,
    "hue": plica.HueSaturation,
    "own": lambda: plica.Perturbation(lambda x, theta: x * (1 + theta[:, :, None, None]), torch.zeros(3)),
}


# Cases


@dataclass(frozen=True)
class Case:
    """A question; `more` are the further arguments of plica.attack, made when it is asked."""

    network: str
    method: str
    metric: str
    question: str
    dtype: str = "float32"
    through: str = ""
    extra: str = ""
    gradients: int = 16

    @property
    def name(self) -> str:
        parts = (self.network, self.method, self.metric, self.question, self.dtype, self.through, self.extra)
        return "-".join(part for part in parts if part)

    @property
    def needs(self) -> list[str]:
        """Packages without which there is no answer."""
        resnet = ["foolbox", "pyautoattack"] if self.network == "resnet" else []
        named = (PEERS.get(self.method), NEEDS.get(self.metric))
        return sorted({*resnet, *(package for package in named if package)})

    def ask(self) -> list[str] | str:
        of = network(self.network, DTYPES[self.dtype])
        metric = "theta" if self.metric == "theta" else METRICS[self.metric](self.network, of)
        through = THROUGH[self.through]() if self.through else None
        if isinstance(through, plica.Perturbation):
            through = plica.Perturbation(through.move, through.origin.to(of.x))
        if self.question == "min":
            question = plica.MinRadius(metric, through=through)
        else:
            radius = 0.3 if self.metric == "theta" else RADII[self.metric]
            question = plica.MaxLoss(metric, radius, loss=self.question.removeprefix("max_"), through=through)
        try:
            result = plica.attack(
                of.model, of.x, of.y, question, method=self.method, gradients=self.gradients, **EXTRAS[self.extra](of)
            )
        except plica.Unsupported:
            return REFUSED
        return rows(result)


def least_likely(of: Network) -> dict[str, Any]:
    """The class of the least logit for each image, its label apart."""
    return {"targets": of.model(of.x).scatter(1, of.y[:, None], torch.inf).argmin(1)}


EXTRAS: dict[str, Callable[[Network], dict[str, Any]]] = {
    "": lambda of: {},
    "seed1": lambda of: {"seed": 1},
    "batch1": lambda of: {"batch_size": 1},
    "targets": least_likely,
    "box": lambda of: {"bounds": (-0.5, 1.5)},
    "features": lambda of: {"bounds": (of.x.amin(0) - 0.1 * weights(of.x), of.x.amax(0) + 0.05 * weights(of.x))},
}


def rows(result: plica.Result) -> list[str]:
    """A line per image, what FIELDS names; floats as Python writes them, which gives every bit of them back."""
    hidden = ("violation", "stationarity", "metric_gradients", "prediction", "theta")
    rest = [column for name in hidden if (column := getattr(result, name)) is not None]
    return [
        line(sha(x), distance, status.name, gradients, forwards, int(success), margin, sha(*(c[i] for c in rest))[:8])
        for i, (x, distance, status, gradients, forwards, success, margin) in enumerate(
            zip(
                result.x_adv, result.distance.tolist(), result.status, result.gradients.tolist(),
                result.forwards.tolist(), result.success.tolist(), result.margin.tolist(), strict=True,
            )
        )
    ]  # fmt: skip


def line(*values: Any) -> str:
    return " ".join(map(str, values))


def sha(*tensors: Tensor) -> str:
    """The first quarter of the SHA-256 of the tensors' bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def attacks() -> Iterator[Case]:
    for method in [*OWN, *PEERS]:
        everything = method not in ("auto", *PEERS)  # auto hands on to others, and peers are no code of ours
        for metric in METRICS if method != "auto" else ("l0.5", "l2", "huber"):
            yield Case("conv", method, metric, "min")
            yield Case("conv", method, metric, "max_margin")
        for metric in ("l1", "l2", "linf", "perceptual", "huber") if everything else ("l2",):
            yield Case("conv", method, metric, "min", "float64")
            yield Case("conv", method, metric, "max_margin", "float64")
        for metric in ("l2", "linf", "perceptual", "huber") if everything else ("l2",):
            yield Case("conv", method, metric, "max_ce")
            yield Case("conv", method, metric, "max_dlr")
        for metric in ("l1", "l2", "linf", "huber", "perceptual") if everything else ("linf",):
            for extra in ("seed1", "batch1", "targets", "box", "features"):
                yield Case("conv", method, metric, "min", extra=extra)
            for extra in ("seed1", "targets", "features"):
                yield Case("conv", method, metric, "max_margin", extra=extra)
        for metric in METRICS if everything else ("l2",):
            if metric not in IMAGES_ONLY:
                yield Case("mlp", method, metric, "min")
                yield Case("mlp", method, metric, "max_margin", "float64")
        for extra in ("targets", "features", "seed1"):
            yield Case("mlp", method, "l2", "min", extra=extra)
    for method in ("radius", "pwcf"):
        yield Case("resnet", method, "linf", "min", gradients=6)
    for method in ("auto", "pwcf", "grid", "radius"):
        for through in THROUGH:
            for metric in ("theta", "l2", "perceptual") if method != "radius" else ("theta",):
                yield Case("conv", method, metric, "min", through=through)
                yield Case("conv", method, metric, "max_margin", through=through)
            yield Case("conv", method, "theta", "min", "float64", through=through)
            yield Case("conv", method, "theta", "min", through=through, extra="targets")


# plica.minimize


def start(b: int, n: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(b, n, generator=torch.Generator().manual_seed(b + n)).to(dtype) * 2 - 1


def rosenbrock(x: Tensor) -> Tensor:
    """Nonsmooth and curved: 8 |x_1^2 - x_2| + (1 - x_1)^2, summed over neighbours."""
    return (8 * (x[:, :-1] ** 2 - x[:, 1:]).abs() + (1 - x[:, :-1]) ** 2).sum(1)


def in_balls(x: Tensor) -> tuple[Tensor, Tensor]:
    return rosenbrock(x), torch.stack([x.norm(dim=1) - 0.8, x.abs().amax(1) - 0.5], 1)


def on_sphere(x: Tensor) -> tuple[Tensor, None, Tensor]:
    return rosenbrock(x), None, (x.square().sum(1) - 1)[:, None]


def both(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x[:, 0] + 0.1 * x.abs().sum(1), x[:, 1:2] - 0.2, (x.square().sum(1) - 1)[:, None]


FUNCTIONS = {f.__name__: f for f in (rosenbrock, in_balls, on_sphere, both)}
MINIMA = {
    f"minimize-{name}-n{n}-{'dense' if memory is None else f'memory{memory}'}-{dtype}": (name, n, memory, dtype)
    for name in FUNCTIONS
    for n, memory in ((4, None), (30, 5))
    for dtype in DTYPES
}


def minimized(name: str, n: int, memory: int | None, dtype: str) -> list[str]:
    solution = plica.minimize(FUNCTIONS[name], start(3, n, DTYPES[dtype]), memory=memory, max_steps=60)
    columns = (solution.f, solution.violation, solution.stationarity, solution.steps, solution.evaluations)
    numbers = (column.tolist() for column in columns)
    names = (status.name for status in solution.status)
    return [line(sha(x), *values) for x, *values in zip(solution.x, *numbers, names, strict=True)]


# Where the bits come from


@cache
def bits(name: str, dtype: str) -> str:
    """A hash of a network's logits and gradients at its images."""
    of = network(name, DTYPES[dtype])
    x = of.x.clone().requires_grad_()
    logits = of.model(x)
    (grad,) = torch.autograd.grad(logits.gather(1, of.y[:, None]).sum(), x)
    return sha(of.x, logits, grad)


@cache
def arithmetic() -> dict[str, Any]:
    """What the bits of every answer depend on, the networks' own apart."""
    a = torch.rand(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    square = a @ a.T + torch.eye(12)
    parts = [torch.linalg.solve(square, a), torch.linalg.cholesky(square), a.pow(1.3), a.exp(), a.log(), a.sum(1)]
    return {
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "arithmetic": sha(*parts, *(part.float().sin() for part in parts)),
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# The test

CASES: dict[str, Case | tuple] = {case.name: case for case in attacks()} | MINIMA


def answer(case: Case | tuple) -> list[str] | str:
    return case.ask() if isinstance(case, Case) else minimized(*case)


@cache
def stored() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def missing(case: Case | tuple, packages: dict[str, str | None]) -> str | None:
    """Why the packages that this case needs are not those of `packages`; None where they are."""
    for package in case.needs if isinstance(case, Case) else ():
        if version(package) is None or version(package) != packages.get(package):
            return f"written with {package} {packages.get(package)}, now {version(package)}"
    return None


def other_bits(case: Case | tuple) -> str | None:
    """Why the bits of this answer need not be those of the file; None where they must."""
    for key, now in arithmetic().items():
        if now != stored()["bits"][key]:
            return f"written with {key} {stored()['bits'][key]}, now {now}"
    if isinstance(case, Case) and bits(case.network, case.dtype) != stored()["networks"][case.network][case.dtype]:
        return f"logits or gradients of {case.network} in {case.dtype} have other bits than when the file was written"
    return None


def is_fast(case: Case | tuple) -> bool:
    """A cross-section of some seconds: every method, a few distances, both questions, perturbations, the solver."""
    if not isinstance(case, Case):
        return case[1] == 4
    if case.network == "mlp":
        return case.metric in ("l2", "linf", "huber") and not case.extra
    if case.network == "resnet" or case.extra or case.dtype != "float32":
        return False
    if case.metric == "theta":
        return case.question == "min"
    return not case.through and case.metric in ("l1", "l2", "linf", "huber")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=[] if is_fast(case) else pytest.mark.slow) for name, case in CASES.items()],
)
def test_answers_are_those_of_the_file(case, request):
    reason = missing(case, stored()["packages"])
    if reason is None and (expected := stored()["answers"][request.node.callspec.id]) != REFUSED:
        reason = other_bits(case)
    if reason is not None:
        pytest.skip(reason)
    assert answer(case) == expected, f"fields: {FIELDS}"


def test_every_method_has_its_cases():
    assert set(plica.methods()) == {*OWN, *PEERS, *LEFT_OUT}


def write(part: str) -> None:
    """Asks every case whose name contains `part` and whose packages are there; keeps the others as they are stored."""
    old = stored()["answers"] if part else {}
    if part and stored()["bits"] != arithmetic():
        sys.exit("Bits differ from those of the file (torch, processor or threads): write every case.")
    packages = {name: version(name) for name in sorted({*PEERS.values(), *NEEDS.values()})}
    answers = {
        name: answer(case) if part in name and missing(case, packages) is None else old[name]
        for name, case in CASES.items()
        if missing(case, packages) is None or name in old
    }
    networks = {name: {dtype: bits(name, dtype) for dtype in DTYPES} for name in NETWORKS}
    content = {"bits": arithmetic(), "packages": packages, "networks": networks, "fields": FIELDS, "answers": {}}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in answers.items())
    FILE.write_text(json.dumps(content, indent=1).removesuffix("{}\n}") + "{\n" + lines + "\n}}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)  # as tests/conftest.py does
    if sys.argv[1:2] != ["--write"]:
        sys.exit(__doc__)
    write(sys.argv[2] if len(sys.argv) > 2 else "")
