"""Which radii are tried, one after the other, between what is proved and what an attack found: with a prover that knows
the answer."""

import math
import time

import pytest
import torch

from plica.certify.certificate import CertificateStatus, Evidence
from plica.certify.prove import Effort, Networks, Prover, Region
from plica.certify.radius import AGAIN, CLOSED, FIRST_STEP, MOST, NEARLY, SHARE, FirstRadius, refine

PROOF = Evidence(torch.zeros(0, dtype=torch.uint8), ())
X, A = torch.zeros(1, 2), torch.ones(1, 2)


def answered(
    monkeypatch,
    proves,
    upper,
    first=0.0,
    span=math.inf,
    nodes=None,
    confirms=None,
    probe=math.inf,
    gained=0.0,
    seconds=1000,
):
    """The answer, and the radii that were tried.

    proves: radius to which float32 proves; confirms: float64, the same by default. gained: by attempts that fail.
    """
    tried = []

    def attempt(prover, radius, effort, share=1.0):
        assert share == SHARE
        tried.append(radius)
        prover.gained, prover.moving = gained, 100.0
        prover.slopes = prover.used = radius
        return radius <= proves

    def confirm(prover, radius, leaves, effort=None):
        assert [prover.slopes] == [prover.used] == leaves  # all of one attempt
        return PROOF if radius <= (proves if confirms is None else confirms) else None

    monkeypatch.setattr(Prover, "attempt", attempt)
    monkeypatch.setattr(Prover, "confirm", confirm)
    monkeypatch.setattr(Prover, "leaves", lambda prover: [prover.slopes])
    monkeypatch.setattr(Prover, "worst", lambda prover: X)
    monkeypatch.setattr(Prover, "nodes", property(lambda prover: len(tried)))
    network, region = object.__new__(Networks), object.__new__(Region)
    effort = Effort(time.perf_counter() + seconds, nodes)
    start = FirstRadius(first, lambda: (first, PROOF if first else None))
    return refine(network, region, X, A, start, upper, span, effort, lambda z: probe), tried


def test_steps_double_while_they_succeed_and_halve_where_not(monkeypatch):
    _, tried = answered(monkeypatch, 0.5, 1.0, nodes=4)
    first = FIRST_STEP
    second = first + 2 * FIRST_STEP * (1 - first)
    third = first + FIRST_STEP * (second - first)
    assert tried[:3] == pytest.approx([first, second, third])
    assert len(tried) == 4  # a node each


def test_the_radii_that_are_tried_in_turn(monkeypatch):
    """Steps .25, .5, at most .8 of the way to the least radius that failed; .25 after a failure that gained nothing.
    Once steps are too short, from what is reached to a fiftieth more."""
    answer, tried = answered(monkeypatch, 0.5, 1.0)
    expected = [
        0.25, 0.625, 0.34375, 0.484375, 0.596875, 0.5125, 0.49140625, 0.501953125, 0.49404296875, 0.497998046875,
        0.501162109375, 0.4987890625, 0.4999755859375,
    ]  # fmt: skip
    assert tried[:13] == pytest.approx(expected, rel=1e-9)
    assert tried[15] == pytest.approx(tried[12] * (1 + 0.25 * AGAIN), rel=1e-9)
    assert 14 < len(tried) < 30
    assert (answer.radius, answer.status, answer.nodes) == (
        max(radius for radius in tried if radius <= 0.5), CertificateStatus.EFFORT, len(tried),
    )  # fmt: skip
    answer, tried = answered(monkeypatch, 0.3, 1.0, probe=0.4, nodes=5)
    assert tried == pytest.approx([0.25, 0.625, 0.2875, 0.34375, 0.3015625])
    assert answer.radius == tried[2]


def test_what_an_attempt_gained_tells_how_far_to_go(monkeypatch):
    """Next to where its least bound would be 0; with little time left no further, even if that is nowhere."""
    for gained, share in ((0.5, NEARLY * 0.5), (0.1, FIRST_STEP), (-3.0, FIRST_STEP), (math.nan, FIRST_STEP)):
        _, tried = answered(monkeypatch, 0.5, 1.0, first=0.4, gained=gained, nodes=4)
        assert tried[0] == 0.4 + FIRST_STEP * 0.6
        assert tried[1] == pytest.approx(0.4 + share * (tried[0] - 0.4))
    _, tried = answered(monkeypatch, 0.5, 1.0, first=0.4, gained=0.1, seconds=250)
    assert tried[1] == pytest.approx(0.4 + NEARLY * 0.1 * (tried[0] - 0.4))


def test_radii_grow_by_a_factor_where_neither_an_attack_nor_the_box_ends_them(monkeypatch):
    _, tried = answered(monkeypatch, 0.5, math.inf, first=0.1, nodes=2)
    assert tried == pytest.approx([0.1 * MOST, 0.1 * MOST**2])


def test_attempts_have_a_number_and_nothing_may_be_proved(monkeypatch):
    answer, tried = answered(monkeypatch, 0.0, 1.0)
    assert tried == pytest.approx([0.25**k for k in range(1, 25)])
    assert (answer.radius, answer.status, answer.evidence) == (0, CertificateStatus.EFFORT, None)


def test_the_radius_nearest_to_the_attack_s_is_tried_once_when_near(monkeypatch):
    """From 3 CLOSED on; it failed, and what was reached is near enough to end."""
    near = 1 - 0.0005
    for reached, expected in ((1 - 0.0045, near), (1 - 0.0055, 1 - 0.0055 + 0.25 * 0.0055)):
        _, tried = answered(monkeypatch, 0.0, 1.0, first=reached, nodes=1)
        assert tried == pytest.approx([expected], abs=1e-9)
    _, tried = answered(monkeypatch, 1 - 1.2 * CLOSED, 1.0, first=1 - 1.2 * CLOSED)
    assert tried.count(pytest.approx(near, abs=1e-12)) == 1


def test_a_step_too_short_to_matter_is_not_made(monkeypatch):
    for span, number in ((1 + 0.00027, 1), (1 + 0.00023, 0)):
        _, tried = answered(monkeypatch, 9.0, math.inf, first=1.0, span=span, nodes=1)
        assert len(tried) == number


def test_a_bracket_that_is_closed_is_not_tried_again(monkeypatch):
    answer, tried = answered(monkeypatch, 1.0, 1.0, first=1 - CLOSED)
    assert (answer.radius, answer.status, tried) == (1 - CLOSED, CertificateStatus.CLOSED, [])


def test_a_bracket_is_closed_by_the_last_step(monkeypatch):
    answer, tried = answered(monkeypatch, 1.0, 1.0)
    assert answer.status is CertificateStatus.CLOSED
    assert answer.radius == tried[-1] == pytest.approx(1 - CLOSED / 2)
    assert max(tried) == tried[-1]
    assert all(radius < 1 - CLOSED for radius in tried[:-1])


def test_the_whole_box_is_proved(monkeypatch):
    answer, tried = answered(monkeypatch, 9.0, math.inf, first=2.0, span=2.0)
    assert (answer.radius, answer.status, tried) == (math.inf, CertificateStatus.PROVED, [])


@pytest.mark.parametrize("upper", [math.inf, 2.5])
def test_the_whole_box_is_tried_where_no_attack_found_a_point_in_it(upper, monkeypatch):
    answer, tried = answered(monkeypatch, 9.0, upper, span=2.0)
    assert (answer.radius, answer.status, tried[-1]) == (math.inf, CertificateStatus.PROVED, 2.0)
    answer, tried = answered(monkeypatch, 1.999, upper, span=2.0)
    assert tried.count(2.0) == 1  # in vain, and not again
    assert 1.99 < answer.radius <= 1.999


def test_a_radius_that_float64_does_not_confirm_is_taken_a_little_less(monkeypatch):
    answer, tried = answered(monkeypatch, 0.5, 1.0, nodes=1, confirms=0.2499)
    assert tried == [0.25]
    assert answer.radius == pytest.approx(0.99 * 0.25)
    assert answer.status is CertificateStatus.EFFORT
    answer, _ = answered(monkeypatch, 0.5, 1.0, nodes=1, confirms=0.24995)
    assert answer.radius == pytest.approx((1 - CLOSED / 4) * 0.25)
    answer, _ = answered(monkeypatch, 0.5, 1.0, nodes=1, first=0.1, confirms=0.1)
    assert answer.radius == 0.1


def test_a_nearer_point_that_the_worst_input_leads_to_ends_the_search(monkeypatch):
    answer, tried = answered(monkeypatch, 0.5, 4.0, first=0.5, probe=0.5)
    assert len(tried) == 1
    assert answer.status is CertificateStatus.CLOSED
