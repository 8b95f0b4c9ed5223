"""Table 1 of "Optimizers Matter": robust accuracy that each attack leaves, and who breaks what nobody else breaks.

    python benchmarks/papers/table1.py                            two networks, 1,000 images: 40 minutes of one core
    python benchmarks/papers/table1.py --nets resnet_2b --n 100   two minutes

APGD and PWCF on the cross-entropy and on the margin with 100 gradients, APGD+PWCF on the margin together, Square with
5,000 queries, `auto` with 100 gradients, AutoAttack's standard version (its four attacks with their own budgets, each
on the images that those before it left). Under the papers' radii, and under smaller ones where more images hold.
`--device cuda` attacks on a GPU.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from common import NORMS, SMALL, USUAL, Answers, arguments, begin, publish, radii, setting, share, table

import plica
from plica.evaluation.method_sets import members

ATTACKS = {
    "APGD-ce": ("apgd-ce", "ce", 101),
    "APGD-margin": ("apgd-margin", "margin", 101),
    "PWCF-ce": ("pwcf", "ce", 100),
    "PWCF-margin": ("pwcf", "margin", 100),
    "Square": ("square", "margin", 1667),
    "auto": ("auto", "margin", 100),
}
AUTOATTACK = "AutoAttack"
RADII = {"small": SMALL, "usual": USUAL}


def main() -> None:
    parse = arguments(__doc__ or "", ["resnet_2b", "cifar_wide_kw"], 1000, budget=0)
    parse.add_argument("--attacks", nargs="+", choices=[*ATTACKS, AUTOATTACK], default=[*ATTACKS, AUTOATTACK])
    parse.add_argument("--radii", nargs="+", choices=RADII, default=[*RADII], help="small, or the papers'")
    parse.add_argument("--device", default="cpu")
    given = begin(parse)
    torch.backends.cudnn.allow_tf32 = False  # what is misclassified in TF32 alone does not count
    answers, left, alone = Answers(given, "table1"), [], []
    for name in given.nets:
        chosen = setting(name, given)
        on_device = {key: getattr(chosen, key).to(given.device) for key in ("net", "x", "y")}
        chosen = replace(chosen, **on_device)
        for radius_of in (RADII[size] for size in given.radii):
            for norm, metric in NORMS.items():
                radius = radius_of[norm]
                found = {
                    label: broken(answers, given, chosen, metric, norm, radius, label, *how)
                    for label, how in ATTACKS.items()
                    if label in given.attacks
                }
                if AUTOATTACK in given.attacks:
                    found[AUTOATTACK] = standard(answers, given, chosen, metric, norm, radius)
                rows(name, f"{norm} {radius:.3g}", chosen.right[: given.n].numpy(), found, left, alone)
    head = "network | norm, radius | clean | " + " | ".join([*given.attacks, "APGD+PWCF", "all together"])
    parts = {"table1": table(head, left)}
    publish(given, parts | {"table1-alone": table(" | ".join(["network | norm, radius", *given.attacks]), alone)})


def broken(answers, given, chosen, metric, norm, radius, label, method, loss, budget):
    """Of each image, whether the attack has a point inside the radius; misclassified images have."""
    x, y = chosen.first(given.n)
    question = plica.MaxLoss(metric, radius, loss=loss)
    key = f"{norm} {radius:.4g} {label}"
    return np.isfinite(radii(answers.attacked(given, chosen, key, (x, y), question, method, given.budget or budget)))


def standard(answers, given, chosen, metric, norm, radius):
    """The same for AutoAttack."""
    x, y = chosen.first(given.n)
    question = plica.MaxLoss(metric, radius)

    def ask() -> dict:
        left, spent = np.arange(len(x)), np.zeros(len(x))
        for method, budget in members("autoattack", "max-loss", norm).items():
            if len(left):
                cost = given.budget or budget
                some = plica.attack(
                    chosen.net, x[left], y[left], question, method=method, gradients=cost, seed=given.seed
                )
                spent[left] += some.gradients.cpu().numpy()
                left = left[~some.success.cpu().numpy()]
        stands = set(left.tolist())
        return {"distance": [None if i in stands else 0.0 for i in range(len(x))], "gradients": float(spent.mean())}

    key = f"{chosen.name} {norm} {radius:.4g} {AUTOATTACK} n={given.n} seed={given.seed} budget={given.budget}"
    return np.isfinite(radii(answers(key, ask)))


def rows(name, at, right, found, left, alone) -> None:
    """A line of both tables."""
    none = np.zeros(len(right), dtype=bool)
    pair = found.get("APGD-margin", none) | found.get("PWCF-margin", none)
    every = np.any(list(found.values()), axis=0)
    columns = [*found.values(), pair, every]
    left.append([name, at, share(right), *(share(~column) for column in columns)])
    cells = [
        int((mine & ~np.any([other for label, other in found.items() if label != me], axis=0)).sum())
        for me, mine in found.items()
    ]
    alone.append([name, at, *cells])


if __name__ == "__main__":
    main()
