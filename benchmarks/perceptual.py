"""Radii under distances without a prox: `curved` beside PWCF, and the l_2 and l_inf answers measured in the distance.

    python benchmarks/perceptual.py --data ../shared/data [--n 46] [--gradients 30 100] [--distances features-l2 ...]
    python benchmarks/perceptual.py --distances ssim lpips --methods curved:100 alma:1000  # budgets of their own
    python benchmarks/perceptual.py --net cifar_wide_kw --first 200 --n 24 --gradients 30 --methods curved

The correctly classified images of the CIFAR-10 test rows from --first on; the network's own features as self-bounded
perceptual distances, 1 - SSIM, LPIPS (AlexNet, images enlarged to 64 x 64), CIEDE2000, GMSD, the README's distance and
a total variation. Prints one line per distance and method; seconds are of this process, and the ratio is what they are
of the gradients alone, each timed in padded calls.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import torch
from torch import Tensor

import plica
from plica.metrics import Metric, distance, gradient

LAYERS = {"resnet_2b": ["net.r", "net.layer1.0", "net.layer1.1"], "cifar_wide_kw": ["net.r0", "net.r2"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--net", choices=LAYERS, default="resnet_2b")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--n", type=int, default=46)
    parser.add_argument("--gradients", type=int, nargs="+", default=[30, 100])
    parser.add_argument("--methods", nargs="+", default=["curved", "pwcf"])
    parser.add_argument("--distances", nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net, x, y, known = setting(args.data, args.n, args.net, args.first)
    points = {p: plica.attack(net, x, y, plica.MinRadius(plica.Lp(p)), gradients=100).x_adv for p in (2, "inf")}
    for name in args.distances or known:
        metric = known[name]
        for p, x_adv in points.items():
            d = distance(metric, x, x_adv)
            print(f"{name} | l{p} answer, 100 gradients | {float(d.median()):.4g} |", flush=True)
        costs = cost(net, metric, x)
        for method in args.methods:
            known_as, _, own = method.partition(":")
            for gradients in [int(own)] if own else args.gradients:
                print(f"{name} | {known_as} | {line(net, x, y, metric, known_as, gradients, costs)}", flush=True)


def setting(
    data: Path, n: int, name: str = "resnet_2b", first: int = 0
) -> tuple[torch.nn.Module, Tensor, Tensor, dict[str, Metric]]:
    """The network, n images it is right about, and the distances by name."""
    spec = importlib.util.spec_from_file_location("load", data / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    net = load.load_net(name)
    x, y = (torch.from_numpy(a)[first:] for a in load.cifar10(n=first + 4 * n))
    x = x.float() / 255
    right = (net(x).argmax(1) == y).nonzero()[:n, 0]
    lpips = plica.LPIPS(data / "models" / "lpips_alex.safetensors", resize=64)
    return net, x[right], y[right], {
        "features-l2": plica.Perceptual.of(net, LAYERS[name]),
        "features-l1": plica.Perceptual.of(net, LAYERS[name], p=1),
        "ssim": plica.Similarity("ssim"),
        "lpips": lpips,
        "ciede2000": plica.CIEDE2000(),
        "gmsd": plica.Similarity("gmsd"),
        "blurred": blurred,
        "variation": variation,
    }  # fmt: skip


def blurred(x: Tensor, x_adv: Tensor) -> Tensor:
    """The README's."""
    delta = x_adv - x
    coarse = torch.nn.functional.avg_pool2d(delta, 4)
    return coarse.flatten(1).norm(dim=1) + 0.1 * delta.flatten(1).norm(dim=1)


def variation(x: Tensor, x_adv: Tensor) -> Tensor:
    """The total variation of the perturbation and a tenth of its l_1 norm."""
    delta = x_adv - x
    parts = delta.diff(dim=-1), delta.diff(dim=-2), 0.1 * delta
    return sum(part.abs().flatten(1).sum(1) for part in parts)


def line(net, x, y, metric, method: str, gradients: int, costs: tuple[float, float]) -> str:
    began = time.process_time()
    found = plica.attack(net, x, y, plica.MinRadius(metric), method=method, gradients=gradients)
    seconds = time.process_time() - began
    asked = int(found.metric_gradients.sum()) or int(found.gradients.sum())  # pwcf: one for each of the model
    alone = int(found.gradients.sum()) * costs[0] + asked * costs[1]
    return (f"{gradients} | median {float(found.distance.median()):.4g} | "
            f"geometric mean {float(found.distance[found.success].log().mean().exp()):.4g} | "
            f"failed {int((~found.success).sum())} | "
            f"metric gradients {asked / len(x):.0f} | {seconds:.1f} s, ratio {seconds / alone:.2f} | "
            f"stationarity {float(found.stationarity.nanmedian()):.2g}")  # fmt: skip


def cost(net, metric: Metric, x: Tensor, repeats: int = 5) -> tuple[float, float]:
    """Seconds of one gradient of the model and of the metric, per image, in calls of at most 128 rows."""
    x_adv = (x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)

    def model() -> None:
        z = x_adv.clone().requires_grad_(True)
        torch.autograd.grad(net(z).logsumexp(1).sum(), z)

    told = []
    for once in (model, lambda: gradient(metric, x, x_adv)):
        once()
        began = time.process_time()
        for _ in range(repeats):
            once()
        told.append((time.process_time() - began) / repeats / len(x))
    return told[0], told[1]


if __name__ == "__main__":
    main()
