"""Median radii of the demonstration's twenty images, ours beside a public attack: needs this repository alone.

    python benchmarks/table.py [--gradients 100 300] [--methods auto fmn]

An image without a point counts as infinitely far; a dash says that the method cannot treat the norm.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: or CPU time counts threads that wait

import torch

import plica
from plica.demo import images, resnet18
from plica.metrics import parse_metric

NORMS = ("l1", "l1.5", "l2", "l8", "linf")


def table(methods, budgets):
    """Markdown, one line per norm, a column per method and budget; printed as it grows."""
    model, (x, y) = resnet18(), images()
    columns = [(method, budget) for budget in budgets for method in methods]
    print("| norm | " + " | ".join(f"{method}, {budget}" for method, budget in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    spent = {method: [0.0, 0] for method in methods}  # CPU seconds, gradients
    for norm in NORMS:
        question = plica.MinRadius(parse_metric(norm))
        cells = []
        for method, budget in columns:
            begin = time.process_time()
            try:
                result = plica.attack(model, x, y, question, method=method, gradients=budget)
            except plica.Unsupported:
                cells.append("-")
                continue
            spent[method][0] += time.process_time() - begin
            spent[method][1] += int(result.gradients.sum())
            lost = int((~result.success).sum())
            cells.append(f"{result.distance.median():.4f}" + f" ({lost} not found)" * (lost > 0))
        print(f"| {norm} | " + " | ".join(cells) + " |", flush=True)
    costs = ", ".join(f"{1000 * seconds / max(count, 1):.0f} ms {method}" for method, (seconds, count) in spent.items())
    print(f"\nTwenty CIFAR-10 images, ResNet-18, seed 0, torch {torch.__version__}; median robustness radius by method")
    print(f"and budget of gradients per image. CPU time per gradient of one image: {costs}.")


def main():
    parser = argparse.ArgumentParser(description="Radii of the demonstration's images.")
    parser.add_argument("--gradients", type=int, nargs="+", default=[100, 300], help="budgets per image")
    parser.add_argument("--methods", nargs="+", default=["auto", "fmn"], help=f"of {', '.join(plica.methods())}")
    given = parser.parse_args()
    table(given.methods, given.gradients)


if __name__ == "__main__":
    main()
