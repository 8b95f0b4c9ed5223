"""The audit's own lines of curved activations lie on their side, come near, and are those of the search."""

import pytest
import torch

from plica.certify import curves
from plica.trust.audit.curves import CURVES

PAIRS = {
    "celu": (curves.elu(0.7, 1.0, 1 / 0.7), CURVES["celu"](0.7)),
    "elu": (curves.elu(1.5), CURVES["elu"](1.5)),
    "falling elu": (curves.elu(-0.5), CURVES["elu"](-0.5)),
    "gelu": (curves.GELU, CURVES["gelu"]()),
    "gelu by tanh": (curves.GELU_TANH, CURVES["gelu"](approximate="tanh")),
    "hardswish": (curves.HARDSWISH, CURVES["hardswish"]()),
    "log sigmoid": (curves.LOG_SIGMOID, CURVES["log_sigmoid_forward"]()),
    "mish": (curves.MISH, CURVES["mish"]()),
    "sigmoid": (curves.SIGMOID, CURVES["sigmoid"]()),
    "silu": (curves.SILU, CURVES["silu"]()),
    "softplus": (curves.softplus(3.0), CURVES["softplus"](3.0)),
    "softsign": (curves.SOFTSIGN, CURVES["softsign"]()),
    "tanh": (curves.TANH, CURVES["tanh"]()),
}


@pytest.mark.parametrize("name", PAIRS)
def test_lines_hold_and_are_those_of_the_search(name):
    ours, theirs = PAIRS[name]
    g = torch.Generator().manual_seed(0)
    half = 10 ** (5 * torch.rand(60, 1, generator=g, dtype=torch.float64) - 4)
    middle = 3 * torch.randn(60, 1, generator=g, dtype=torch.float64)
    l, u = middle - half, middle + half
    l[:5], u[:5], l[5:10] = 0.0, 2 * half[:5], u[5:10]
    z = (l + (u - l) * torch.linspace(0, 1, 201, dtype=torch.float64)).clamp(l, u)
    value = ours.forward(z)
    torch.testing.assert_close(theirs.value(z), value, rtol=1e-13, atol=1e-15)
    for t in (torch.zeros(60, 2, 1).double(), (255 * torch.rand(60, 2, 1, generator=g)).round().double() / 255):
        lines, known = theirs.lines(l, u, t), ours.lines(ours.prepare(l, u), t)
        assert (lines.low * z + lines.low_offset <= value).all()
        assert (lines.up * z + lines.up_offset >= value).all()
        for end in (l, u):
            for k in (0, 2):  # the chords from which the slopes come are known to about the root of a rounding
                torch.testing.assert_close(
                    lines[k] * end + lines[k + 1], known[k] * end + known[k + 1], atol=1e-6, rtol=0
                )
    least, most = theirs.interval(l, u)
    assert (least <= value).all()
    assert (most >= value).all()
    assert (theirs.rounded(z.abs()) >= value.abs()).all()
    assert ((value.diff(dim=1) / z.diff(dim=1))[10:].abs() <= theirs.steep + 1e-9).all()


@pytest.mark.parametrize("name", ["gelu", "gelu by tanh", "mish", "silu"])
def test_points_of_inflection_are_found_twice(name):
    ours, theirs = PAIRS[name]
    assert ours.breaks == pytest.approx(theirs.points, rel=1e-14)
    for point in ours.breaks:  # the derivative is extreme there
        z = torch.tensor([point - 0.01, point, point + 0.01], dtype=torch.float64)
        before, at, behind = ours.slope(z).tolist()
        assert (at - before) * (behind - at) < 0


@pytest.mark.parametrize(("act", "why"), [((-1.0,), "softplus"), ((1.0, 5.0), "softplus")])
def test_other_parameters_are_refused(act, why):
    with pytest.raises(ValueError, match=why):
        CURVES["softplus"](*act)
