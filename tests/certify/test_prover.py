"""What one attempt at a radius costs and leaves, how many steps better lines get, and when a proof is given up."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import plica
from plica.certify import prove
from plica.certify.branch import Branching
from plica.certify.capture import capture
from plica.certify.inner import ASCENT, LARGEST
from plica.certify.intermediate import node_bounds
from plica.certify.parts import Part
from plica.certify.prove import PARTS, Effort, Networks, Prover, Region
from plica.certify.rounding import FLOAT32
from plica.certify.slopes import packed, unpacked

X = torch.full((1, 6), 0.5)
A = torch.tensor([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]])
SLOPES = torch.tensor([3], dtype=torch.uint8)
NONE = np.zeros(0, dtype=np.int64)
SOUND, OPEN, HALF = (Part(k, 0.0, NONE, NONE, NONE, SLOPES) for k in range(3))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    relu, linear = torch.nn.ReLU, torch.nn.Linear
    return Networks.of(capture(torch.nn.Sequential(linear(6, 8), relu(), linear(8, 8), relu(), linear(8, 3)).eval(), X))


@pytest.fixture
def prover(networks):
    return Prover(networks, Region(plica.Lp("inf"), torch.tensor(0.0), torch.tensor(1.0)), X, A)


def clock(monkeypatch, *times):
    left = iter(times)
    monkeypatch.setattr(prove, "time", SimpleNamespace(perf_counter=lambda: next(left)))


def steps(prover, monkeypatch, effort, rows=32, coefficients=LARGEST):
    """The steps that better lines get after 10 nodes, None for none; and the functions that they are for."""
    seen = []

    def optimised(graph, inputs, a, begin, unit, go_on, ascent):
        seen.append((ascent.steps, a.tolist(), inputs.x.shape, {len(part) for part in begin.values()}, unit))
        return {k: part + 0.25 for k, part in begin.items()}

    monkeypatch.setattr(prove, "size_of_pass", lambda graph, bounds: (rows, coefficients))
    monkeypatch.setattr(prove, "optimised", optimised)
    root, _ = prover._rows(0.1, lambda: True, False)
    prover.search, prover.slopes = SimpleNamespace(nodes=10, queue=[(0.0, 0, OPEN), (0.0, 1, OPEN)]), None
    was_done = prover._optimise(root, effort)
    assert was_done == bool(seen) == (prover.slopes is not None)
    if not seen:
        return None
    assert seen[0][1:] == ([A[1].tolist()], (1, 6), {1}, 0.0)
    begin = {k: part + 0.25 for k, part in root.start().items()}
    expected = unpacked(packed(begin, 1), begin, torch.float64)
    assert all(torch.equal(prover.slopes[k], expected[k]) for k in expected)
    return seen[0][0]


@pytest.mark.parametrize(
    ("nodes", "rows", "coefficients", "expected"),
    [
        (100, 32, LARGEST, 6), (40, 32, 1, 2), (39, 32, 1, None), (10000, 32, 1, ASCENT.steps), (100, 0, 1, None),
        (100, 1, 1, 16), (100, 32, LARGEST + 1, None),
    ],
)  # fmt: skip
def test_better_lines_get_a_fifth_of_the_nodes_as_steps(nodes, rows, coefficients, expected, prover, monkeypatch):
    assert steps(prover, monkeypatch, Effort(math.inf, nodes), rows, coefficients) == expected


@pytest.mark.parametrize(("cost", "expected"), [(0.5, 12), (0.0, ASCENT.steps), (2.0, 3), (3.01, None)])
def test_better_lines_get_a_fifth_of_the_time_as_steps(cost, expected, prover, monkeypatch):
    clock(monkeypatch, 100.0)
    prover.cost = cost
    assert steps(prover, monkeypatch, Effort(190.0)) == expected


class Searched:
    """A search that notes what happens to it; 5 nodes more by every run, which finds nothing."""

    def __init__(self, root, go_on, settings):
        self.root, self.go_on, self.settings, self.done = root, go_on, settings, []
        self.nodes, self.queue, self.stuck, self.leaves, self.least = 0, [(0.0, 0, OPEN)], False, [], -4.0

    def begin(self):
        self.done.append("begin")

    def move(self, root):
        self.done.append(f"move to {root}")

    def run(self, used=None):
        self.used = used
        self.nodes += 5
        self.least = -1.0 if self.nodes == 5 else math.inf
        self.done.append("run")
        return self.nodes > 5

    def reopen(self, leaves):
        self.done.append(("reopen", *leaves))
        self.leaves = [HALF]

    def proved(self, exact, leaves):
        self.done.append((exact, *leaves))
        return [leaf is not OPEN for leaf in leaves]

    def worst(self):
        return X


@pytest.mark.parametrize("better", [True, False])
def test_an_attempt_goes_on_from_the_last_one_and_counts_its_time(better, prover, monkeypatch):
    asked = []

    def rows(radius, go_on, rigorous):
        asked.append((radius, rigorous))
        return f"{len(asked)}", None

    def optimise(root, effort):
        prover.slopes = {} if better else None
        return better

    monkeypatch.setattr(prove, "Search", Searched)
    monkeypatch.setattr(prover, "_rows", rows)
    monkeypatch.setattr(prover, "_optimise", optimise)
    prover.rounds = len(PARTS)
    clock(monkeypatch, 10.0, 12.0, 13.0, 14.0, 20.0, 24.0, 30.0, 33.0, 34.5, 36.0, 34.0)
    assert prover.nodes == 0
    assert not prover.is_stuck
    assert prover.worst() is None
    assert not prover.attempt(0.5, Effort(100.0), 0.25)
    search = prover.search
    assert search.root == "1"
    assert search.go_on.__self__ == Effort(12 + 0.25 * (100 - 6 - 12))  # 3 times the cost is set aside
    assert search.used(5) == (24 - 14) / (32.5 - 14)  # of the run alone
    assert (prover.cost, prover.moving, prover.spent, prover.nodes) == (2, 3, 10, 5)
    assert prover.gained == 0.75  # the least bound went from -4 to -1
    assert prover.attempt(0.25, Effort(100.0), 0.5)
    assert search.go_on.__self__ == Effort(33 + 0.5 * (100 - 10 - 33))
    assert (prover.cost, prover.moving, prover.spent, prover.nodes) == (3, 4.5, 14, 10)
    assert prover.gained == 1
    middle = ["move to 2", "run", "move to 3", "run"] if better else ["run", "move to 2", "run"]
    assert search.done == ["begin", *middle]
    assert asked == ([(0.5, False)] * (1 + better)) + [(0.25, False)]
    search.stuck = True
    assert prover.is_stuck
    assert prover.worst() is X


def test_an_attempt_may_take_all_by_default(prover, monkeypatch):
    monkeypatch.setattr(prove, "Search", Searched)
    clock(monkeypatch, 10.0, 10.0, 10.0, 20.0)
    prover.slopes, prover.rounds = {}, len(PARTS)
    monkeypatch.setattr(prover, "_rows", lambda *_: ("root", None))
    prover.attempt(0.5, Effort(100.0))
    assert prover.search.go_on.__self__ == Effort(100.0)
    assert prover.search.settings == Branching()


@pytest.mark.parametrize(("end", "expected"), [(100.0, 18.0), (22.0, 16.0)])
def test_an_attempt_may_take_as_long_as_its_parts_took_to_be_moved(end, expected, prover, monkeypatch):
    monkeypatch.setattr(prove, "Search", Searched)
    clock(monkeypatch, 10.0, 12.0, 12.0, 14.0, 20.0)
    prover.slopes, prover.rounds = {}, len(PARTS)
    monkeypatch.setattr(prover, "_rows", lambda *_: ("root", None))
    prover.attempt(0.5, Effort(end), 0.01)
    assert prover.search.go_on.__self__ == Effort(expected)  # 6 seconds are set aside


def confirmed(prover, monkeypatch, leaves, effort=None, nodes=5):
    asked = []
    monkeypatch.setattr(
        prover, "_rows", lambda *args: (asked.append((args[0], args[1](), args[2])), ("exact", SLOPES))[1]
    )
    prover.search = Searched("root", None, None)
    prover.search.nodes = nodes
    evidence = prover.confirm(0.5, leaves, effort)
    assert asked == [(0.5, True, True)]
    return evidence, prover.search


def test_a_proof_is_of_all_leaves_or_none(prover, monkeypatch):
    evidence, search = confirmed(prover, monkeypatch, [SOUND, HALF])
    assert evidence.slopes is SLOPES
    assert [leaf.rival for leaf in evidence.leaves] == [0, 2]
    assert search.done == [("exact", SOUND, HALF)]
    evidence, search = confirmed(prover, monkeypatch, [SOUND, OPEN])
    assert evidence is None
    assert search.done == [("exact", SOUND, OPEN)]


def test_leaves_without_proof_are_divided_while_there_is_effort(prover, monkeypatch):
    effort = Effort(math.inf, 100)
    evidence, search = confirmed(prover, monkeypatch, [SOUND, OPEN], effort)
    assert [leaf.rival for leaf in evidence.leaves] == [2]
    assert search.done == [("exact", SOUND, OPEN), ("reopen", OPEN), "run", ("exact", HALF)]
    assert search.go_on == effort.go_on
    evidence, search = confirmed(prover, monkeypatch, [OPEN], effort, nodes=0)  # the run finds nothing
    assert evidence is None
    assert search.done == [("exact", OPEN), ("reopen", OPEN), "run"]


@pytest.mark.parametrize("rigorous", [False, True])
def test_the_rows_of_a_radius_are_one_for_each_function_over_one_set(rigorous, prover, networks):
    rows, slopes = prover._rows(0.1, lambda: True, rigorous)
    dtype = torch.float64 if rigorous else torch.float32
    graph = networks.exact if rigorous else networks.search
    inputs = prover.region.around(X, torch.tensor([0.1]).double(), dtype)
    bounds = node_bounds(graph, inputs, rigorous=rigorous)
    assert rows.graph is graph
    assert rows.a.dtype == rows.inputs.x.dtype == dtype
    assert torch.equal(rows.a.float(), A)
    assert rows.inputs.x.shape == (1, 6)
    assert (rows.slack is not None) == rigorous
    for k in graph.activated():
        torch.testing.assert_close(rows.bounds.low[k], bounds.low[k])
        torch.testing.assert_close(rows.bounds.high[k], bounds.high[k])
    assert torch.equal(slopes, packed(bounds.start, 1)[0])
    lines = {k: torch.zeros_like(part).double() for k, part in bounds.start.items()}
    prover.slopes = lines
    rows, slopes = prover._rows(0.1, lambda: True, rigorous)
    bounds = node_bounds(graph, inputs, slopes={k: part.to(dtype) for k, part in lines.items()}, rigorous=rigorous)
    assert torch.equal(slopes, packed(bounds.start, 1)[0])
    for k in graph.activated():
        torch.testing.assert_close(rows.bounds.low[k], bounds.low[k])


def test_networks_as_they_run_and_in_real_arithmetic(networks):
    assert networks.unit == 0
    assert networks.search.forward(X)[-1].dtype == torch.float32
    assert networks.exact.forward(X.double())[-1].dtype == torch.float64
    assert Networks.of(networks.exact, executed=True).unit == FLOAT32
    plain = Networks.of(networks.exact, 1.0).exact
    assert plain is networks.exact
    assert Networks.of(networks.exact, 2.0).exact is not networks.exact


def test_a_ball_of_the_span_holds_the_whole_box():
    region = Region(plica.Lp("inf"), torch.tensor(0.0), torch.tensor(1.0))
    assert region.span(torch.tensor([[0.5, 0.25], [1.0, 0.5]])).tolist() == pytest.approx([0.75, 1.0], rel=1e-8)


def test_time_is_left_until_the_deadline(monkeypatch):
    clock(monkeypatch, 99.5, 100.0, 99.0, 99.0)
    assert [Effort(100.0).left() for _ in range(2)] == [True, False]
    assert [Effort(100.0).left(reserve) for reserve in (0.5, 1.0)] == [True, False]
