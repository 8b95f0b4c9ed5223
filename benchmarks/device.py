"""What plica gives and costs on an accelerator, measured in one run of at most eight minutes.

    python benchmarks/device.py --json device.json          on a GPU, in full
    python benchmarks/device.py --small                     the same on a CPU, in some seconds

It needs this repository, torch, numpy, jaxtyping and safetensors; torchvision for ResNet-50 and ViT-B/16, pyautoattack
for APGD-CE and foolbox for FMN, which are left out with a word where they are missing. All weights are random, from a
seed. In this order, and each only while there is time, as what was measured is written to the file after each part:

answers    l2, linf and l1 on a small network: every success again in float64 on the host; two runs compared to the bit;
           images alone compared with company; the radii beside those of a CPU. Under the settings of SETTINGS.
methods    every method that is installed, and what else can be asked (distances, perturbations, masks, levels, draws,
           precisions, lower bounds, training), on the device and on a CPU: points found, those that float64 refutes,
           radii compared.
speed      attack and network: seconds of the attack, over those of the network's own gradients and forward runs in
           batches of the same sizes; images per second; peak memory.
test set   10,000 images in all, beside foolbox's FMN with as many gradients.
public     foolbox's FMN and pyautoattack's APGD-CE by themselves, beside plica at as many gradients.
profile    kernels for each model call, the share of the time that the device computes, what takes most of it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import plica
from plica.attacks.radius import steps

GRADIENTS = 100
NORMS = {"l2": 2, "linf": "inf", "l1": 1}
# torch's flags: TensorFloat-32 in convolutions (torch's default on a GPU) and in products, kernels that repeat
SETTINGS = {
    "default": {"conv_tf32": True, "deterministic": False},
    "float32": {"conv_tf32": False, "deterministic": False},
    "float32, deterministic": {"conv_tf32": False, "deterministic": True},
}


# Networks


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool):
        super().__init__()
        width = nn.BatchNorm2d if norm else lambda channels: nn.Identity()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not norm), width(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=not norm), width(outputs),
        )  # fmt: skip
        same = stride == 1 and inputs == outputs
        self.around = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=not norm)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.around(x))


def small_residual() -> nn.Module:
    """Of the size of resnet_2b of VNN-COMP 2021: two blocks, 16,000 numbers after the first layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), Block(8, 16, 2, False), Block(16, 16, 1, False), nn.Flatten(),
        nn.Linear(1024, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def resnet18() -> nn.Module:
    """ResNet-18 for images of 32x32 pixels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inputs, outputs, stride, True), Block(outputs, outputs, 1, True)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def torchvision_model(name: str) -> nn.Module:
    import torchvision

    net = getattr(torchvision.models, name)(weights=None)
    if hasattr(net, "heads"):  # whose last layer begins as 0, so that no image has a gradient
        nn.init.normal_(net.heads.head.weight, std=0.02)
    return net


@dataclass(frozen=True)
class Network:
    """name, how it is made, side of its images, and numbers of images to attack."""

    name: str
    make: Callable[[], nn.Module]
    side: int
    images: tuple[int, ...]

    def build(self, device: torch.device, images: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
        """The network in eval mode, and random images."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = self.make().eval().requires_grad_(False)
        x = torch.rand(images, 3, self.side, self.side, generator=torch.Generator().manual_seed(1))
        return net.to(device, dtype), x.to(device, dtype)


FULL = (
    Network("ResNet-18, 32x32", resnet18, 32, (256, 1024)),
    Network("ResNet-50, 224x224", lambda: torchvision_model("resnet50"), 224, (64,)),
    Network("ViT-B/16, 224x224", lambda: torchvision_model("vit_b_16"), 224, (64,)),
    Network("residual, as resnet_2b", small_residual, 32, (256, 1024)),
)
SMALL = (Network("residual, as resnet_2b", small_residual, 32, (8,)),)


# Measuring


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def seconds(device: torch.device, run: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time until the device is done, and what was returned."""
    synchronize(device)
    start = time.perf_counter()
    out = run()
    synchronize(device)
    return time.perf_counter() - start, out


@contextmanager
def settings(conv_tf32: bool, deterministic: bool) -> Iterator[None]:
    """torch's flags inside the block, and as they were behind it."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic
    cudnn.allow_tf32, cudnn.deterministic = conv_tf32, deterministic
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic = before


@contextmanager
def one_by_one() -> Iterator[None]:
    """Stages are not recorded (plica.solver.accelerator.Recorder) inside the block."""
    before, steps.REPEATED = steps.REPEATED, 10**9
    try:
        yield
    finally:
        steps.REPEATED = before


class Sizes(nn.Module):
    """A network that notes the sizes of the batches it is given, with a gradient and without."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.gradients: Counter[int] = Counter()
        self.forwards: Counter[int] = Counter()

    def clear(self) -> None:
        self.gradients.clear()
        self.forwards.clear()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float64:  # the judge's second look is counted as the attack's
            (self.gradients if torch.is_grad_enabled() else self.forwards)[len(x)] += 1
        return self.net(x)


def own_seconds(net: nn.Module, x: Tensor, sizes: Sizes) -> float:
    """Seconds of as many gradients and forward runs of the network in batches of the same sizes, the least of three."""
    total = 0.0
    for counted, with_gradient in ((sizes.gradients, True), (sizes.forwards, False)):
        for size, calls in counted.items():
            z = x[torch.arange(size, device=x.device) % len(x)]

            def once(z: Tensor = z, with_gradient: bool = with_gradient) -> None:
                with torch.set_grad_enabled(with_gradient):
                    leaf = z.detach().requires_grad_(with_gradient)
                    out = net(leaf).logsumexp(1).sum()
                    if with_gradient:
                        torch.autograd.grad(out, leaf)

            once()
            total += calls * min(seconds(x.device, once)[0] for _ in range(3))
    return total


def attack(net: nn.Module, x: Tensor, y: Tensor, norm: str, gradients: int, **more: Any) -> plica.Result:
    return plica.attack(net, x, y, plica.MinRadius(plica.Lp(NORMS[norm])), gradients=gradients, **more)


# The parts


def answers(device: torch.device, images: int, gradients: int) -> Iterator[dict[str, Any]]:
    """A row for each norm and setting."""
    network = SMALL[0]
    net, x = network.build(device, images)
    host, x_host = network.build(torch.device("cpu"), images)
    exact = network.build(torch.device("cpu"), images, torch.float64)[0]
    y = net(x).argmax(1)
    some = list(range(0, images, max(3, images // 4)))
    for norm in NORMS:
        on_host = attack(host, x_host, y.cpu(), norm, gradients).distance
        for name, flags in SETTINGS.items():
            if device.type != "cuda" and name != "default":
                continue
            with settings(**flags):
                found, again = (attack(net, x, y, norm, gradients) for _ in range(2))
                alone = torch.cat([attack(net, x[[i]], y[[i]], norm, gradients).distance for i in some])
            ok, distance = found.success.cpu(), found.distance.cpu()
            points = found.x_adv.cpu().double()
            wrong = exact(points).argmax(1) != y.cpu()
            true = torch.linalg.vector_norm((points - x_host.double()).flatten(1), float(NORMS[norm]), dim=1)
            both = ok & on_host.isfinite()
            change = (alone.cpu() / distance[some]).log().abs().nan_to_num(0)
            yield {
                "norm": norm,
                "settings": name,
                "found": int(ok.sum()),
                "images": images,
                "unsound in float64": int((ok & ~wrong).sum()),
                "distance off by": float(((true - distance).abs()[ok] / true[ok]).max()) if bool(ok.any()) else 0.0,
                "repeated to the bit": bool(torch.equal(found.x_adv, again.x_adv)),
                "alone to the bit": int((alone.cpu() == distance[some]).sum()),
                "asked alone": len(some),
                "alone differs by": float(change.max()),
                "radius over the CPU's": float((distance[both] / on_host[both]).log().mean().exp()),
                "median, CPU": float(on_host.median()),
                "median": float(distance.median()),
            }


def pooled_features(z: Tensor) -> list[Tensor]:
    """Features for a perceptual distance."""
    return [nn.functional.avg_pool2d(z, 4)]


class Uncertain(nn.Module):
    """The small network with dropout that stays on."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.drop = small_residual(), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.drop(x))


def asked(device: torch.device, names: tuple[str, ...]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """What `methods` asks: a name, a question, and arguments of `plica.attack`."""
    half = torch.zeros(3, 32, 32, device=device)
    half[:, :, 16:] = 1
    for name in names:
        yield f"{name}, l2", plica.MinRadius(plica.Lp(2)), {"method": name}
        yield f"{name}, linf 2/255", plica.MaxLoss(plica.Lp("inf"), radius=2 / 255), {"method": name}
    metrics = {
        "l1.5": plica.Lp(1.5), "l8": plica.Lp(8), "l.5": plica.Lp(0.5), "l0": plica.Lp(0),
        "weighted l1": plica.WeightedLp(1, 1 + half), "held l2": plica.Held(plica.Lp(2), half > 0),
        "features": plica.Perceptual(pooled_features),
    }  # fmt: skip
    for name, metric in metrics.items():
        yield name, plica.MinRadius(metric), {}
    for kind in (plica.Flow, plica.Recolor, plica.RotateTranslate, plica.HueSaturation):
        yield kind.__name__, plica.MinRadius("theta", through=kind()), {}
    l2, low = plica.MinRadius(plica.Lp(2)), torch.zeros_like(half)
    yield "bounds for each feature", l2, {"bounds": (low, low + 1)}
    yield "levels", l2, {"levels": 256}
    yield "bf16", l2, {"precision": "bf16"}
    yield "fp16", plica.MinRadius(plica.Lp("inf")), {"precision": "fp16"}
    yield "draws", l2, {"draws": 4}


def methods(device: torch.device, images: int, gradients: int, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """A row for each of `asked`; "error" where the device gives one that the CPU does not give, or another."""
    network, exact = SMALL[0], SMALL[0].build(torch.device("cpu"), images, torch.float64)[0]
    uncertain = Network("with dropout", Uncertain, 32, (images,))

    def answer(place: torch.device, name: str, question: Any, more: dict[str, Any]) -> plica.Result | str:
        net, x = (uncertain if name == "draws" else network).build(place, images)
        if name == "draws":
            net.get_submodule("drop").train()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of packages; those of plica are tested elsewhere
                return plica.attack(net, x, network.build(place, images)[0](x).argmax(1), question,
                                    **{"gradients": gradients, **more})  # fmt: skip
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    host = torch.device("cpu")
    for (name, question, more), (_, on_host, more_on_host) in zip(
        asked(device, names), asked(host, names), strict=True
    ):
        start = time.perf_counter()
        found, expected = answer(device, name, question, more), answer(host, name, on_host, more_on_host)
        row = {"asked": name, "seconds": time.perf_counter() - start}
        if isinstance(found, str) or isinstance(expected, str):
            if found != expected:
                yield {**row, "error": found if isinstance(found, str) else f"only on the CPU: {expected}"}
            continue
        ok, both = found.success.cpu(), found.success.cpu() & expected.success
        refuted = ok & (
            exact(found.x_adv.cpu().double()).argmax(1) == exact(network.build(host, images)[1].double()).argmax(1)
        )
        ratio = (found.distance.cpu()[both] / expected.distance[both]).log().mean().exp()
        yield {
            **row, "found": int(ok.sum()), "found on the CPU": int(expected.success.sum()), "images": images,
            "refuted": None if name == "draws" else int(refuted.sum()),
            "radius over the CPU's": float(ratio), "device of the answer": str(found.x_adv.device),
        }  # fmt: skip


def tiny() -> nn.Module:
    """Small enough for lower bounds in a second."""
    return nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


def bounds_and_training(device: torch.device, images: int) -> Iterator[dict[str, Any]]:
    """Lower bounds, a bracket, and a step of training, on the device and on a CPU."""
    from plica.training import Inner

    norms = {name: plica.Lp(p) for name, p in NORMS.items()}
    inner = {f"inner min-radius {name}": Inner(plica.MinRadius(norm)) for name, norm in norms.items()}
    inner["inner max-loss linf"] = Inner(plica.MaxLoss(norms["linf"], radius=8 / 255))
    for place in dict.fromkeys((device, torch.device("cpu"))):
        net, x = Network("tiny", tiny, 32, (images,)).build(place, images)
        y, linf = net(x).argmax(1), plica.MinRadius(norms["linf"])

        def bracket(net: nn.Module = net, x: Tensor = x, y: Tensor = y, linf: Any = linf) -> Any:
            return plica.bracket(net, x, y, linf, gradients=30, nodes=4)

        spent, both = seconds(place, bracket)
        yield {"asked": "bracket", "place": str(place), "seconds": spent, "lower": float(both.lower.median()),
               "upper": float(both.upper.median()), "crossed": int((both.lower > both.upper).sum())}  # fmt: skip
        for name, solve in inner.items():
            spent, hard = seconds(place, lambda net=net, x=x, y=y, solve=solve: solve(net, x, y))
            length = float((hard.x_adv - x).flatten(1).norm(dim=1).mean())
            yield {"asked": name, "place": str(place), "seconds": spent, "length": length}


def speed(
    device: torch.device, network: Network, images: int, norm: str, gradients: int, precision: str = "float32"
) -> dict[str, Any]:
    net, x = network.build(device, images)
    with torch.no_grad():
        y = torch.cat([net(part).argmax(1) for part in x.split(64)])
    sizes = Sizes(net).eval()
    attack(sizes, x, y, norm, min(4, gradients))  # kernels are chosen and loaded
    sizes.clear()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with one_by_one():
        launched, other = seconds(device, lambda: attack(sizes, x, y, norm, gradients))
    sizes.clear()
    spent, result = seconds(device, lambda: attack(sizes, x, y, norm, gradients))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    own, largest = own_seconds(net, x, sizes), max(sizes.gradients, default=0)
    return {
        "network": network.name,
        "images": images,
        "norm": norm,
        "gradients": int(result.gradients.sum()) / images,
        "seconds": spent,
        "network alone, seconds": own,
        "overhead": spent / own,
        "overhead, operations launched one by one": launched / own,
        "the same answers to the bit": bool(torch.equal(result.x_adv, other.x_adv)),
        "images per second": images / spent,
        "largest batch": largest,
        "peak bytes for each image of a batch": None
        if peak is None
        else peak / max(1, max(sizes.gradients, default=1)),
        "found": int(result.success.sum()),
    }


def test_set(
    device: torch.device, network: Network, images: int, gradients: int, batch: int
) -> Iterator[dict[str, Any]]:
    """As many images as a test set has: MinRadius under l2 by plica, and FMN of foolbox in batches."""
    net, x = network.build(device, images)
    with torch.no_grad():
        y = torch.cat([net(part).argmax(1) for part in x.split(batch)])
    row = {"network": network.name, "images": images, "gradients": gradients}
    spent, found = seconds(device, lambda: attack(net, x, y, "l2", gradients))
    yield {**row, "method": "plica, min-radius l2", "seconds": spent, "images per second": images / spent,
           "median": float(found.distance.median()), "found": int(found.success.sum())}  # fmt: skip
    fmn = foolbox_fmn(net, device, gradients)
    if fmn is None:
        return
    spent, parts = seconds(device, lambda: [fmn(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)])
    d = torch.cat(parts)
    yield {**row, "method": "fmn (foolbox)", "seconds": spent, "images per second": images / spent,
           "median": float(d.median()), "found": int(d.isfinite().sum())}  # fmt: skip


def foolbox_fmn(net: nn.Module, device: torch.device, gradients: int) -> Callable[[Tensor, Tensor], Tensor] | None:
    """foolbox's FMN under l2: the distances of images with labels, inf where nothing was found."""
    if find_spec("foolbox") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports what scipy has moved
        foolbox: Any = import_module("foolbox")  # typed without what it exports
    wrapped = foolbox.PyTorchModel(net, bounds=(0, 1), device=device)
    fmn = foolbox.attacks.L2FMNAttack(steps=gradients)

    def distances(x: Tensor, y: Tensor) -> Tensor:
        _, points, success = fmn(wrapped, x, y, epsilons=None)
        return torch.linalg.vector_norm((points - x).flatten(1), dim=1).masked_fill(~success, torch.inf)

    return distances


def public(device: torch.device, network: Network, images: int, gradients: int) -> Iterator[dict[str, Any]]:
    """FMN (l2) and APGD-CE (linf 2/255) as their packages have them, and plica at as many gradients."""
    net, x = network.build(device, images)
    y = net(x).argmax(1)
    row = {"network": network.name, "images": images, "gradients": gradients}
    fmn = foolbox_fmn(net, device, gradients)
    if fmn is None:
        yield {**row, "method": "fmn (foolbox)", "left out": "foolbox is not installed"}
    else:
        spent, d = seconds(device, lambda: fmn(x, y))
        yield {**row, "method": "fmn (foolbox)", "images per second": images / spent, "median": float(d.median())}
    spent, found = seconds(device, lambda: attack(net, x, y, "l2", gradients))
    median = float(found.distance.median())
    yield {**row, "method": "plica, min-radius l2", "images per second": images / spent, "median": median}
    question = plica.MaxLoss(plica.Lp("inf"), radius=2 / 255)
    for method in ("apgd-ce", "auto"):
        if method == "apgd-ce" and find_spec("pyautoattack") is None:
            yield {**row, "method": "apgd-ce (pyautoattack)", "left out": "pyautoattack is not installed"}
            continue
        asked = {"method": method, "gradients": gradients}
        spent, found = seconds(device, lambda asked=asked: plica.attack(net, x, y, question, **asked))
        robust = 1 - float(found.success.double().mean())
        yield {**row, "method": f"{method}, max-loss linf", "images per second": images / spent, "robust": robust}


def profile(device: torch.device, network: Network, images: int, gradients: int) -> dict[str, Any]:
    """Kernels, the device's share of the time, and what takes most of it, of an l2 attack."""
    net, x = network.build(device, images)
    y = net(x).argmax(1)
    sizes = Sizes(net).eval()
    attack(sizes, x, y, "l2", gradients)
    sizes.clear()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as seen:
        spent, _ = seconds(device, lambda: attack(sizes, x, y, "l2", gradients))
    events = seen.key_averages()
    launches = sum(e.count for e in events if e.key.startswith(("cudaLaunchKernel", "cuLaunchKernel")))
    waits = sum(e.count for e in events if "Synchronize" in e.key)
    on_device = [(e.key, e.self_device_time_total / 1e6, e.count) for e in events]
    on_host = [(e.key, e.self_cpu_time_total / 1e6, e.count) for e in events]
    calls = max(1, sum(sizes.gradients.values()))
    return {
        "network": network.name,
        "images": images,
        "calls": calls,
        "kernels for each call": launches / calls,
        "waits for each call": waits / calls,
        "device busy": sum(t for _, t, _ in on_device) / spent,
        "device": sorted(on_device, key=lambda e: -e[1])[:12],
        "host": sorted(on_host, key=lambda e: -e[1])[:12],
    }


# The run


def machine(device: torch.device) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": str(device), "name": name, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "conv_tf32": torch.backends.cudnn.allow_tf32}  # fmt: skip


@dataclass
class Report:
    """What was measured so far, written after every part."""

    file: Path | None
    until: float
    only: list[str] | None = None
    parts: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        return self.until - time.monotonic()

    def add(self, part: str, rows: Callable[[], Any], needs: float) -> None:
        """Measure a part if so many seconds are left; an error is reported in place of it, and others go on."""
        if self.only and not part.startswith(tuple(self.only)):
            return
        if self.left() < needs:
            self.parts.setdefault("left out", []).append(f"{part}: no time")
            return
        start = time.monotonic()
        try:
            made = rows()
            for row in [made] if isinstance(made, dict) else made:
                self.parts.setdefault(part.split(":")[0], []).append(row)
                show(row)
                self.write()
        except Exception as error:
            self.parts.setdefault("failed", []).append(f"{part}: {type(error).__name__}: {error}")
            print(self.parts["failed"][-1], flush=True)
        print(f"# {part}: {time.monotonic() - start:.1f} s", flush=True)
        self.write()

    def write(self) -> None:
        if self.file is not None:
            self.file.write_text(json.dumps(self.parts, indent=1))


def show(row: dict[str, Any]) -> None:
    for key, value in row.items():
        if not isinstance(value, list):
            print(f"  {key} {value:.4g}" if isinstance(value, float) else f"  {key} {value}", end=";")
            continue
        print(f"\n  {key}:", *(f"\n    {t:9.4f} s {count:7d} {name[:90]}" for name, t, count in value), end="")
    print(flush=True)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parse.add_argument("--small", action="store_true", help="few images and gradients, for a CPU")
    parse.add_argument("--seconds", type=float, default=470, help="after which no further part is begun")
    parse.add_argument("--parts", nargs="*", help="only these, by the beginning of their name: answers speed:ResNet-18")
    parse.add_argument("--json", type=Path, help="file for what was measured")
    args = parse.parse_args(arguments)
    device, small = torch.device(args.device), args.small
    if device.type == "cpu":
        torch.set_num_threads(1)
    gradients = 6 if small else GRADIENTS
    report = Report(args.json, time.monotonic() + args.seconds, args.parts)
    report.add("machine", lambda: machine(device), 0)
    report.add("answers", lambda: answers(device, 6 if small else 48, gradients if small else 50), 0 if small else 60)
    report.add(
        "methods",
        lambda: methods(device, 2 if small else 16, 4 if small else 30, ("auto",) if small else plica.methods()),
        0 if small else 60,
    )
    report.add("bounds and training", lambda: bounds_and_training(device, 2 if small else 4), 0 if small else 30)
    networks = SMALL if small else FULL
    for network in networks:
        for images in network.images:
            for norm in NORMS:
                if network.side > 32 and norm != "l2":
                    continue
                name = f"speed: {network.name}, {images}, {norm}"
                one = (device, network, images, norm, gradients)
                report.add(name, lambda one=one: speed(*one), 0 if small else 40)
    for network in networks[:1]:
        images = network.images[-1]
        size, batch = (20, 8) if small else (10_000, 1000)
        whole = (device, network, size, gradients, batch)
        report.add("test set", lambda whole=whole: test_set(*whole), 0 if small else 90)
        report.add("public", lambda n=network, i=images: public(device, n, i, gradients), 0 if small else 60)
    for network in networks[:1] if small else (FULL[0], FULL[3]):
        images = network.images[0]
        report.add("profile", lambda n=network, i=images: profile(device, n, i, 6 if small else 20), 0 if small else 20)
    return report.parts


if __name__ == "__main__":
    main()
