"""Table 3, Figures 2 and 3 of "Optimizers Matter": distances that have no projection, by PWCF.

    python benchmarks/papers/table3.py                              resnet_2b, 200 images: six minutes of one core
    python benchmarks/papers/table3.py --nets resnet18 --n 20       twenty minutes

l1.5, l8, l0.5 and l0.8 (which are no norms), and the l2 distance of the network's own features (Eq. 13): the radius of
each image by MinRadius, then MaxLoss at that radius, at twice and at ten times it, each with 100 gradients; l1, l2 and
linf for reference. What MinRadius broke at its radius MaxLoss is to break as well.
"""

from __future__ import annotations

import numpy as np
import torch
from common import NORMS, Answers, arguments, begin, middle, publish, radii, save, setting, share, table
from matplotlib.figure import Figure

import plica
from plica import plot

LAYERS = {
    "resnet_2b": ["net.r", "net.layer1"],
    "cifar_wide_kw": ["net.r0", "net.r2"],
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "small": ["1", "3"],
}
TIMES = (1, 2, 10)
HEAD = "network | distance | images | radius, median | MaxLoss at it, % | at 2 times it, % | at 10 times it, %"


def main() -> None:
    given = begin(arguments(__doc__ or "", ["resnet_2b"], 200, gradients=100))
    answers, rows = Answers(given, "table3"), []
    for name in given.nets:
        chosen = setting(name, given)
        x, y = chosen.correct(given.n)
        metrics = {f"l{p:g}": plica.Lp(p) for p in (1.5, 8, 0.5, 0.8)} | NORMS
        layers = LAYERS.get(name)
        if layers is not None:
            metrics["features"] = plica.Perceptual.of(chosen.net, layers)
        found = {}
        for label, metric in metrics.items():
            asked = plica.MinRadius(metric)
            near = radii(answers.attacked(given, chosen, label, (x, y), asked, "pwcf", given.gradients))
            known = np.isfinite(near)
            found[label] = near
            told = []
            for times in TIMES:
                some = torch.from_numpy(known)
                question = plica.MaxLoss(metric, torch.from_numpy(times * near[known]))
                key = f"{label} {times} times"
                run = answers.attacked(given, chosen, key, (x[some], y[some]), question, "pwcf", given.gradients)
                told.append(share(np.isfinite(radii(run))))
            rows.append([name, label, int(known.sum()), middle(near[known]), *told])
        draw(found, given, name)
    publish(given, {"table3": table(HEAD, rows)})


@plot.paper()
def draw(found, given, name) -> None:
    """Figures 2 and 3: the radius of each image."""
    shown = [label for label in ("l1.5", "l8", "features") if label in found]
    axes = Figure(figsize=(plot.PAGE, 2.0)).subplots(1, len(shown), squeeze=False)[0]
    for axis, label in zip(axes, shown, strict=True):
        plot.radii_by_image(found[label], axis, unit=f"{label} radius")
    save(axes[0].figure, given, f"figure2-{name}")


if __name__ == "__main__":
    main()
