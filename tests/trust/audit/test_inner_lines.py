"""Proofs with optimised lines inside the network, read by the audit."""

import copy
from unittest.mock import patch

import pytest
import torch

import plica
from plica.certify import prove
from plica.runs.encode import leaf_table
from plica.trust.audit import certificates
from plica.trust.audit.balls import Ball
from plica.trust.audit.bounds import Enclosure
from plica.trust.audit.certificates import RefusedError, check
from plica.trust.audit.layers import trace


def deep():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(10, 20)]
    for _ in range(4):
        layers += [torch.nn.ReLU(), torch.nn.Linear(20, 20)]
    net = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(20, 3)).eval().requires_grad_(False)
    for weight in net.parameters():
        weight *= 2
    return net


@pytest.mark.parametrize("arithmetic", ["real", "executed"])
def test_proofs_are_found_right_with_their_lines_and_refused_with_others(arithmetic):
    net, x = deep(), torch.full((1, 10), 0.5)
    y = net(x).argmax(1)
    proof = plica.certify(net, x, y, plica.MaxLoss(plica.Lp("inf"), 0.2), nodes=400, arithmetic=arithmetic)
    assert proof.proved.all()
    inner = proof.evidence[0].slopes
    assert ((inner > 0) & (inner < 255)).sum() > 10  # neither 0 nor 1, with which a search begins
    leaves = leaf_table(proof.evidence, torch.tensor([0])).to_pylist()
    ball = Ball.around(x[0].double(), torch.zeros(10), torch.ones(10), 0.2, float("inf"))
    steps = trace(net, x)
    check(steps, ball, int(y), None, leaves, arithmetic)
    leaves[0]["slopes"] = bytes(len(inner))
    with pytest.raises(RefusedError, match="not a positive one"):
        check(steps, ball, int(y), None, leaves, arithmetic)


def proof_with_neurons(arithmetic="real", radius=0.28):
    """The network, its ball, the class, and the rows that prove it with bounds of neurons."""
    net, x = deep(), torch.full((1, 10), 0.5)
    y = net(x).argmax(1)
    question = plica.MaxLoss(plica.Lp("inf"), radius)
    with patch.object(prove, "LOOK", 0.002):  # parts of the whole set alone would soon be enough
        proof = plica.certify(net, x, y, question, nodes=6000, arithmetic=arithmetic)
    assert proof.proved.all()
    assert proof.evidence[0].lemmas
    rows = leaf_table(proof.evidence, torch.tensor([0])).to_pylist()
    ball = Ball.around(x[0].double(), torch.zeros(10), torch.ones(10), radius, float("inf"))
    return trace(net, x), ball, int(y), rows


@pytest.fixture(scope="module")
def proved():
    return proof_with_neurons()


def test_bounds_of_neurons_are_read():
    steps, ball, y, rows = proof_with_neurons("executed")
    check(steps, ball, y, None, rows, "executed")


def of_neurons(rows, splits=0):
    """Numbers of the rows that bound neurons, with more splits than these."""
    return [i for i, row in enumerate(rows) if row["rival"] == -2 and len(row["sign"]) > 1 + splits]


def without_them(rows):
    rows[:] = [row for row in rows if row["rival"] != -2]


def one_is_missing(rows):
    del rows[of_neurons(rows, 1)[0]]


def other_half(rows):
    row = rows[of_neurons(rows, 1)[0]]
    row["sign"][-1] = -row["sign"][-1]


def other_side(rows):
    """Each neuron's bound from below as one from above: what is proved then is true, and of no use."""
    for row in rows:
        if row["rival"] == -2:
            row["sign"][0] = -row["sign"][0]


def other_neuron(rows):
    row = rows[of_neurons(rows, 1)[0]]
    row["neuron"][0] = (row["neuron"][0] + 1) % 20


def its_own_activation(rows):
    """A split of the layer itself, which is known only once it is bounded."""
    row = rows[of_neurons(rows, 1)[0]]
    row["activation"][-1] = row["activation"][0]


def no_such_activation(rows):
    rows[of_neurons(rows)[0]]["activation"][0] = 9


def no_such_neuron(rows):
    rows[of_neurons(rows)[0]]["neuron"][0] = 20


def twice_the_neuron(rows):
    """A bound of twice the neuron would be taken for one of the neuron."""
    for i in of_neurons(rows):
        rows[i]["sign"][0] *= 2


def no_name(rows):
    row = rows[of_neurons(rows)[0]]
    for name in ("activation", "neuron", "sign", "multiplier"):
        row[name] = []


def negative(rows):
    rows[of_neurons(rows, 1)[0]]["multiplier"][-1] = -1.0


def other_slopes(rows):
    for row in rows:
        if row["rival"] == -2:
            row["slopes"] = bytes(255 - byte for byte in row["slopes"])


def the_first_layer(rows):
    """Slopes of fewer layers than come before the neuron."""
    row = rows[of_neurons(rows)[-1]]
    row["slopes"] = row["slopes"][:-1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without_them, "not a positive one"),
        (one_is_missing, "do not make up the whole ball"),
        (other_half, "do not make up the whole ball"),
        (other_side, "not a positive one"),
        (other_neuron, "do not make up the whole ball"),
        (its_own_activation, "a split names neuron"),
        (no_such_activation, "a leaf is for neuron"),
        (no_such_neuron, "a leaf is for neuron 20"),
        (twice_the_neuron, r"with the sign -?2"),
        (no_name, "does not name it"),
        (negative, "a multiplier is not a number >= 0"),
        (other_slopes, "not a positive one"),
        (the_first_layer, "the slopes are not those of this network"),
    ],
)
def test_changed_bounds_of_neurons_are_refused(proved, change, why):
    steps, ball, y, rows = proved
    check(steps, ball, y, None, rows)
    rows = copy.deepcopy(rows)
    change(rows)
    with pytest.raises(RefusedError, match=why):
        check(steps, ball, y, None, rows)


@pytest.mark.parametrize("leaf", [0, 1, -1])
def test_a_bound_of_a_neuron_that_is_no_number_proves_nothing(proved, leaf, monkeypatch):
    """The least of some numbers may pass over nan."""
    steps, ball, y, rows = proved
    real, changed = certificates._bounds, []

    def spoilt(net, a, leaves, shapes, at):
        values = real(net, a, leaves, shapes, at)
        if at < len(steps) - 1:
            values[leaf] = torch.nan
            changed.append(at)
        return values

    monkeypatch.setattr(certificates, "_bounds", spoilt)
    with pytest.raises(RefusedError, match="not a positive one"):
        check(steps, ball, y, None, rows)
    assert changed


def test_bounds_of_neurons_hold_for_points(proved):
    steps, _, _, rows = proved
    at = sorted({row["activation"][0] for row in rows if row["rival"] == -2})
    seen = []

    class Seen(Enclosure):
        def _cut(self, k, entries, signs, bounds):
            seen.append((k, entries, signs, bounds))
            super()._cut(k, entries, signs, bounds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "Enclosure", Seen)
        check(*proved[:3], None, rows)
    assert len(seen) == len(at)
    x = 0.5 + 0.28 * torch.randn(20000, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sign()
    x = torch.cat([x, 0.5 + (x - 0.5) * torch.rand(20000, 10, dtype=torch.float64)]).clamp(0, 1)
    values = [x]
    for step in steps[1:]:
        values.append(step.op.value(*(values[parent] for parent in step.parents)))
    for k, entries, signs, bounds in seen:
        assert (signs * values[k].flatten(1)[:, entries] >= bounds).all()
