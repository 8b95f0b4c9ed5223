"""Section 4.2 of "Implications" and 5 of "Optimizers Matter": does robustness carry from one distance to another?

    python benchmarks/papers/training.py --trained FOLDER --nets standard-0 pgd-l1-0 pgd-l2-0 pgd-linf-0 pat-0.2-0

Weights are those that `benchmarks/training.py --into FOLDER` trains, 400 test images, two minutes of one core for each
network. Radii by `auto` with 100 gradients under each norm, against the radius of the training and half of it; and the
papers' attack, APGD on the cross-entropy under l1, within the training's radius and twice it. Below, each network
beside the one that was trained under l2, image by image.
"""

from __future__ import annotations

import numpy as np
from common import NORMS, Answers, arguments, begin, publish, radii, setting, share, table

import plica
from plica.analysis.intervals import percentile_interval

TRAINED = {"l1": 6.0, "l2": 0.4, "linf": 4 / 255}
PARTS = (0.5, 1.0)
HEAD = "network | images | clean, % | " + " | ".join(
    f"{norm} {part * radius:.2g}, %" for norm, radius in TRAINED.items() for part in PARTS
)
HEAD += " | all three, % | APGD-ce, l1 6, % | APGD-ce, l1 12, %"
BESIDE = "network | less pgd-l2 under l1 6, points | under l2 0.4 | under linf 4/255"


def main() -> None:
    given = begin(arguments(__doc__ or "", ["standard-0", "pgd-l1-0", "pgd-l2-0", "pgd-linf-0"], 400, gradients=100))
    answers, rows, held = Answers(given, "training"), [], {}
    for name in given.nets:
        chosen = setting(name, given, most=given.n)
        images = chosen.first(given.n)
        found = {}
        for norm, metric in NORMS.items():
            asked = plica.MinRadius(metric)
            found[norm] = radii(answers.attacked(given, chosen, norm, images, asked, "auto", given.gradients))
        stands = {(norm, part): found[norm] > part * TRAINED[norm] for norm in NORMS for part in PARTS}
        every = np.all([stands[norm, 1.0] for norm in NORMS], axis=0)
        attacked = []
        for radius in (TRAINED["l1"], 2 * TRAINED["l1"]):
            asked = plica.MaxLoss(NORMS["l1"], radius, loss="ce")
            run = answers.attacked(given, chosen, f"l1 {radius:g}", images, asked, "apgd-ce", given.gradients + 3)
            attacked.append(share(np.isinf(radii(run))))
        right = chosen.right[: len(every)].numpy()
        rows.append([name, len(every), share(right), *map(share, stands.values()), share(every), *attacked])
        held[name] = {norm: stands[norm, 1.0] for norm in NORMS}
    beside = [
        [name, *(difference(held["pgd-l2-0"][norm], held[name][norm]) for norm in NORMS)]
        for name in given.nets
        if name != "pgd-l2-0" and "pgd-l2-0" in held
    ]
    publish(given, {"training": table(HEAD, rows), "training-beside": table(BESIDE, beside)})


def difference(one: np.ndarray, other: np.ndarray) -> str:
    """Points of robust accuracy that the other has more, with the paired bootstrap interval over images."""
    change = 100 * (other.astype(float) - one)
    rng = np.random.default_rng(0)
    drawn = np.array([change[rng.integers(0, len(change), len(change))].mean() for _ in range(2000)])
    return str(percentile_interval(float(change.mean()), drawn))


if __name__ == "__main__":
    main()
