"""What a grid of levels costs: distances with levels over those without, and whole numbers beside the nearest of all.

    PLICA_DATA=... python benchmarks/levels.py [--images 50] [--gradients 30 100]

resnet_2b on CIFAR-10 test images with 256 levels (seed 1 of load.py), then random networks of 5 inputs between 0 and 10
with 11 levels, where every point can be tried. docs/design/levels.md has the figures.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys

import torch
from torch import nn

import plica

NORMS = (1.0, 2.0, math.inf)


def pictures(images, budgets):
    sys.path.insert(0, os.environ["PLICA_DATA"])
    from load import cifar10, load_net

    net, (x, y) = load_net("resnet_2b"), cifar10("test", images, seed=1)
    x, y = torch.from_numpy(x).float() / 255, torch.from_numpy(y).long()
    for p, gradients in itertools.product(NORMS, budgets):
        question = plica.MinRadius(plica.Lp(p))
        free = plica.attack(net, x, y, question, gradients=gradients).distance
        result = plica.attack(net, x, y, question, gradients=gradients, levels=256)
        rows = (free > 0) & free.isfinite()
        if p == math.inf:
            farther = f"{(255 * (result.distance - free))[rows].median():.3f} levels"
        else:
            farther = f"{100 * (result.distance / free - 1)[rows].median():.2f} %"
        lost = int((~result.success)[rows].sum())
        spent = f"{int(result.gradients.max())} gradients, {int(result.forwards.max())} forward runs at most"
        print(f"l{p:g}, {gradients}: {farther} farther in the median of {int(rows.sum())}, {lost} lost, {spent}")


def whole_numbers(budgets, networks=4, rows=15):
    every = torch.tensor(list(itertools.product(range(11), repeat=5))).float()
    for p, gradients in itertools.product(NORMS, budgets):
        excess = []
        for seed in range(networks):
            torch.manual_seed(seed)
            core = nn.Sequential(nn.Linear(5, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 5))
            torch.manual_seed(100 + seed)
            x = torch.randint(0, 11, (rows, 5)).float()
            with torch.no_grad():
                classes, y = core(every / 1.66 - 3).argmax(1), core(x / 1.66 - 3).argmax(1)
            result = plica.attack(
                lambda z, core=core: core(z / 1.66 - 3), x, y, plica.MinRadius(plica.Lp(p)),
                gradients=gradients, bounds=(0.0, 10.0), levels=11,
            )  # fmt: skip
            for row, label, distance in zip(x, y, result.distance.tolist(), strict=True):
                nearest = torch.linalg.vector_norm(every[classes != label] - row, ord=p, dim=1).min()
                excess.append(distance / float(nearest))
        found = [value for value in excess if value < math.inf]
        exact = sum(value < 1 + 1e-6 for value in excess) / len(excess)
        farther = f"{100 * (sum(found) / len(found) - 1):.1f} % farther in the mean"
        lost = f"{len(excess) - len(found)} of {len(excess)} not found"
        print(f"l{p:g}, {gradients}: {exact:.2f} are the nearest, {lost}, {farther}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--gradients", type=int, nargs="+", default=[30, 100])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if "PLICA_DATA" in os.environ:
        pictures(chosen.images, chosen.gradients)
    whole_numbers(chosen.gradients)
