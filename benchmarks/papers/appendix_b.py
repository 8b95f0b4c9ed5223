"""Appendix B of "Optimizers Matter": how runs of BFGS-SQP end on the questions as the papers pose them.

    python benchmarks/papers/appendix_b.py              one network, 100 images: 15 minutes of one core
    python benchmarks/papers/appendix_b.py --n 10       two minutes

MinRadius, and MaxLoss on the margin and the cross-entropy within the papers' radii, each from noise (posed.py), until
the test of stationarity (Eq. 29, 30; tolerance 1e-6 of it and of the violation) ends the run or 400 evaluations are
spent.
Beside it, with what status plica's own `pwcf` and `radius` end with 300 gradients for MinRadius.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from common import NORMS, USUAL, Answers, arguments, begin, publish, setting, share, table
from posed import CLIPS, EVALUATIONS, kept

import plica

HEAD = "network | question | images | ended by the test of stationarity, % | evaluations of those, median | broken, % | of those ended by the test, broken, % | violated, %"  # fmt: skip # noqa: E501
ENDS = "network | norm | method | " + "how its searches end, % of images"
ASKED = {
    "MinRadius": dict(ball=False),
    "MaxLoss, margin": dict(ball=True, loss="margin", clip=CLIPS["margin"]),
    "MaxLoss, ce": dict(ball=True, loss="ce", clip=CLIPS["ce"]),
}


def main() -> None:
    given = begin(arguments(__doc__ or "", ["resnet_2b"], 100, evaluations=EVALUATIONS, gradients=300))
    answers, rows, ends = Answers(given, "posed"), [], []
    for name in given.nets:
        chosen = setting(name, given)
        for norm, metric in NORMS.items():
            for asked, how in ASKED.items():
                run = kept(answers, given, chosen, norm, USUAL[norm], asked, **how)
                by_test = np.array([status == "STATIONARY" for status in run["status"]])
                broken, spent = np.array(run["broken"]), np.array(run["evaluations"])
                cells = [f"{np.median(spent[by_test]):.0f}" if by_test.any() else "-", share(broken)]
                cells += [share(broken[by_test]) if by_test.any() else "-", share(np.array(run["violated"]))]
                rows.append([name, f"{asked}, {norm}", len(broken), share(by_test), *cells])
            for method in ("pwcf", "radius"):
                x, y = chosen.correct(given.n)
                question = plica.MinRadius(metric)
                run = answers.attacked(given, chosen, norm, (x, y), question, method, given.gradients)
                counted = Counter(run["status"]).most_common()
                told = ", ".join(f"{kind.lower()} {100 * count / len(x):.0f}" for kind, count in counted)
                ends.append([name, norm, method, told])
    publish(given, {"appendix-b": table(HEAD, rows), "appendix-b-ends": table(ENDS, ends)})


if __name__ == "__main__":
    main()
