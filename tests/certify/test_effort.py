"""How much of the time, or of the nodes, one attempt may take; and what it leaves for confirming."""

import math
import time

import pytest

from plica.certify.prove import Effort


@pytest.mark.parametrize(
    ("share", "now", "reserve", "deadline"),
    [(1.0, 40.0, 0.0, 100.0), (0.5, 40.0, 0.0, 70.0), (0.5, 40.0, 20.0, 60.0), (0.25, 100.0, 0.0, 100.0)],
)
def test_a_share_of_the_time_that_is_left_less_what_is_kept_back(share, now, reserve, deadline):
    part = Effort(100.0).part(share, 3, now, reserve)
    assert (part.deadline, part.nodes) == (deadline, None)


@pytest.mark.parametrize(("share", "spent", "limit"), [(0.5, 4, 12), (0.35, 0, 7), (0.1, 12, 13), (1.0, 4, 20)])
def test_a_share_of_the_nodes_and_at_least_one(share, spent, limit):
    assert Effort(math.inf, 20).part(share, spent, 0.0, 0.0).nodes == limit


def test_with_nodes_the_clock_plays_no_part():
    over, long = time.perf_counter() - 1, time.perf_counter() + 1000
    assert [Effort(end).left() for end in (over, long)] == [False, True]
    assert [Effort(long).left(reserve) for reserve in (900.0, 1100.0)] == [True, False]
    assert Effort(over, 5).left(1e9)
    assert [Effort(over, 5).go_on(nodes) for nodes in (4, 5)] == [True, False]
    assert [Effort(end).go_on(10**9) for end in (over, long)] == [False, True]


def test_the_share_of_an_effort_that_is_used():
    assert Effort(0.0, 20).used(0.0, 4, 8) == 0.25
    now = time.perf_counter()
    assert Effort(now + 60).used(now - 40, 0, 10**9) == pytest.approx(0.4, abs=0.01)
