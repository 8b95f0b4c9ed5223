"""Figures 5 to 7 of both papers: how dense perturbations are by distance, loss and solver; radii against budgets.

    python benchmarks/papers/figure6.py             one network, 200 images: 20 minutes of one core
    python benchmarks/papers/figure6.py --n 20      two minutes

The measure is ||delta||_1 / ||delta||_2, 1 for one entry, the larger the denser. MaxLoss within the papers' radii on
the cross-entropy and the margin: APGD; plica's PWCF, which ends at the first success; and PWCF as the papers pose it,
carried on past that until its test ends it or 400 evaluations are spent (posed.py), from normal noise. MinRadius: FAB,
targeted FAB, PWCF, `radius`. Claims are checked image by image: the median difference of the measure, or the ratio of
interquartile ranges, with 95 % bootstrap intervals over images.
"""

from __future__ import annotations

import numpy as np
import torch
from common import NORMS, USUAL, Answers, arguments, begin, middle, publish, save, setting, share, table
from matplotlib.figure import Figure
from posed import CLIPS, EVALUATIONS, Posed, kept, noise, solve, solver

import plica
from plica import plot
from plica.analysis.intervals import median_interval
from plica.analysis.patterns import l1_over_l2
from plica.metrics import plain_p

LOSSES = ("ce", "margin")
BALLS = ("APGD", "PWCF", "PWCF carried on")
RADII = {"FAB": "fab", "FAB-T": "fab-t", "PWCF": "pwcf", "radius": "radius"}
MEASURE = "network | question | images | lower quartile | median | upper quartile"
CLAIM = "network | claim | images | difference, median | share denser, % | verdict"
SPREAD = "network | claim | images | ratio of spreads | verdict"
BUDGET = "network | distance | images | median radius | usual budget | budget over median | radii within it, %"


def main() -> None:
    given = begin(arguments(__doc__ or "", ["resnet_2b"], 200, evaluations=EVALUATIONS, gradients=100))
    rows, claims, spreads, budgets = [], [], [], []
    for name in given.nets:
        chosen = setting(name, given)
        found = measured(given, chosen)
        for label, (measure, _) in found.items():
            dense = measure[np.isfinite(measure)]
            quartiles = np.quantile(dense, (0.25, 0.5, 0.75)) if len(dense) else [np.nan] * 3
            rows.append([name, label, len(dense), *(f"{q:.3g}" for q in quartiles)])
        claims += compared(name, found)
        spreads += varied(name, found)
        for norm, budget in USUAL.items():
            radius = np.min([found[f"{norm} {label}"][1] for label in RADII], axis=0)
            cells = [f"{np.median(radius):.3g}", f"{budget:.3g}", f"{budget / np.median(radius):.3g}"]
            budgets.append([name, norm, len(radius), *cells, share(radius <= budget)])
        draw(found, given, name)
        panels(given, chosen)
    parts = {"figure6": table(MEASURE, rows), "figure6-claims": table(CLAIM, claims)}
    publish(given, parts | {"figure6-spreads": table(SPREAD, spreads), "figure7": table(BUDGET, budgets)})


def measured(given, chosen) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The measure and the distance of each image, by question; nan where no perturbation was found."""
    answers, posed = Answers(given, "figure6"), Answers(given, "posed")
    x, y = chosen.correct(given.n)
    found = {}

    def of(label: str, question, method: str, gradients: int) -> None:
        def ask() -> dict:
            run = plica.attack(chosen.net, x, y, question, method=method, gradients=gradients, seed=given.seed)
            dense = torch.where(run.success, l1_over_l2(run.x_adv - x), torch.nan)
            return {"dense": [None if d != d else d for d in dense.tolist()], "distance": run.distance.tolist()}

        run = answers(f"{chosen.name} {label} n={len(x)} gradients={gradients} seed={given.seed}", ask)
        found[label] = np.array(run["dense"], dtype=float), np.array(run["distance"])

    for norm, metric in NORMS.items():
        for loss in LOSSES:
            question = plica.MaxLoss(metric, USUAL[norm], loss=loss)
            of(f"{norm} APGD {loss}", question, f"apgd-{loss}", given.gradients + 1)
            of(f"{norm} PWCF {loss}", question, "pwcf", given.gradients)
            how = dict(ball=True, loss=loss, clip=CLIPS[loss])
            run = kept(posed, given, chosen, norm, USUAL[norm], f"MaxLoss, {loss}", **how)
            broken = np.array(run["broken"])
            dense = np.where(broken, run["l1_over_l2"], np.nan)
            found[f"{norm} PWCF carried on {loss}"] = dense, np.where(broken, run["distance"], np.inf)
        for label, method in RADII.items():
            of(f"{norm} {label}", plica.MinRadius(metric), method, 3 * given.gradients)
    return found


def pair(found, a: str, b: str) -> tuple[np.ndarray, np.ndarray]:
    """The measure of both where both have one."""
    one, other = found[a][0], found[b][0]
    both = np.isfinite(one) & np.isfinite(other)
    return one[both], other[both]


def verdict(low: float, high: float, neutral: float) -> str:
    """Of the claim that what the interval is of is larger than neutral."""
    if low == high == neutral:
        return "no difference"
    return "holds" if low > neutral else "does not hold" if high < neutral else "open"


def compared(name: str, found) -> list[list]:
    """Of "the second is denser than the first"."""
    asked = []
    solved = [f"{how} {loss}" for how in BALLS for loss in LOSSES]
    for one, other in (("l1", "l2"), ("l2", "linf")):
        asked += [(f"{one} < {other}: {how}", f"{one} {how}", f"{other} {how}") for how in [*solved, *RADII]]
    for norm in NORMS:
        asked += [(f"ce < margin: {how}, {norm}", f"{norm} {how} ce", f"{norm} {how} margin") for how in BALLS]
        for loss in LOSSES:
            for how in BALLS[1:]:
                asked.append((f"APGD < {how}: {loss}, {norm}", f"{norm} APGD {loss}", f"{norm} {how} {loss}"))
        asked.append((f"FAB < PWCF: {norm}", f"{norm} FAB", f"{norm} PWCF"))
    rows = []
    for claim, a, b in asked:
        one, other = pair(found, a, b)
        if len(one):
            change = median_interval(other - one, 0)
            rows.append([name, claim, len(one), middle(other - one), share(other > one), verdict(change.low, change.high, 0)])  # fmt: skip # noqa: E501
    return rows


def varied(name: str, found) -> list[list]:
    """Of "PWCF's measures are spread wider"."""
    asked = [
        (f"{how} wider than APGD: {loss}, {norm}", f"{norm} APGD {loss}", f"{norm} {how} {loss}")
        for norm in NORMS
        for how in BALLS[1:]
        for loss in LOSSES
    ]
    asked += [(f"PWCF wider than {label}: {norm}", f"{norm} {label}", f"{norm} PWCF") for norm in NORMS for label in ("FAB", "FAB-T")]  # fmt: skip # noqa: E501
    rows = []
    for claim, a, b in asked:
        both = np.stack(pair(found, a, b))
        if both.shape[1] > 1:
            rng = np.random.default_rng(0)
            drawn = [ratio(both[:, rng.integers(0, both.shape[1], both.shape[1])]) for _ in range(2000)]
            low, high = np.quantile(drawn, (0.025, 0.975))
            told = f"{ratio(both):.3g} [{low:.3g}, {high:.3g}]"
            rows.append([name, claim, both.shape[1], told, verdict(low, high, 1)])
    return rows


def ratio(both: np.ndarray) -> float:
    """The interquartile range of the second over that of the first."""
    first, second = np.subtract(*np.quantile(both, (0.75, 0.25), axis=1))
    return float(second / max(first, 1e-12))


@plot.paper()
def draw(found, given, name) -> None:
    """Histograms of the measure: MaxLoss above, MinRadius in the middle; radii and budgets below."""
    axes = Figure(figsize=(plot.PAGE, 5.6)).subplots(3, len(NORMS))
    for column, norm in enumerate(NORMS):
        shown = {f"{how} {loss}": found[f"{norm} {how} {loss}"][0] for how in (BALLS[0], BALLS[2]) for loss in LOSSES}  # fmt: skip # noqa: E501
        plot.measure_histogram(shown, axes[0, column])
        axes[0, column].set_title(f"MaxLoss, {norm}")
        axes[0, column].get_legend().remove()
        plot.measure_histogram({label: found[f"{norm} {label}"][0] for label in ("FAB", "PWCF", "radius")}, axes[1, column])  # fmt: skip # noqa: E501
        axes[1, column].set_title(f"MinRadius, {norm}")
        radius = np.min([found[f"{norm} {label}"][1] for label in RADII], axis=0)
        plot.radii_histogram(radius, axes[2, column], budgets=[USUAL[norm]], unit=f"{norm} radius")
    figure = axes[0, 0].figure
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    save(figure, given, f"figure6-{name}")


@plot.paper()
def panels(given, chosen) -> None:
    """One image as in the papers: l1 by APGD and by PWCF carried on, with both losses; l2 and linf beside them."""
    x, y = (part[:1] for part in chosen.correct(1))
    points = {}
    for norm, loss in (("l1", "ce"), ("l1", "margin"), ("l2", "margin"), ("linf", "margin")):
        question = plica.MaxLoss(NORMS[norm], USUAL[norm], loss=loss)
        points[f"APGD {norm}\n{loss}"] = plica.attack(chosen.net, x, y, question, method=f"apgd-{loss}", gradients=given.gradients + 1).x_adv[0]  # fmt: skip # noqa: E501
    for loss in LOSSES:
        p = float(plain_p(NORMS["l1"]) or 0)
        posed = Posed(chosen.net, tuple(x.shape[1:]), p, ball=True, loss=loss, clip=CLIPS[loss])
        limit = torch.full((1,), USUAL["l1"], dtype=torch.float64)
        ended = solve(posed, x, y, limit, noise(x, limit, p, given.seed), solver(given.evaluations))
        points[f"PWCF l1\n{loss}"] = ended.x_adv[0].float()
    save(plot.panels(x[0], points)[0, 0].figure, given, f"figure3-{chosen.name}")


if __name__ == "__main__":
    main()
