"""Bounds of neurons inside the network, proved by dividing the set."""

import itertools
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import plica
from plica.certify import prove
from plica.certify.api import margins
from plica.certify.capture import capture
from plica.certify.intermediate import node_bounds
from plica.certify.lemmas import Neurons, found, number_of_functions, tightened
from plica.certify.parts import Part, bounds_of_parts, divided, without_settled
from plica.certify.prove import Effort, Networks, Prover, Region
from plica.core.goals import Goal
from plica.runs.encode import leaf_table
from plica.trust.audit.balls import Ball
from plica.trust.audit.certificates import check
from plica.trust.audit.layers import trace

RADIUS = 0.28  # at which the network is right, and not proved without bounds of neurons


def deep(depth=5, width=20):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(10, width)]
    for _ in range(depth - 1):
        layers += [torch.nn.ReLU(), torch.nn.Linear(width, width)]
    net = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(width, 3)).eval().requires_grad_(False)
    for weight in net.parameters():
        weight *= 2
    return net


X = torch.full((1, 10), 0.5)


def problem(p, radius, net=None):
    graph = Networks.of(capture(net or deep(), X), p)
    region = Region(plica.Lp(p), torch.zeros(10), torch.ones(10))
    return graph, region, region.around(X, torch.tensor([radius]), torch.float32)


def points(p, radius, n=20000):
    direction = torch.randn(n, 10, generator=torch.Generator().manual_seed(0))
    direction[: n // 2] = direction[: n // 2].sign()
    scale = radius / direction.norm(p, dim=1, keepdim=True)
    length = torch.rand(n, 1, generator=torch.Generator().manual_seed(1)).pow(0.1)
    return (0.5 + direction * scale * length).clamp(0, 1)


def with_lemmas(networks, inputs, parts, go_on=lambda nodes: True):
    """The bounds, the lemmas, and the parts that they took."""
    lemmas, nodes = {}, []

    def tighten(bounds, node):
        nodes.append(found({}, networks.search, inputs, bounds, node, lemmas, parts, None, go_on))

    return node_bounds(networks.search, inputs, tighten=tighten), lemmas, sum(nodes)


@pytest.mark.parametrize(("p", "radius"), [(math.inf, 0.15), (2, 0.3), (1, 0.5)])
def test_intervals_are_tighter_with_more_parts_and_hold(p, radius):
    networks, _, inputs = problem(p, radius)
    plain = node_bounds(networks.search, inputs)
    values, widths = networks.search.forward(points(p, radius)), []
    for parts in (1, 4, 8):
        bounds, lemmas, nodes = with_lemmas(networks, inputs, parts)
        assert lemmas
        assert nodes >= sum(len(own.parts) for own in lemmas.values())
        for k, value in enumerate(values):
            assert (value >= bounds.low[k] - 1e-5).all()
            assert (value <= bounds.high[k] + 1e-5).all()
        widths.append(sum(float((bounds.high[k] - bounds.low[k]).sum()) for k in networks.search.activated()))
    before = sum(float((plain.high[k] - plain.low[k]).sum()) for k in networks.search.activated())
    assert before > widths[0] > widths[1] > widths[2]


def test_only_neurons_that_account_for_nearly_all_losses_are_tightened():
    networks, _, inputs = problem(math.inf, 0.15)
    plain, node = node_bounds(networks.search, inputs), 3
    is_open = ((plain.low[node] < 0) & (plain.high[node] > 0))[0]
    one, two, three = is_open.nonzero()[:3, 0].tolist()
    losses = {k: torch.zeros(20) for k in divided(networks.search)}
    losses[node][[one, two, three]] = torch.tensor([1.0, 8.0, 1.5])
    losses[node][(~is_open).nonzero()[0, 0]] = 100.0  # whose sign is settled
    assert number_of_functions(networks.search, plain, losses) == 4
    lemmas = {}
    nodes = found({}, networks.search, inputs, plain, node, lemmas, 1, losses, lambda nodes: True)
    assert nodes == 4
    assert set(lemmas[node].entries.tolist()) == {two, three}


def test_losses_are_largest_where_a_set_is_divided_first():
    prover = prover_of(deep())
    prover.rounds = len(prove.PARTS)
    prover.a = prover.a[:1]
    prover.attempt(0.4, Effort(math.inf, 1))
    search = prover.search
    assert len(search.queue) == 1
    losses = torch.cat([part for _, part in sorted(search.losses().items())])
    assert (losses >= 0).all()
    search.divide([search.queue.pop()[2]])
    halves = [part for _, _, part in search.queue] + search.leaves[-2:]
    assert {neuron for part in halves for neuron in part.neurons.tolist()} == {int(losses.argmax())}
    search.queue = []
    assert all((part == 0).all() for part in search.losses().values())


def test_parts_make_up_the_set_for_every_function():
    networks, _, inputs = problem(math.inf, 0.15)
    _, lemmas, _ = with_lemmas(networks, inputs, 8)
    for own in lemmas.values():
        volume = np.zeros(len(own.entries))
        for part in own.parts:
            volume[part.function] += 0.5 ** len(part.neurons)
        assert (volume == 1).all()


def number_of_splits(lemmas):
    return sum(len(part.neurons) for own in lemmas.values() for part in own.parts)


def test_at_another_radius_they_are_bounded_again():
    networks, _, inputs = problem(math.inf, 0.15)
    _, lemmas, _ = with_lemmas(networks, inputs, 8)
    for radius in (0.1, 0.2):
        other = problem(math.inf, radius)[2]
        used, plain = {}, node_bounds(networks.search, other)
        bounds = node_bounds(
            networks.search, other,
            tighten=lambda b, k, to=other, kept=used: tightened(lemmas, networks.search, to, b, k, kept, True),
        )  # fmt: skip
        assert used.keys() == lemmas.keys()
        for k, value in enumerate(networks.search.forward(points(math.inf, radius))):
            assert (value >= bounds.low[k] - 1e-5).all()
            assert (value <= bounds.high[k] + 1e-5).all()
        width, before = (sum(float((each.high[k] - each.low[k]).sum()) for k in lemmas) for each in (bounds, plain))
        assert width < before
        # settled ones are taken out
        assert radius > 0.15 or number_of_splits(used) < number_of_splits(lemmas)


def test_a_bound_that_is_found_again_takes_the_place_of_the_old_one():
    """The audit takes all parts of a neuron for one proof, whose bound is the least of theirs."""
    networks, _, inputs = problem(math.inf, 0.15)
    _, first, _ = with_lemmas(networks, inputs, 1)
    again = {}
    node_bounds(
        networks.search, inputs,
        tighten=lambda b, k: found(first, networks.search, inputs, b, k, again, 8, None, lambda nodes: True),
    )  # fmt: skip
    assert again.keys() == first.keys()
    for k, neurons in again.items():
        before, now = (list(zip(own.entries.tolist(), own.signs.tolist(), strict=True)) for own in (first[k], neurons))
        assert len(now) == len(set(now))
        assert set(before) & set(now)
        assert max(np.bincount([part.function for part in neurons.parts])) > 1
        volume = np.zeros(len(now))
        for part in neurons.parts:
            volume[part.function] += 0.5 ** len(part.neurons)
        assert (volume == 1).all()


def test_without_time_nothing_is_bounded():
    networks, _, inputs = problem(math.inf, 0.15)
    assert with_lemmas(networks, inputs, 8, lambda nodes: False)[1:] == ({}, 0)


def test_a_function_without_parts_has_no_bound():
    none = np.zeros(0, np.int64)
    part = Part(1, 0.0, none, none, none, torch.zeros(0, dtype=torch.uint8))
    parts = [part, replace(part, function=2), part, replace(part, function=2)]
    neurons = Neurons(torch.tensor([0, 1, 2]), torch.tensor([1, 1, -1]), parts)
    assert neurons.least(torch.tensor([3.0, torch.nan, 2.0, 1.0])).tolist() == [-math.inf, 2.0, -math.inf]
    assert len(without_settled(neurons.parts, capture(deep(), X), node_bounds(*_args()))) == 4


def _args():
    networks, _, inputs = problem(math.inf, 0.1)
    return networks.search, inputs


def prover_of(net, p=math.inf):
    networks, region, _ = problem(p, 0.1, net)
    logits = net(X)
    return Prover(networks, region, X, margins(Goal(logits.argmax(1)), logits.double())[0])


def test_a_proof_is_confirmed_with_them_and_not_without(monkeypatch):
    monkeypatch.setattr(prove, "LOOK", 0.002)  # parts of the whole set alone would soon be enough
    prover = prover_of(deep())
    assert prover.attempt(RADIUS, Effort(math.inf, 6000))
    assert prover.used
    evidence = prover.confirm(RADIUS, prover.leaves())
    assert evidence is not None
    assert evidence.lemmas
    assert [lemma.activation for lemma in evidence.lemmas] == sorted(lemma.activation for lemma in evidence.lemmas)
    exact = prover._rows(RADIUS, lambda: True, True)[0]
    values = networks_values(prover.networks, RADIUS)
    for k, value in enumerate(values):
        assert (value >= exact.bounds.low[k]).all()
        assert (value <= exact.bounds.high[k]).all()
    prover.used = {}
    assert prover.confirm(RADIUS, prover.search.leaves) is None


def test_the_audit_accepts_neurons_that_were_bounded_twice(monkeypatch):
    """It took all parts of a neuron for one proof, and refused those of two."""
    monkeypatch.setattr(prove, "PARTS", (2, 8))
    monkeypatch.setattr(prove, "LOOK", 0.0)
    prover = prover_of(deep())
    assert prover.attempt(RADIUS, Effort(math.inf, 6000))
    assert prover.rounds == 2
    evidence = prover.confirm(RADIUS, prover.leaves())
    y = int(deep()(X).argmax())
    others = [k for k in range(3) if k != y]
    evidence = replace(evidence, leaves=tuple(replace(leaf, rival=others[leaf.rival]) for leaf in evidence.leaves))
    ball = Ball.around(X[0], torch.zeros(10), torch.ones(10), RADIUS, math.inf)
    check(trace(deep(), X), ball, y, None, leaf_table([evidence], torch.arange(1)).to_pylist())


def networks_values(networks, radius):
    return networks.exact.forward(points(math.inf, radius).double())


def test_parts_of_neurons_count_as_nodes(monkeypatch):
    monkeypatch.setattr(prove, "PARTS", (2,))
    prover, counted = prover_of(deep()), []
    real = found

    def counting(*args):
        counted.append(real(*args))
        return counted[-1]

    monkeypatch.setattr(prove, "found", counting)
    monkeypatch.setattr(prove, "LOOK", 0.0)
    prover.attempt(0.4, Effort(math.inf, 1500))
    assert sum(counted) > 100
    assert prover.rounds == 1
    assert 1500 <= prover.nodes < 1500 + 2 * prover.search.batch
    again = prover_of(deep())
    again.attempt(0.4, Effort(math.inf, 1500))
    assert again.nodes == prover.nodes
    assert [part.bound for _, _, part in again.search.queue] == [part.bound for _, _, part in prover.search.queue]


@pytest.mark.parametrize(
    ("rows", "functions", "nodes", "parts", "rounds"),
    [
        (1, 10**9, None, prove.PARTS, 2), (10**9, 1, None, prove.FEW_PARTS, 2),
        (10**9, 10**9, None, prove.FEW_PARTS, 0),
        (33, 10**9, 1000, prove.PARTS, 2), (37, 10**9, 1000, prove.FEW_PARTS, 0), (37, 60, 1000, prove.FEW_PARTS, 1),
        (37, 9, 1000, prove.FEW_PARTS, 2),
    ],
)  # fmt: skip
def test_a_few_neurons_or_none_where_parts_of_each_would_take_too_long(
    monkeypatch, rows, functions, nodes, parts, rounds
):
    monkeypatch.setattr(prove, "size_of_pass", lambda graph, bounds: (rows, 0))
    monkeypatch.setattr(prove, "number_of_functions", lambda graph, bounds, losses: functions)
    prover = prover_of(deep())
    prover.a = -prover.a  # which are not positive at the image itself
    assert not prover.attempt(0.4, Effort(time.perf_counter() + 3, nodes))
    assert (prover.parts, prover.rounds) == (parts, rounds)


def test_a_number_of_parts_means_the_same_on_a_machine_that_has_no_time(monkeypatch):
    monkeypatch.setattr(prove, "PARTS", (2,))
    monkeypatch.setattr(prove, "LOOK", 0.0)
    found = []
    for seconds in (0.0, 100.0):
        now = itertools.count(0.0, seconds)
        monkeypatch.setattr(prove, "time", SimpleNamespace(perf_counter=lambda now=now: next(now)))
        prover = prover_of(deep())
        prover.attempt(0.4, Effort(1.0, 1500))
        found.append((prover.rounds, prover.nodes, [part.bound for _, _, part in prover.search.queue]))
    assert found[0][0] > 0
    assert found[0] == found[1]


def test_bounds_of_parts_are_those_of_the_whole_without_splits():
    networks, _, inputs = problem(math.inf, 0.15)
    bounds, lemmas, _ = with_lemmas(networks, inputs, 1)
    node, own = next(iter(lemmas.items()))
    values = bounds_of_parts(
        own.rows(networks.search, inputs, node_bounds(networks.search, inputs), node), own.parts, 2
    )
    expected = torch.where(own.signs > 0, bounds.low[node][0][own.entries], -bounds.high[node][0][own.entries])
    assert torch.allclose(own.least(values), expected, atol=1e-3)
