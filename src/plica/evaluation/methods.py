"""Sets of methods that one word in a plan stands for.

AutoAttack (Croce, Hein 2020), standard version: APGD on the cross-entropy and towards 9 classes with 100 iterations
each, FAB towards 9 classes with 100 iterations, Square with 5000 queries. The budgets are what these cost in gradients
per image. For l1 its authors restart APGD four times more; here it runs once.
"""

AUTOATTACK = {"apgd-ce": 101, "apgd-t": 9 * 101, "fab-t": 9 * 100, "square": 1667}  # three queries a gradient
RADIUS = {"fab-t": 9 * 100}  # the only one of them that answers min-radius
OURS = ("auto", "pwcf")  # joined to it: the best that the metric allows, and the papers' method

SETS = ("autoattack", "autoattack+plica")


def members(name: str, kind: str) -> dict[str, int | None]:
    """The methods behind a word, in order, each with its own budget (None: the plan's)."""
    if name not in SETS:
        return {name: None}
    standard: dict[str, int | None] = dict(RADIUS if kind == "min-radius" else AUTOATTACK)
    return standard | (dict.fromkeys(OURS) if name == "autoattack+plica" else {})
