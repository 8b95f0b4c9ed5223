"""Perturbations other than x' = x + delta on the demonstration's twenty images: a table, and a picture to look at.

    python benchmarks/perturbations.py [--gradients 100] [--figure docs/moves.png]

Each row is the least theta that makes the ResNet-18 err, in the perturbation's own distance. `grid` tries as many
values as cost the same, three forward runs to a gradient.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: or CPU time counts threads that wait

import plica
from plica.demo import CLASSES, images, resnet18
from plica.plot.perturbations import draw_perturbations

MOVES = {
    "flow": plica.Flow(),
    "turn": plica.RotateTranslate(),
    "colours": plica.Recolor(),
    "hue": plica.HueSaturation(),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradients", type=int, default=100, help="budget per image")
    parser.add_argument("--figure", default="docs/moves.png", help="the picture to write")
    given = parser.parse_args()
    model, (x, y) = resnet18(), images()
    print("| perturbation | unknowns | method | found | median distance | gradients | forward runs | CPU seconds |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    answers = {}
    for name, through in MOVES.items():
        for method in ("auto", "grid")[: 1 + hasattr(through, "grid")]:
            begin = time.process_time()
            question = plica.MinRadius("theta", through=through)
            result = plica.attack(model, x, y, question, method=method, gradients=given.gradients)
            seconds = (time.process_time() - begin) / len(x)
            print(
                f"| {name} | {through.start(x[:1]).shape[1]} | {method} | {int(result.success.sum())} of {len(x)} | "
                f"{float(result.distance.median()):.4g} | {float(result.gradients.double().mean()):.0f} | "
                f"{float(result.forwards.double().mean()):.0f} | {seconds:.1f} |",
                flush=True,
            )
            if method == "auto":
                answers[name] = result
    draw_perturbations(given.figure, x, y, answers, CLASSES)
    print(f"\nPicture: {given.figure}")


if __name__ == "__main__":
    main()
