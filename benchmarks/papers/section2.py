"""Section 2 of "Optimizers Matter": every solver that it names, behind the same judge; and what PGD's settings cost.

    python benchmarks/papers/section2.py             one network, 100 images: eight minutes of one core
    python benchmarks/papers/section2.py --n 20      two minutes

MinRadius by the penalty methods (C&W, EAD, L-BFGS), Brendel-Bethge, iterative linearization (DeepFool, FAB), DDN and
FMN, and by PWCF and `auto`, each with 100 gradients. Over the least: the radius over the least that any of them found
for the image. A method whose package is not installed is left out.
PGD: robust accuracy that it leaves with few and many steps, which sum to a half, 2.5 or ten radii.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from common import NORMS, USUAL, Answers, arguments, begin, middle, publish, radii, setting, share, table

import plica
from plica.attacks import pgd

METHODS = {
    "l1": ("ead", "fmn", "fab", "fab-t", "pwcf", "auto"),
    "l2": ("cw", "lbfgs", "brendel-bethge", "deepfool", "ddn", "fmn-projected", "fab", "fab-t", "pwcf", "auto"),
    "linf": ("brendel-bethge", "deepfool", "fmn", "fab", "fab-t", "pwcf", "auto"),
}
STEPS, LENGTHS = (10, 100), (0.5, 2.5, 10.0)
HEAD = "network | norm | method | images | found, % | radius over the least, median | within 1 % of the least, %"
SENSITIVE = "network | norm, radius | method | " + " | ".join(f"{steps} gradients" for steps in STEPS)


def main() -> None:
    given = begin(arguments(__doc__ or "", ["resnet_2b"], 100, gradients=100))
    answers, rows, left = Answers(given, "section2"), [], []
    for name in given.nets:
        chosen = setting(name, given)
        images = chosen.correct(given.n)
        for norm, metric in NORMS.items():
            found = {}
            for method in METHODS[norm]:
                try:
                    asked = plica.MinRadius(metric)
                    found[method] = radii(answers.attacked(given, chosen, norm, images, asked, method, given.gradients))
                except ImportError as error:
                    print(error, flush=True)
            least = np.min(list(found.values()), axis=0)
            for method, r in found.items():
                ratio = (r / least)[np.isfinite(r)]
                rows.append(
                    [name, norm, method, len(r), share(np.isfinite(r)), middle(ratio), share(r <= 1.01 * least)]
                )
            if norm != "l1":
                left += sensitive(answers, given, chosen, norm)
    publish(given, {"section2": table(HEAD, rows), "section2-pgd": table(SENSITIVE, left)})


def sensitive(answers, given, chosen, norm: str) -> list[list]:
    """Robust accuracy by PGD of several settings, and by APGD and PWCF, which have none."""
    question = plica.MaxLoss(NORMS[norm], USUAL[norm], loss="ce")
    images, rows = chosen.correct(given.n), []

    def broken(method: str, steps: int, key: str) -> str:
        return share(np.isinf(radii(answers.attacked(given, chosen, key, images, question, method, steps))))

    for length in LENGTHS:
        with total_length(length):
            cells = [broken("pgd", steps, f"{norm} length {length:g}") for steps in STEPS]
        rows.append([chosen.name, f"{norm} {USUAL[norm]:.3g}", f"PGD, steps of {length:g} radii in all", *cells])
    for method in ("apgd-ce", "pwcf"):
        rows.append(
            [chosen.name, f"{norm} {USUAL[norm]:.3g}", method, *(broken(method, s, f"{norm} ball") for s in STEPS)]
        )
    return rows


@contextmanager
def total_length(length: float) -> Iterator[None]:
    """PGD's steps sum to so many radii meanwhile."""
    before = pgd.SETTINGS
    pgd.SETTINGS = replace(before, total_length=length)
    try:
        yield
    finally:
        pgd.SETTINGS = before


if __name__ == "__main__":
    main()
