"""Figure 8 of "Implications of Solution Patterns": patterns of attacks in distances between features, beside l2's.

    python benchmarks/papers/figure8.py             one network, 100 images: five minutes of one core
    python benchmarks/papers/figure8.py --n 20      one minute

MaxLoss in the l2 and the l1 distance of the network's own features (Eq. 7 and 8) by LPA and PWCF, and in l2 and l1 by
APGD, each within twice the median radius of its distance. The measure is ||delta||_1 / ||delta||_2. LPA has 200
gradients and PWCF 100; PWCF's is the point at which it ends. Below, pairs of attacks image by image.
"""

from __future__ import annotations

import numpy as np
import torch
from common import Answers, arguments, begin, middle, publish, radii, save, setting, table
from table3 import LAYERS

import plica
from plica import plot
from plica.analysis.patterns import l1_over_l2

HEAD = "network | attack | radius | images broken | l1/l2, median | less that of APGD l2, median"
WAYS = {
    "APGD l2": ("l2", "apgd-ce", 101),
    "APGD l1": ("l1", "apgd-ce", 101),
    "LPA features l2": ("features l2", "lpa", 200),
    "PWCF features l2": ("features l2", "pwcf", 100),
    "LPA features l1": ("features l1", "lpa", 200),
    "PWCF features l1": ("features l1", "pwcf", 100),
}
CHANGE = "network | attacks | images | difference of l1/l2, median"
PAIRS = (
    ("LPA features l1", "LPA features l2"),
    ("PWCF features l1", "PWCF features l2"),
    ("LPA features l2", "PWCF features l2"),
    ("LPA features l1", "PWCF features l1"),
)


def main() -> None:
    given = begin(arguments(__doc__ or "", ["resnet_2b"], 100, gradients=100))
    answers, rows, changes = Answers(given, "figure8"), [], []
    for name in given.nets:
        chosen = setting(name, given)
        x, y = chosen.correct(given.n)
        metrics = {"l2": plica.Lp(2), "l1": plica.Lp(1)} | {
            f"features l{p}": plica.Perceptual.of(chosen.net, LAYERS[name], p=p) for p in (2, 1)
        }
        size = {}
        for label, metric in metrics.items():
            run = answers.attacked(given, chosen, label, (x, y), plica.MinRadius(metric), "auto", given.gradients)
            size[label] = 2 * float(np.median(radii(run)))
        dense = {way: kept(answers, given, chosen, x, y, way, metrics, size) for way in WAYS}
        for way, values in dense.items():
            both = np.isfinite(values) & np.isfinite(dense["APGD l2"])
            cells = [f"{size[WAYS[way][0]]:.3g}", int(np.isfinite(values).sum())]
            cells += [middle(v) if len(v) else "-" for v in (values[np.isfinite(values)], (values - dense["APGD l2"])[both])]  # fmt: skip # noqa: E501
            rows.append([name, way, *cells])
        for one, other in PAIRS:
            change = dense[one] - dense[other]
            change = change[np.isfinite(change)]
            changes.append([name, f"{one} - {other}", len(change), middle(change) if len(change) else "-"])
        with plot.paper():
            save(plot.measure_histogram(dense).figure, given, f"figure8-{name}")
    publish(given, {"figure8": table(HEAD, rows), "figure8-differences": table(CHANGE, changes)})


def kept(answers, given, chosen, x, y, way: str, metrics, size) -> np.ndarray:
    """The measure of each image; nan where it was not broken."""
    label, method, gradients = WAYS[way]

    def ask() -> dict:
        question = plica.MaxLoss(metrics[label], size[label], loss="ce")
        run = plica.attack(chosen.net, x, y, question, method=method, gradients=gradients, seed=given.seed)
        dense = torch.where(run.success, l1_over_l2(run.x_adv - x), torch.nan)
        return {"dense": [None if d != d else d for d in dense.tolist()]}

    key = f"{chosen.name} {way} {size[label]:.4g} n={len(x)} seed={given.seed}"
    return np.array(answers(key, ask)["dense"], dtype=float)


if __name__ == "__main__":
    main()
