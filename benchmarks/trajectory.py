"""Objective and violation along BFGS-SQP's way for MaxLoss under linf, posed three ways (Fig. 1, "Optimizers Matter").

    python benchmarks/trajectory.py --seconds 60 --figure docs/trajectory.png

plain: max |x' - x| <= radius, one nonsmooth constraint. entries: |x' - x| <= radius for each, as many constraints as
entries. folded: the l2 norm of max(|x' - x| - radius, 0), one constraint again (Eq. 9-11). The objective is the
margin of the image's class, clipped at 0: where it and the violation are 0, the attack has succeeded. The box is
clamped in the model. An image of the demonstration, averaged to 8 x 8 before each step's perturbation is enlarged
again, so that "entries" has 192 constraints and not 3072, each of which needs a gradient.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch.nn import functional

import plica
from plica import plot
from plica.core.losses import margin
from plica.demo import images, resnet18

GRID = 8  # entries of a perturbation along either side
TOL = 1e-6


def ways(model, x, y, radius):
    """The three problems by name; unknowns are the perturbation on the coarse grid, (1, 3 * GRID * GRID)."""

    def objective(u):
        delta = functional.interpolate(u.view(-1, 3, GRID, GRID), size=x.shape[2:], mode="nearest")
        return -margin(model((x + delta).clamp(0, 1)), y).clamp(max=0)

    return {
        "plain": lambda u: (objective(u), (u.abs().amax(1) - radius)[:, None]),
        "entries": lambda u: (objective(u), u.abs() - radius),
        "folded": lambda u: (objective(u), (u.abs() - radius).clamp(min=0).norm(dim=1)[:, None]),
    }


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--seconds", type=float, default=60, help="time for each way")
    ask.add_argument("--radius", type=float, default=4 / 255)
    ask.add_argument("--image", type=int, default=0)
    ask.add_argument("--figure", type=Path)
    given = ask.parse_args()
    model, (x, y) = resnet18(), images()
    x, y = x[given.image : given.image + 1], y[given.image : given.image + 1]
    start = 0.5 * given.radius * torch.randn(3 * GRID * GRID, generator=torch.Generator().manual_seed(0))
    recorded = {name: plot.Recorded(fun, given.seconds) for name, fun in ways(model, x, y, given.radius).items()}
    print("| way | evaluations | seconds | objective | violation | ended |\n|---|---|---|---|---|---|")
    for name, way in recorded.items():
        try:
            way.restart()
            ended = plica.minimize(way, start, tol=TOL, max_steps=1000).status.value
        except plot.OutOfTime:
            ended = "out of time"
        told = f"{len(way.objective)} | {way.passed[-1]:.1f} | {way.objective[-1]:.3g} | {way.violation[-1]:.2g}"
        print(f"| {name} | {told} | {ended} |", flush=True)
    if given.figure:
        above, _ = plot.trajectory(recorded)
        FigureCanvasAgg(above.figure)
        above.figure.savefig(given.figure, dpi=160)


if __name__ == "__main__":
    main()
