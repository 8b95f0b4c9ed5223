"""Proofs with optimised lines inside the network, read by the audit."""

import pytest
import torch

import plica
from plica.runs.encode import leaf_table
from plica.trust.audit.balls import Ball
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
