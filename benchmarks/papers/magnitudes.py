"""Section 5.2 of "Optimizers Matter": how the magnitudes of a perturbation's entries are distributed.

    python benchmarks/papers/magnitudes.py             two networks, 200 images: a minute of one core
    python benchmarks/papers/magnitudes.py --n 20      seconds

Nearest misclassified points by `auto`: the share of entries that are 0, and of those within a tenth of the largest.
Under l2 a power law is fitted to the largest magnitudes of each image, those above the threshold among QUANTILES whose
Kolmogorov-Smirnov distance to the fit is least, and compared with an exponential law from the same threshold on by
Vuong's test (Clauset, Shalizi, Newman, "Power-law distributions in empirical data", SIAM Review 51, 2009). An image
counts for the law that is more likely at the 5 % level.
"""

from __future__ import annotations

import numpy as np
from common import NORMS, Answers, arguments, begin, middle, publish, setting, share, table
from scipy.stats import norm

import plica

QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the entries that are not 0; the rest are the tail
HEAD = (
    "network | norm | images | entries that are 0, % | within a tenth of the largest, % | power law likelier, % | "
    "exponential likelier, % | exponent of the power law"
)


def main() -> None:
    given = begin(arguments(__doc__ or "", ["resnet_2b", "cifar_wide_kw"], 200, gradients=100))
    answers, rows = Answers(given, "magnitudes"), []
    for name in given.nets:
        chosen = setting(name, given)
        x, y = chosen.correct(given.n)
        for label, metric in NORMS.items():

            def ask(x=x, y=y, net=chosen.net, metric=metric) -> dict:
                question = plica.MinRadius(metric)
                run = plica.attack(net, x, y, question, gradients=given.gradients, seed=given.seed)
                deltas = (run.x_adv - x)[run.success].flatten(1).double().numpy()
                return {"images": [described(np.abs(delta), with_tail=metric.p == 2) for delta in deltas]}

            key = f"{name} {label} n={len(x)} gradients={given.gradients} seed={given.seed}"
            zeros, alike, power, exponential, exponents = np.array(answers(key, ask)["images"], dtype=float).T
            has_tail = label == "l2"
            tail = [share(power), share(exponential), middle(exponents)] if has_tail else ["-"] * 3
            rows.append([name, label, len(zeros), middle(100 * zeros), middle(100 * alike), *tail])
    publish(given, {"magnitudes": table(HEAD, rows)})


def described(sizes: np.ndarray, with_tail: bool) -> list[float | None]:
    """Of the magnitudes (n,) of a perturbation: the share that is 0, the share within a tenth of the largest; whether a
    power law is likelier in the tail, whether an exponential one is, and the exponent of the power law."""
    shares = [float((sizes == 0).mean()), float((sizes >= 0.9 * sizes.max()).mean())]
    if not with_tail:
        return [*shares, None, None, None]
    tails = [above(sizes[sizes > 0], quantile) for quantile in QUANTILES]
    tail = min(tails, key=lambda part: distance(part, exponent(part)))
    better, sure = vuong(tail), norm.isf(0.025)
    return [*shares, float(better > sure), float(better < -sure), exponent(tail)]


def above(sizes: np.ndarray, quantile: float) -> np.ndarray:
    """The magnitudes above a quantile, over that quantile, in ascending order."""
    threshold = np.quantile(sizes, quantile)
    return np.sort(sizes[sizes > threshold]) / threshold


def exponent(tail: np.ndarray) -> float:
    """Of the density s^-exponent on s > 1, by maximum likelihood."""
    return 1 + len(tail) / float(np.log(tail).sum())


def distance(tail: np.ndarray, exponent: float) -> float:
    """Kolmogorov-Smirnov: of the power law's distribution function from that of the tail."""
    law, ranks = 1 - tail ** (1 - exponent), np.arange(len(tail) + 1) / len(tail)
    return float(np.maximum(np.abs(law - ranks[:-1]), np.abs(law - ranks[1:])).max())


def vuong(tail: np.ndarray) -> float:
    """Standard normal where both laws are equally good, positive where the power law is better."""
    power, rate = exponent(tail), 1 / float((tail - 1).mean())
    gain = np.log(power - 1) - power * np.log(tail) - (np.log(rate) - rate * (tail - 1))
    return float(gain.sum() / (gain.std() * np.sqrt(len(tail))))


if __name__ == "__main__":
    main()
