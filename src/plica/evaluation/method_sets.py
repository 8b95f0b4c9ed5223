"""Names in a plan that stand for several methods.

AutoAttack (Croce, Hein 2020), standard version: APGD on the cross-entropy and towards 9 classes with 100 iterations
each, FAB towards 9 classes with 100 iterations, Square with 5000 queries. For l1 (Croce, Hein 2021) APGD shrinks the
radius in three phases, each of which costs one more gradient; on the cross-entropy it starts five times, and it has
5 target classes. The budgets are the costs of these in gradients per image.

Its version for models with random outputs, "rand", is APGD on the cross-entropy and on the DLR loss, whose gradient
is averaged over 20 draws. Here it is the gradient of the mean over `draws` (docs/design/random.md).
"""

AUTOATTACK = {"apgd-ce": 101, "apgd-t": 9 * 101, "fab-t": 9 * 100, "square": 1667}  # three queries a gradient
AUTOATTACK_L1 = AUTOATTACK | {"apgd-ce": 5 * 103, "apgd-t": 5 * 103}
AUTOATTACK_RAND = {"apgd-ce": 101, "apgd-dlr": 101}
RAND_DRAWS = 20  # where the plan does not say
RADIUS = {"fab-t": 9 * 100}  # the only one of them that answers min-radius
OURS = ("auto", "pwcf")  # added by autoattack+plica: the best that the metric allows, and the papers' method

RAND = "autoattack-rand"
SETS = ("autoattack", "autoattack+plica", RAND)


def members(name: str, kind: str, metric: str) -> dict[str, int | None]:
    """The methods that a name stands for, in order, each with its own budget (None: that of the plan)."""
    if name not in SETS:
        return {name: None}
    if name == RAND:
        return dict(AUTOATTACK_RAND)
    max_loss = AUTOATTACK_L1 if metric == "l1" else AUTOATTACK
    standard: dict[str, int | None] = dict(RADIUS if kind == "min-radius" else max_loss)
    return standard | (dict.fromkeys(OURS) if name == "autoattack+plica" else {})
