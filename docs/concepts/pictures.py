"""The pictures of the concept pages: `python docs/concepts/pictures.py` draws them anew, in seconds.

They show classifiers of points in the plane, so that distances, boundaries and searches can be seen. Where it says
"wrong" a point is misclassified. Every answer and radius in them was found by `plica.attack`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import plica
from plica.plot import COLOURS, paper

HERE = Path(__file__).parent
RED, GREY = "#b03030", "0.45"
IMAGE = torch.tensor([[0.4, 0.42]])
Logits = Callable[[Tensor], Tensor]


def region(x: Tensor, at: tuple[float, float], width: tuple[float, float]) -> Tensor:
    """1 minus the distance from `at` in units of `width`: positive inside an ellipse.  x (b, 2) -> (b,)"""
    return 1 - torch.linalg.vector_norm((x - torch.tensor(at).to(x)) / torch.tensor(width).to(x), dim=1)


def one(x: Tensor) -> Tensor:
    """Logits of two classes: a single region of wrong answers, with a curved boundary."""
    return torch.stack([torch.zeros(len(x)).to(x), region(x, (0.86, 0.8), (0.3, 0.36))], 1)


def two(x: Tensor) -> Tensor:
    """Logits of three classes: the gradient at the image points to the broad region of one, that of the other is
    nearer."""
    broad, narrow = region(x, (1.0, 0.52), (0.27, 0.35)), region(x, (0.36, 0.79), (0.13, 0.08))
    return torch.stack([torch.zeros(len(x)).to(x), broad, narrow], 1)


class Recorded:
    """A classifier that keeps the points at which its gradient was taken."""

    def __init__(self, logits: Logits):
        self.logits, self.points = logits, []

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            self.points.append(x[0].detach().clone())
        return self.logits(x)


def found(logits: Logits, metric: plica.Lp, method: str, gradients: int) -> tuple[Tensor, float, list[Tensor]]:
    """The nearest wrong point, its distance, and the way there."""
    model = Recorded(logits)
    question = plica.MinRadius(metric)
    result = plica.attack(model, IMAGE, torch.tensor([0]), question, method=method, gradients=gradients)
    return result.x_adv[0], float(result.distance[0]), model.points


def plane(axes: Axes, logits: Logits, label: tuple[float, float] = (0.86, 0.86)) -> None:
    """The region of wrong answers, and the image."""
    side = torch.linspace(0, 1, 300)
    v, u = torch.meshgrid(side, side, indexing="ij")
    m = logits(torch.stack([u.flatten(), v.flatten()], 1))[:, 1:].amax(1).view(300, 300)
    axes.contourf(u, v, m, levels=[0, 9], colors=["#f3d9d9"])
    axes.contour(u, v, m, levels=[0], colors=[RED], linewidths=1)
    axes.text(*label, "wrong", color=RED, ha="center", va="center")
    axes.plot(*IMAGE[0], "o", color="black", markersize=4)
    axes.text(IMAGE[0, 0] - 0.02, IMAGE[0, 1] - 0.02, "image", ha="right", va="top")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(True)


def ball(axes: Axes, p: float, radius: float, **style) -> None:
    """The points at l_p distance `radius` from the image."""
    angle = np.linspace(0, 2 * np.pi, 361)
    d = np.stack([np.cos(angle), np.sin(angle)])
    d = d / np.linalg.norm(d, ord=p, axis=0) * radius
    axes.plot(float(IMAGE[0, 0]) + d[0], float(IMAGE[0, 1]) + d[1], linewidth=1, **style)


def save(figure: Figure, name: str) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(HERE / name, facecolor="white")


def radius() -> None:
    """The nearest wrong point under three norms, and the balls that touch it."""
    figure = Figure(figsize=(3.4, 3.4))
    axes = figure.add_subplot()
    plane(axes, one)
    for colour, p, name in zip(COLOURS, (1, 2, np.inf), ("l1", "l2", "linf"), strict=False):
        point, r, _ = found(one, plica.Lp(float(p)), "auto", 100)
        ball(axes, p, r, color=colour, label=f"{name}: {r:.3f}")
        axes.plot(*point, "o", color=colour, markersize=4)
    axes.legend(loc="lower right", frameon=True)
    save(figure, "radius.png")


def balls() -> None:
    """What lies within 1 under some norms."""
    figure = Figure(figsize=(6.6, 1.45))
    for axes, p in zip(figure.subplots(1, 6), (0.5, 1, 1.5, 2, 8, np.inf), strict=True):
        angle = np.linspace(0, 2 * np.pi, 361)
        d = np.stack([np.cos(angle), np.sin(angle)])
        size = (np.abs(d) ** p).sum(0) ** (1 / p) if np.isfinite(p) else np.abs(d).max(0)
        axes.fill(*(d / size), facecolor="#d5e5f2", edgecolor=COLOURS[0], linewidth=1)
        axes.spines[:].set_visible(False)
        axes.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal", xticks=[], yticks=[])
        axes.set_title("linf" if np.isinf(p) else f"l{p:g}")
    save(figure, "balls.png")


def solver() -> None:
    """One step of the search, and its way to the boundary."""
    point, r, way = found(one, plica.Lp(2.0), "radius", 10)
    figure = Figure(figsize=(6.6, 3.3))
    left, right = figure.subplots(1, 2)
    plane(left, one)
    at = way[1].clone().requires_grad_(True)
    m = one(at[None])[0, 1]
    (g,) = torch.autograd.grad(m, at)
    at, m = at.detach(), m.detach()
    u = at - IMAGE[0]
    # the nearest point of the line m + g . (z - u) = 0
    z = g * (g @ u - m) / (g @ g)
    along = torch.tensor([-g[1], g[0]]) / g.norm()
    line = torch.stack([IMAGE[0] + z - 0.6 * along, IMAGE[0] + z + 0.6 * along])
    left.plot(*line.T, "--", color=GREY, linewidth=1, label="linearised boundary")
    ball(left, 2, float(z.norm()), color=COLOURS[0], label="smallest ball that touches it")
    left.plot(*at, "s", color=GREY, markersize=4, label="where it was linearised")
    left.plot(*(IMAGE[0] + z), "o", color=COLOURS[0], markersize=4, label="next point")
    left.legend(loc="lower right", frameon=True)
    left.set_title("One step")
    plane(right, one)
    steps = torch.stack([IMAGE[0], *way])
    right.plot(*steps.T, ".-", color=COLOURS[0], linewidth=0.8, markersize=5, label="points asked")
    ball(right, 2, r, color=COLOURS[0], linestyle=":")
    right.plot(*point, "*", color=COLOURS[1], markersize=9, label=f"answer: {r:.3f}")
    right.legend(loc="lower right", frameon=True)
    right.set_title("Ten gradients")
    save(figure, "solver.png")


def methods() -> None:
    """Two searches of the same image that end in different places."""
    figure = Figure(figsize=(3.4, 3.4))
    axes = figure.add_subplot()
    plane(axes, two, (0.88, 0.52))
    for colour, method in ((COLOURS[0], "fmn"), (COLOURS[1], "auto")):
        point, r, way = found(two, plica.Lp(2.0), method, 100)
        axes.plot(*torch.stack(way).T, ".", color=colour, markersize=3)
        ball(axes, 2, r, color=colour, label=f"{method}: {r:.3f}")
        axes.plot(*point, "*", color=colour, markersize=9)
    axes.legend(loc="lower right", frameon=True)
    save(figure, "methods.png")


if __name__ == "__main__":
    with paper(), mpl.rc_context({"savefig.dpi": 200}):
        for draw in (radius, balls, solver, methods):
            draw()
