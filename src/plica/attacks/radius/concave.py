"""MinRadius in l_p for p < 1: a search in l_q with a q between p and 1 that measures every point in l_p.

    q = (1 + max(p, 1/2)) / 2

For p < 1 it costs little to change a pixel further and much to change another one, so a search in l_p keeps the pixels
that it changed first. A search in l_q still exchanges them, and the few pixels that it ends with are as good in l_p:
radii at 100 gradients decrease by a quarter for p = 0.5 (docs/design/concave.md).
"""

from __future__ import annotations

from dataclasses import replace

from plica.attacks.base import AttackInput, AttackOutput
from plica.attacks.radius.search import radius
from plica.core.formulations import MinRadius
from plica.core.judging.best import BestPoints
from plica.core.status import Status
from plica.metrics import Lp, Metric, WeightedLp, lp_form


def is_concave(metric: Metric) -> bool:
    """Whether the metric is an l_p quasi-norm with p < 1, plain, weighted or times a number."""
    form = lp_form(metric)
    return form is not None and form.p < 1


def concave(task: AttackInput) -> AttackOutput:
    """The radius attack in l_q. For MaxLoss the search of an image does not end at its first point inside the
    radius."""
    form = lp_form(task.question.metric)
    assert form is not None
    q = (1 + max(form.p, 0.5)) / 2
    inner = Lp(q) if form.weights is None else WeightedLp(q, form.weights)
    best = BestPoints(inner, task.x, task.goal, None, model=task.model)
    best.also = task.best
    output = radius(replace(task, question=MinRadius(inner), best=best, radius=None))
    if task.radius is None:
        return output
    done = task.best.distance.isfinite().tolist()
    return replace(output, status=[Status.SUCCEEDED if d else why for d, why in zip(done, output.status, strict=True)])
