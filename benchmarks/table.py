"""The README's table: median radii of the demonstration's twenty images, beside those of a public attack.

    python benchmarks/table.py [--gradients 100 300] [--into README.md]

The peer is FMN (Pintor et al. 2021) as foolbox has it, one gradient per step, as many steps as plica has gradients;
it exists for l1, l2 and linf. Its points are judged as plica's are: misclassified, inside [0, 1], distance in float64.
An image without a point counts as infinitely far.
"""

import argparse
import math
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: or CPU time counts threads that wait

import torch

import plica
from plica.demo import images, resnet18
from plica.metrics import parse_metric

NORMS = ("l1", "l1.5", "l2", "l8", "linf")
START, END = "<!-- table -->\n", "<!-- end of table -->\n"


def ours(model, x, y, norm, gradients):
    """Distances (b,) and CPU seconds per image."""
    begin = time.process_time()
    result = plica.attack(model, x, y, plica.MinRadius(parse_metric(norm)), gradients=gradients)
    return result.distance, (time.process_time() - begin) / len(x)


def fmn(model, x, y, norm, gradients):
    """The same for foolbox's FMN; None where it has no such norm."""
    import foolbox

    name = {"l1": "L1FMNAttack", "l2": "L2FMNAttack", "linf": "LInfFMNAttack"}.get(norm)
    if name is None:
        return None
    begin = time.process_time()
    attack = getattr(foolbox.attacks, name)(steps=gradients)
    points, _, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=None)
    seconds = (time.process_time() - begin) / len(x)
    with torch.no_grad():
        fooled = model(points).argmax(1) != y
    inside = ((points >= 0) & (points <= 1)).flatten(1).all(1)
    distance = parse_metric(norm)(x.double(), points.double())
    return torch.where(fooled & inside, distance, math.inf), seconds


def table(budgets):
    """Markdown, one line per norm, two columns per budget."""
    model, (x, y) = resnet18(), images()
    heads = [f"{who}, {budget}" for budget in budgets for who in ("plica", "FMN")]
    lines = ["| norm | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    spent = {"plica": [], "FMN": []}
    for norm in NORMS:
        cells = []
        for budget in budgets:
            for who, find in (("plica", ours), ("FMN", fmn)):
                answer = find(model, x, y, norm, budget)
                if answer is None:
                    cells.append("-")
                    continue
                distance, seconds = answer
                lost = int(distance.isinf().sum())
                cells.append(f"{distance.median():.4f}" + f" ({lost} not found)" * (lost > 0))
                spent[who].append(seconds / budget * 1000)
        lines.append(f"| {norm} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    costs = " and ".join(f"{sum(times) / len(times):.0f} ms ({who})" for who, times in spent.items())
    note = (
        f"Median robustness radius of the demonstration's twenty CIFAR-10 images, ResNet-18, by the budget of "
        f"gradients per image; seed 0, torch {torch.__version__}. CPU time per image and gradient: {costs}."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main():
    parser = argparse.ArgumentParser(description="The README's table of results.")
    parser.add_argument("--gradients", type=int, nargs="+", default=[100, 300], help="budgets per image")
    parser.add_argument("--into", type=Path, help="a file whose table is replaced")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peers
    text = table(given.gradients)
    print(text)
    if given.into:
        before, _, rest = given.into.read_text().partition(START)
        _, _, after = rest.partition(END)
        given.into.write_text(before + START + text + END + after)


if __name__ == "__main__":
    main()
