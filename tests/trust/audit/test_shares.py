"""The audit of a model with random outputs: how far its own draws may be from the share that is stored."""

import itertools
import math

import numpy as np
import pytest
import torch

from plica.trust.audit.remeasure import DRAWS, JUDGED, SIGMAS, Answers, MeasureContext


def differences(stored, measured, success=True, status="BUDGET"):
    """What the audit records for one answer."""
    x = torch.zeros(1, 2)
    rows = [{"id": 7, "success": success, "share": stored, "status": status}]
    answers = Answers(rows, x, np.zeros(1, int), x, np.zeros(1, int))

    class Context(MeasureContext):
        def shares(self, x, y):
            return np.array([measured])

    found = {}
    answers._shares(Context(lambda z: z, 2.0, None, (0.0, 1.0), (1,)), found)
    return set(found)


def allowed(stored, measured):
    """Four standard deviations of the difference of two shares of as many draws as there are, and one draw."""
    pooled = (JUDGED * stored + DRAWS * measured) / (JUDGED + DRAWS)
    return SIGMAS * math.sqrt(pooled * (1 - pooled) * (1 / JUDGED + 1 / DRAWS)) + 1 / JUDGED


@pytest.mark.parametrize("way", [1, -1])
def test_a_share_that_draws_do_not_explain_is_named(way):
    stored = 0.6
    edge = max(d for d in np.linspace(0, 0.39, 3901) if d <= allowed(stored, stored + way * d))
    assert 0.2 < edge < 0.3
    assert "share" not in differences(stored, stored + way * (edge - 1e-3))
    assert "share" in differences(stored, stored + way * (edge + 1e-3))


def test_a_share_of_all_draws():
    assert differences(1.0, 1.0) == set()
    assert differences(1.0, 0.99) == set()
    assert differences(1.0, 0.8) == {"share"}


def test_most_draws_must_reach_the_goal_but_for_chance():
    half = SIGMAS * math.sqrt(0.25 / DRAWS)
    assert "class" not in differences(0.55, 0.5 - half + 1e-3)
    assert "class" in differences(0.55, 0.5 - half - 1e-3)


@pytest.mark.parametrize("status", ["BUDGET", "NOT_FINITE", "FAILED"])
def test_an_image_that_most_draws_get_wrong_is_missed_where_it_was_answered(status):
    half = SIGMAS * math.sqrt(0.25 / DRAWS)
    assert differences(0.0, 0.5 + half - 1e-3, success=False, status=status) == set()
    missed = {"missed"} if status == "BUDGET" else set()
    assert differences(0.0, 0.5 + half + 1e-3, success=False, status=status) == missed


def test_a_draw_counts_from_a_margin_of_0_on():
    """Margins of draws: -0.5, 0, 0.5, 0.5."""
    draws = itertools.cycle([-0.5, 0.0, 0.5, 0.5])
    context = MeasureContext(lambda z: torch.tensor([[next(draws), 0.0]]), 2.0, None, (0.0, 1.0), (1,))
    assert context.shares(torch.zeros(1, 2), np.ones(1, int)).tolist() == [0.5]
