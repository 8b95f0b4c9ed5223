"""Figure 1 of "Optimizers Matter": MaxLoss under linf without reformulation, with it, and folded, by plica.minimize.

    python benchmarks/papers/figure1.py                   ten images: eight minutes of one core
    python benchmarks/papers/figure1.py --n 2 --seconds 4

plain: max |x' - x| <= radius, one constraint. entries: the 2 n of Eq. 9. folded: those as one (Eq. 11). The objective
is the margin of the image's class, clipped at 0.01; the network sees x' clamped into the box (posed.py). A way has
arrived where the objective is within 1 % of its first value from its least one, and no constraint is violated by more
than 1 % of the radius. Under "coarse" a perturbation has 8 x 8 pixels, enlarged, so that there are 384 constraints and
not 6,144, each of which needs a gradient: with all pixels "entries" is left out. Times are of this process.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from common import Answers, arguments, begin, middle, publish, save, setting, share, table
from matplotlib.figure import Figure
from posed import Posed, noise
from torch.nn.functional import interpolate

import plica
from plica import plot

HEAD = "network | unknowns | way | images | arrived, % | evaluations of those | evaluations in all | ms of CPU for each"
WAYS = ("plain", "entries", "folded")
COARSE = 8


def main() -> None:
    parse = arguments(__doc__ or "", ["resnet_2b"], 10, seconds=10.0, radius=2 / 255)
    given = begin(parse)
    answers, rows = Answers(given, "figure1"), []
    for name in given.nets:
        chosen = setting(name, given)
        # those whose radius is smaller, so that there is something to arrive at
        x, y = chosen.correct(10 * given.n)
        near = plica.attack(chosen.net, x, y, plica.MinRadius(plica.Lp("inf"))).distance < 0.75 * given.radius
        x, y = x[near][: given.n], y[near][: given.n]
        for unknowns in ("coarse", "pixels"):
            records = {}
            for way in WAYS if unknowns == "coarse" else ("plain", "folded"):
                runs = [once(answers, given, chosen, x, y, unknowns, way, i) for i in range(len(x))]
                records[way] = runs
                when = [arrival(one, given.radius) for one in runs]
                told = np.array([at is not None for at in when])
                evaluations = np.array([at + 1 for at in when if at is not None], dtype=float)
                spent = np.array([len(one["objective"]) for one in runs])
                each = f"{1000 * np.median([one['cpu'] for one in runs] / spent):.0f}"
                cells = [middle(evaluations) if len(evaluations) else "-", f"{np.median(spent):.0f}", each]
                rows.append([name, unknowns, way, len(runs), share(told), *cells])
            draw(records, given, f"{name}-{unknowns}")
    publish(given, {"figure1": table(HEAD, rows)})


def once(answers, given, chosen, x, y, unknowns: str, way: str, i: int) -> dict:
    """The run of one image, which is kept."""
    key = f"{chosen.name} {unknowns} {way} {i} seconds={given.seconds} radius={given.radius:.4g} seed={given.seed}"
    return answers(key, lambda: run(given, chosen, x[i : i + 1], y[i : i + 1], unknowns, way))


def run(given, chosen, x, y, unknowns: str, way: str) -> dict:
    """Objective, violation and seconds at each evaluation of one image."""
    side = COARSE if unknowns == "coarse" else x.shape[-1]
    net, shape = chosen.net.double(), tuple(x.shape[1:])
    flat, radius = x.double().flatten(1), torch.tensor([given.radius], dtype=torch.float64)
    posed = Posed(net, shape, math.inf, ball=True, linf=way)
    small = torch.zeros(1, shape[0] * side**2, dtype=torch.float64)  # the image of the unknowns is itself their zero

    def enlarged(u):
        return interpolate(u.view(-1, shape[0], side, side), size=shape[1:], mode="nearest").flatten(1)

    def fun(u):
        if time.process_time() > until:
            raise plot.OutOfTime
        objective, _ = posed(flat + enlarged(u), flat, y, radius)
        return objective, posed._excess(u, radius, 1.0)

    recorded, until = plot.Recorded(fun), time.process_time() + given.seconds
    start = noise(torch.full((1, small.shape[1]), 0.5), given.radius, math.inf, given.seed).double() - 0.5
    try:
        ended = plica.minimize(recorded, start[0]).status.name
    except plot.OutOfTime:
        ended = "OUT_OF_TIME"
    finally:
        chosen.net.float()
    return {
        "objective": recorded.objective,
        "violation": recorded.violation,
        "ended": ended,
    }


def arrival(run: dict, radius: float) -> int | None:
    """The first evaluation that is near enough to the end."""
    first = abs(run["objective"][0])
    for at, (f, v) in enumerate(zip(run["objective"], run["violation"], strict=True)):
        if f <= 0.01 * first - 0.01 and v <= 0.01 * radius:
            return at
    return None


@plot.paper()
def draw(records, given, name) -> None:
    """Median over images of the objective and of the violation, evaluation by evaluation."""
    above, below = Figure(figsize=(plot.COLUMN, 3.2)).subplots(2, 1, sharex=True)
    for series, (way, runs) in enumerate(records.items()):
        longest = max(len(one["objective"]) for one in runs)
        at = np.arange(1, longest + 1)
        for axes, key in ((above, "objective"), (below, "violation")):
            curves = np.array([one[key] + [one[key][-1]] * (longest - len(one[key])) for one in runs])
            style = {
                "color": plot.COLOURS[series],
                "label": {"plain": "as it is", "entries": "reformulated"}.get(way, way),
            }
            axes.plot(at, np.maximum(np.median(curves, axis=0), 1e-8 if key == "violation" else -math.inf), **style)
    above.set_ylabel("objective")
    below.set(ylabel="violation", xlabel="evaluations", yscale="log", xscale="log")
    above.legend()
    save(above.figure, given, f"figure1-{name}")


if __name__ == "__main__":
    main()
