"""Table 2 and Figure 4 of "Optimizers Matter": radii of FAB, targeted FAB, PWCF and `auto`, and their differences.

    python benchmarks/papers/table2.py            two networks, 500 images: 15 minutes of one core
    python benchmarks/papers/table2.py --n 50     two minutes

Every method has `--gradients` per image; FAB needs one for each class and iteration, targeted FAB one for each
iteration towards nine classes. Only images that the network gets right. Differences: PWCF less FAB
of the image, so that below 0 PWCF is nearer.
"""

from __future__ import annotations

import numpy as np
from common import NORMS, Answers, arguments, begin, mean, middle, publish, radii, save, setting, share, table
from matplotlib.figure import Figure

import plica
from plica import plot

METHODS = ("fab", "fab-t", "pwcf", "auto")
HEAD = "network | norm | method | images | not found | mean | median | sd"
IMAGES = (
    "network | norm | radii within 1 % of each other by PWCF and auto, % | rank correlation with l1's radii | with l2's"
)
CHANGE = "network | norm | difference | images | mean | median | sd | share nearer, %"
PAIRS = (("pwcf", "fab"), ("pwcf", "fab-t"), ("auto", "fab-t"), ("auto", "pwcf"))


def main() -> None:
    given = begin(arguments(__doc__ or "", ["resnet_2b", "cifar_wide_kw"], 500, gradients=300))
    answers, rows, changes, images = Answers(given, "table2"), [], [], []
    for name in given.nets:
        chosen = setting(name, given)
        x, y = chosen.correct(given.n)
        held = {}
        for norm, metric in NORMS.items():
            found = {}
            for method in METHODS:
                question = plica.MinRadius(metric)
                run = answers.attacked(given, chosen, norm, (x, y), question, method, given.gradients)
                found[method] = radii(run)
            held[norm] = found
            both = np.all([np.isfinite(r) for r in found.values()], axis=0)
            for method, r in found.items():
                some = r[both]
                missing = int(np.isinf(r).sum())
                rows.append([name, norm, method, len(some), missing, mean(some), middle(some), f"{some.std():.3g}"])
            for ours, theirs in PAIRS:
                change = found[ours][both] - found[theirs][both]
                spread = [len(change), mean(change), middle(change), f"{change.std():.3g}", share(change < 0)]
                changes.append([name, norm, f"{ours} - {theirs}", *spread])
        draw(held, given, name)
        images += alike(name, held)
    parts = {"table2": table(HEAD, rows), "table2-differences": table(CHANGE, changes)}
    publish(given, parts | {"table2-images": table(IMAGES, images)})


def alike(name, held) -> list[list]:
    """Whether an image's radius depends on the method, and whether the images that are hard under one norm are so under
    another."""
    least = {norm: np.min(list(found.values()), axis=0) for norm, found in held.items()}
    rows = []
    for norm, found in held.items():
        near, far = np.sort([found["pwcf"], found["auto"]], axis=0)
        cells = [f"{rank_correlation(least[norm], least[other]):.2f}" for other in ("l1", "l2")]
        rows.append([name, norm, share(far <= 1.01 * near), *cells])
    return rows


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    ranks = [values.argsort().argsort() for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


@plot.paper()
def draw(held, given, name) -> None:
    """Figure 4: radii of targeted FAB above, PWCF's less those below."""
    figure = Figure(figsize=(plot.PAGE, 4.4))
    axes = figure.subplots(2, len(held))
    for column, (norm, found) in enumerate(held.items()):
        plot.radii_histogram(found["fab-t"], axes[0, column], unit=f"{norm} radius, FAB-T")
        plot.radius_difference(found["fab-t"], found["pwcf"], axes[1, column], names=("FAB-T", "PWCF"), unit=norm)
        axes[1, column].legend(loc="upper left")
    save(figure, given, f"figure4-{name}")


if __name__ == "__main__":
    main()
