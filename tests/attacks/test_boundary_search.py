"""The search of the boundary with forward runs: along the ray to the image, and towards the next point of a search."""

from __future__ import annotations

import pytest
import torch

from plica import Lp, MinRadius
from plica.attacks.base import AttackInput
from plica.attacks.boundary_search import boundary_search
from plica.core.goals import Goal
from plica.core.judging.best import BestPoints
from plica.core.model.counted import CountedModel


def model(z):
    """A concave margin, positive where s = 2 (z0 - 1/2) + (z1 - 1/2) - 0.2 is, so that the radius in l1 is 0.1."""
    s = 2 * z[:, 0] + z[:, 1] - 1.7
    return torch.stack([torch.zeros(len(z)), s - 0.5 * s**2], 1)


def search(points, forwards, ahead=None):
    """The distances after a search from the points."""
    x, y = torch.full((len(points), 2), 0.5), torch.zeros(len(points), dtype=torch.long)
    counted, question, every = CountedModel(model, len(x)), MinRadius(Lp(1)), torch.arange(len(x))
    best = BestPoints(question.metric, x, Goal(y, None), None, model=counted)
    best.offer(points, every, model(points))
    task = AttackInput(
        counted, best, x, Goal(y, None), model(x), question, None, 30, 0, (0.0, 1.0), 64, lambda done: None
    )
    boundary_search(task, every, forwards, ahead)
    assert counted.forwards.tolist() == [forwards] * len(x)
    return best.distance


def test_the_next_point_of_a_search_is_nearer_than_the_ray():
    points = torch.tensor([[0.5, 0.9]]).repeat(4, 1)
    # misclassified; not misclassified; no nearer than the best point; the best point itself
    ahead = torch.tensor([[0.62, 0.5], [0.58, 0.5], [0.92, 0.5], [0.5, 0.9]])
    ray, one, two, four = (
        search(points, 2),
        search(points, 1, ahead),
        search(points, 2, ahead),
        search(points, 4, ahead),
    )
    chord = 0.4 * 0.22 / 0.4  # from the margin -0.22 at the image to 0.18 at the point
    assert one.tolist() == pytest.approx([0.12, 0.4, chord, chord], rel=1e-5)
    assert two[2:].equal(ray[2:])
    assert 0.1 < two[0] < 0.103
    assert two[1] == pytest.approx(0.16, rel=1e-5)  # a quarter of the way back from the next point
    assert 0.4 / 3 < four[1] < 0.4 / 3 + 2e-3
    assert bool((ray > 0.2).all())


def test_rows_do_not_depend_on_each_other():
    generator = torch.Generator().manual_seed(0)
    points, ahead = (0.6 + 0.4 * torch.rand(8, 2, generator=generator) for _ in range(2))
    ahead = 0.5 + 0.6 * (ahead - 0.5)
    together = search(points, 3, ahead)
    alone = torch.cat([search(points[i : i + 1], 3, ahead[i : i + 1]) for i in range(8)])
    assert together.equal(alone)
