"""What the ideas of section 3 of "Optimizers Matter" are worth: clipping, scaling, folding, two-stage starts.

    python benchmarks/papers/ablations.py             one network, 60 images: 20 minutes of one core
    python benchmarks/papers/ablations.py --n 10      four minutes

Each is left out of the questions as the papers pose them (posed.py), 400 evaluations from noise, under radii within
which a good part of the images can be broken. Broken: the end point is misclassified and inside. Violated: it lies
outside by more than a thousandth of the radius.
"""

from __future__ import annotations

import numpy as np
from common import SMALL, Answers, arguments, begin, middle, publish, setting, share, table
from posed import EVALUATIONS, kept

BALL = {
    "margin, clipped at 0.01": dict(),
    "margin, not clipped": dict(clip=None),
    "cross-entropy, clipped at 10": dict(loss="ce", clip=10.0),
    "cross-entropy, clipped at 2.4": dict(loss="ce", clip=2.4),
    "cross-entropy, not clipped": dict(loss="ce", clip=None),
    "not scaled": dict(scaled=False),
    "not folded": dict(linf="plain"),
    "two-stage starts": dict(stages=2),
}
RADIUS = {"as posed": dict(), "not scaled": dict(scaled=False), "not folded": dict(linf="plain")}
ONLY = {"not scaled": ("l1",), "not folded": ("linf",)}  # where they change anything; linf, folded, has no scale
HEAD = "network | norm, radius | MaxLoss | images | broken, % | violated, % | evaluations, median"
NEAR = "network | norm | MinRadius | images | found, % | distance of those found, median"


def main() -> None:
    given = begin(arguments(__doc__ or "", ["resnet_2b"], 60, evaluations=EVALUATIONS))
    answers, balls, radii = Answers(given, "ablations"), [], []
    for name in given.nets:
        chosen = setting(name, given)
        for norm, radius in SMALL.items():
            for idea, how in BALL.items():
                if norm in ONLY.get(idea, SMALL):
                    run = kept(answers, given, chosen, norm, radius, idea, **how)
                    cells = [len(run["broken"]), share(np.array(run["broken"])), share(np.array(run["violated"]))]
                    balls.append([name, f"{norm} {radius:.3g}", idea, *cells, f"{np.median(run['evaluations']):.0f}"])
            for idea, how in RADIUS.items():
                if norm in (ONLY | {"not scaled": ("l1", "linf")}).get(idea, SMALL):
                    run = kept(answers, given, chosen, norm, radius, f"MinRadius {idea}", ball=False, **how)
                    found = np.array(run["broken"])
                    far = np.array(run["distance"])[found]
                    radii.append([name, norm, idea, len(found), share(found), middle(far)])
    publish(given, {"ablations": table(HEAD, balls), "ablations-radius": table(NEAR, radii)})


if __name__ == "__main__":
    main()
