"""The search of one image over several radii: what it makes up, and that moving loses nothing."""

import math

import pytest
import torch

import plica
from certify.zoo import images, network
from plica.certify import branch
from plica.certify.api import margins
from plica.certify.branch import FAR, JUDGED, _is_far
from plica.certify.capture import capture
from plica.certify.prove import Effort, Networks, Prover, Region
from plica.core.goals import Goal


def prover(p="inf", name="relu"):
    net, x = network(name), images(1)
    graph = capture(net, x)
    logits = graph.forward(x.double())[-1]
    region = Region(plica.Lp(p), torch.tensor(0.0), torch.tensor(1.0))
    return Prover(Networks.of(graph, float(p)), region, x, margins(Goal(logits.argmax(1)), logits)[0])


def volume(parts, function):
    """Of the parts of one function, where each split halves; 1 where they make up the set."""
    return sum(0.5 ** len(part.neurons) for part in parts if part.function == function)


@pytest.mark.parametrize(("p", "radii"), [("inf", (0.8, 0.3, 0.4, 0.25)), (2, (4.0, 2.5, 1.0))])
def test_moved_parts_make_up_the_set_and_are_proved(p, radii):
    one, effort = prover(p), Effort(math.inf, 60)
    for radius in radii:
        is_found = one.attempt(radius, effort)
        assert p == 2 or any(len(part.neurons) for part in one.leaves())
        parts = one.leaves() + [part for _, _, part in one.search.queue]
        assert [volume(parts, k) for k in range(2)] == [1, 1]
        for part in parts:
            assert len(set(part.neurons)) == len(part.neurons) == len(part.signs) == len(part.multipliers)
        if is_found:
            assert one.confirm(radius, one.leaves()) is not None
    assert is_found
    assert one.confirm(2 * radii[0], one.leaves()) is None


def test_splits_that_a_smaller_ball_settles_are_taken_out():
    one = prover()
    one.attempt(0.4, Effort(math.inf, 100))
    assert any(len(part.neurons) for part in [*one.leaves(), *(part for _, _, part in one.search.queue)])
    assert one.attempt(1e-4, Effort(math.inf, 100))
    assert [len(part.neurons) for part in one.leaves()] == [0, 0]
    assert one.confirm(1e-4, one.leaves()) is not None


def test_a_leaf_with_the_bound_0_or_none_is_not_proved(monkeypatch):
    one = prover()
    one.attempt(0.1, Effort(math.inf, 4))
    monkeypatch.setattr(branch, "bounds_of_parts", lambda root, parts, batch: torch.tensor([0.0, torch.nan, 1e-30]))
    assert one.search.proved(one.search.root, one.leaves()) == [False, False, True]


def test_a_part_whose_bound_is_no_number_stays_open(monkeypatch):
    one, real = prover(), branch.optimise

    def without_number(rows, *rest):
        value, *lines = real(rows, *rest)
        return value.fill_(torch.nan), *lines

    monkeypatch.setattr(branch, "optimise", without_number)
    assert not one.attempt(0.1, Effort(math.inf, 4))
    assert not one.leaves()
    assert [volume([part for _, _, part in one.search.queue], k) for k in range(2)] == [1, 1]


def test_leaves_that_float64_does_not_prove_are_divided_further():
    one, effort = prover(), Effort(math.inf, 200)
    assert one.attempt(0.3, effort)
    spent, leaves = one.nodes, one.leaves()
    assert len(leaves) > 2
    one.search.reopen(leaves[:1])
    assert len(one.search.leaves) == len(leaves) - 1
    assert one.search.run()
    assert one.nodes > spent
    assert one.confirm(0.3, one.leaves()) is not None


def test_time_is_set_aside_for_the_proof():
    one = prover()
    assert one.reserve == 0
    one.cost, one.spent = 2.0, 10.0
    assert one.reserve == 7.0
    effort = Effort(deadline=100.0).part(0.5, 0, now=60.0, reserve=one.reserve)
    assert effort.deadline == 60 + 0.5 * 33
    assert Effort(math.inf, 100).part(0.5, 40, 0.0, 0.0).nodes == 70


def test_a_run_is_far_where_the_gain_of_a_doubling_repeated_needs_too_much():
    """From -3 to -2 by the last doubling: two more make 0, so four times what is used."""
    seen = [(0, -4.0), (JUDGED // 2, -3.0), (JUDGED, -2.0)]
    assert _is_far(seen, 1.01 * FAR / 4)
    assert not _is_far(seen, 0.99 * FAR / 4)
    assert not _is_far(seen[:2], 1e9)  # too early to say
    assert not _is_far([(0, -4.0), (JUDGED // 2 - 1, -3.0), (JUDGED - 2, -2.0)], 1e9)
    assert _is_far([*seen[:2], (JUDGED, -3.0)], 1e-9)  # nothing gained


def test_an_attempt_with_a_share_of_the_effort_is_ended_where_it_is_far():
    one = prover()
    assert not one.attempt(2.0, Effort(math.inf, 10**5), share=0.5)
    assert JUDGED <= one.nodes < 10**4
