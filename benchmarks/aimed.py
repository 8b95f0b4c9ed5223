"""Radii towards a given class, `auto` beside foolbox's FMN at the same gradients, for each of several classes.

    python benchmarks/aimed.py --data ../shared/data --n 100 --classes 9 --gradients 60 300

Each image is aimed at its label plus 1, 2, ..., CLASSES. The table has the geometric mean of the radii of `auto` over
those of FMN where both found a point, and how many of all pairs each did not find.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import plica


def peer(norm: str) -> str:
    """FMN as foolbox ships it, but for l2, where that does not project (docs/benchmarks.md)."""
    return "fmn-projected" if norm == "l2" else "fmn"


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--data", type=Path, default=Path("../shared/data"))
    parse.add_argument("--networks", nargs="+", default=["resnet_2b", "cifar_wide_kw", "cifar_base_kw"])
    parse.add_argument("--norms", nargs="+", default=["l1", "l2", "linf"])
    parse.add_argument("--n", type=int, default=100)
    parse.add_argument("--first", type=int, default=0, help="row of the first image")
    parse.add_argument("--classes", type=int, default=9)
    parse.add_argument("--gradients", type=int, nargs="+", default=[60, 300])
    args = parse.parse_args()
    sys.path.insert(0, str(args.data))
    from load import cifar10, load_net

    torch.set_num_threads(1)
    pixels, labels = cifar10("test")
    rows = slice(args.first, args.first + args.n)
    x, y = torch.tensor(pixels[rows]).float() / 255, torch.tensor(labels[rows])
    print("| network | norm | gradients | pairs | auto over FMN | nearer: auto, FMN | not found: auto, FMN |")
    print("|---|---|---|---|---|---|---|")
    for network in args.networks:
        net = load_net(network).eval()
        with torch.no_grad():
            right = net(x).argmax(1) == y
        images, truth = x[right], y[right]
        for norm in args.norms:
            for gradients in args.gradients:
                auto, fmn = (
                    aimed(net, images, truth, norm, method, gradients, args.classes) for method in ("auto", peer(norm))
                )
                both = auto.isfinite() & fmn.isfinite()
                ratio = (auto[both] / fmn[both]).log().mean().exp()
                nearer = int((auto < fmn * 0.999).sum()), int((fmn < auto * 0.999).sum())
                print(
                    f"| {network} | {norm} | {gradients} | {len(auto)} | {float(ratio):.4f} | {nearer[0]}, {nearer[1]} "
                    f"| {int((~auto.isfinite()).sum())}, {int((~fmn.isfinite()).sum())} |",
                    flush=True,
                )


def aimed(net, x, y, norm, method, gradients, classes) -> torch.Tensor:
    """The distance of each image (classes, images) towards each class, inf where none was found; flat."""
    question = plica.MinRadius(plica.Lp(norm.removeprefix("l")))
    answers = []
    for shift in range(1, classes + 1):
        result = plica.attack(net, x, y, question, method=method, gradients=gradients, targets=(y + shift) % 10)
        answers.append(result.distance.where(result.success, torch.inf))
    return torch.cat(answers)


if __name__ == "__main__":
    main()
