"""First radii, by regula falsi with one pass for each guess: with margins that are known functions of the radius, which
radii are tried, what is confirmed in float64, and what is kept of it."""

import math
from types import SimpleNamespace

import pytest
import torch

import plica
from certify.zoo import images, network
from plica.certify import radius as module
from plica.certify.capture import capture
from plica.certify.prove import Effort, Networks, Region
from plica.certify.radius import FIRST_GUESS, crown_margin, crown_radii

ALWAYS = Effort(math.inf, 1000)
FALLING = (
    lambda r: 1 - r,  # a line, of which the first chord gives the zero
    lambda r: 2 - 8 * r**2,
    lambda r: 0.5 - 3 * r**0.5,
    lambda r: 1.0,
    lambda r: 0.0 if r >= 0.25 else 1.0,  # 0 is no proof
    lambda r: 3 * math.exp(-2 * r) - 1,
    lambda r: math.nan if r >= 0.2 else 1.0,  # bounds of values too large for floats
)
GUESS = (0.3, 0.4, 0.2, 0.1, 0.25, 2.0, 1.0)
UPPER = (math.inf, 0.6, math.inf, 0.9, 4.0, 1.5, math.inf)


def of_functions(monkeypatch, promised=1.0, times=None):
    """Networks of which image k, of pixels k, has the margin FALLING[k](r); float64 confirms a radius up to that of
    `promised` times as much; and the calls: numbers, radii, and whether rigorous and by CROWN."""
    networks, calls, clock = object.__new__(Networks), [], iter(times or [0.0] * 1000)

    def margins(networks, region, x, a, radius, go_on=None, rigorous=False, crown=True):
        numbers = x[:, 0].long().tolist()
        calls.append((numbers, radius.tolist(), rigorous, crown))
        values = [FALLING[k](r / promised if rigorous else r) for k, r in zip(numbers, radius.tolist(), strict=True)]
        slopes = torch.stack([torch.tensor([k, 10 + crown], dtype=torch.uint8) for k in numbers])
        return torch.tensor(values).to(torch.float64 if rigorous else torch.float32), slopes

    def forward(z):
        first = torch.tensor([[FALLING[int(k)](0.0), 0.0] for k in z[:, 0]], dtype=torch.float64)
        return [z, first]

    object.__setattr__(networks, "exact", SimpleNamespace(forward=forward))
    monkeypatch.setattr(module, "crown_margin", margins)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    return networks, calls


def searched(networks, rows, effort=ALWAYS, **more):
    x = torch.tensor(rows)[:, None].expand(-1, 2).float()
    a = torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double().expand(len(rows), 2, 2)  # the second function is twice as large
    guess, upper = (torch.tensor([v[k] for k in rows]).double() for v in (GUESS, UPPER))
    return module._searched(networks, object.__new__(Region), x, a, guess, upper, effort, **more)


def falsi(function, guess, upper, crown):
    """The radii that are tried for one image, and the largest of them that is proved."""
    proved, failed, first, last = 0.0, upper, function(0.0), None
    radius, tried = min(guess, upper), []
    while len(tried) < 9 and failed - proved > 0.01 * proved:
        tried.append(radius)
        margin = -math.inf if math.isnan(function(radius)) else function(radius)
        if margin > 0:
            proved, first = radius, margin
        else:
            failed, last = radius, margin
        if last is None:
            radius = min(2 * proved, upper)
        else:
            gap, least = failed - proved, 0.1 * (failed - proved)
            if upper == math.inf and last > -math.inf:
                least = min(least, 3 * proved)
            radius = proved + max(gap * min(0.9, first / (first - last)), least)
            if not crown and not proved:
                radius = min(radius, failed / 4)
    return tried, proved


@pytest.mark.parametrize("crown", [True, False])
def test_each_image_is_tried_where_its_chord_crosses_zero(crown, monkeypatch):
    networks, calls = of_functions(monkeypatch)
    rows = list(range(len(FALLING)))
    radii = searched(networks, rows, crown=crown)
    for k in rows:
        tried, proved = falsi(FALLING[k], GUESS[k], UPPER[k], crown)
        of_image = [radii[rows.index(k)] for rows, radii, rigorous, _ in calls if k in rows and not rigorous]
        assert of_image == pytest.approx(tried, rel=1e-5)
        assert float(radii[k]) == pytest.approx(proved, rel=1e-5)
    assert {(rigorous, crown) for *_, rigorous, crown in calls} == {(False, crown)}


def test_no_guess_is_made_that_there_is_no_time_for(monkeypatch):
    networks, calls = of_functions(monkeypatch, times=[0, 2, 10, 15, 20, 21, 30, 31])
    asked = []

    class Watched(Effort):
        def left(self, reserve=0.0):
            asked.append(reserve)
            return len(asked) < 5

    radii = searched(networks, [1], Watched(math.inf))
    assert asked == [0, 2, 5, 5, 5]
    assert len(calls) == 4
    assert radii.tolist() == pytest.approx([max([r for _, [r], *_ in calls if FALLING[1](r) > 0])], rel=1e-6)


@pytest.mark.parametrize(("promised", "factors"), [(0.9995, [1, 0.999]), (0.95, [1, 0.999, 0.9]), (1.0, [1])])
def test_float64_confirms_a_radius_or_a_little_less(promised, factors, monkeypatch):
    networks, calls = of_functions(monkeypatch, promised)
    x, a = torch.tensor([[3.0, 3.0], [0.0, 0.0], [1.0, 1.0]]), torch.ones(3, 1, 2)
    found, slopes = module._confirmed(
        networks, object.__new__(Region), x, a, torch.tensor([0.7, 1 - 1e-9, 0.0], dtype=torch.float64), True
    )
    assert found.tolist() == pytest.approx([0.7, factors[-1], 0.0], rel=1e-8)
    assert [numbers for numbers, *_ in calls] == [[3, 0]] + [[0]] * (len(factors) - 1)
    assert [radii[-1] for _, radii, *_ in calls] == pytest.approx(factors)
    assert all(rigorous for *_, rigorous, _ in calls)
    assert slopes.tolist() == [[3, 11], [0, 11], [0, 0]]


def test_a_margin_of_0_confirms_nothing(monkeypatch):
    networks, _ = of_functions(monkeypatch)
    x, radius = torch.full((1, 2), 4.0), torch.tensor([0.25], dtype=torch.float64)
    found, _ = module._confirmed(networks, object.__new__(Region), x, torch.ones(1, 1, 2), radius, True)
    assert found.tolist() == [0.999 * 0.25]


def test_a_bound_that_overflows_is_no_proof_and_radii_far_below_are_tried(monkeypatch):
    networks, calls = of_functions(monkeypatch)
    radii = searched(networks, [6])
    assert calls[1][1] == pytest.approx([0.1 * GUESS[6]])
    assert 0.2 * (1 - 0.1) < radii.item() < 0.2


def test_a_guess_that_is_too_large_by_many_powers_of_ten_is_mended_in_a_box_without_end(monkeypatch):
    networks, _ = of_functions(monkeypatch)
    monkeypatch.setitem(globals(), "GUESS", (1e12, *GUESS[1:]))
    assert float(searched(networks, [0])) == pytest.approx(1, rel=0.1)


def test_an_image_without_a_gradient_has_a_bound_in_a_box_without_end():
    """Its first-order radius is infinite: both ReLUs are inactive at x."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[0].bias.fill_(-1.0)
        net[2].weight.copy_(torch.tensor([[-1.0, -1.0], [0.0, 0.0]]))
        net[2].bias.copy_(torch.tensor([0.5, 0.0]))
    x, y, question = torch.zeros(1, 2), torch.tensor([0]), plica.MinRadius(plica.Lp("inf"))
    certified = plica.certify(net, x, y, question, nodes=20, bounds=(-math.inf, math.inf))
    assert float(certified.radius) == pytest.approx(1.25, rel=0.05)  # relu(r - 1) twice is .5


def test_what_float64_does_not_confirm_is_0(monkeypatch):
    networks, _ = of_functions(monkeypatch, 0.5)
    a = torch.ones(1, 1, 2)
    found, _ = module._confirmed(networks, object.__new__(Region), torch.zeros(1, 2), a, torch.ones(1).double(), True)
    assert found.tolist() == [0]


def test_images_without_a_radius_are_searched_again_with_intervals_alone(monkeypatch):
    """The time is over from the start: nothing is proved by CROWN for any image."""
    networks, calls = of_functions(monkeypatch)
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    a = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]).double().expand(2, 3, 2)
    guess, upper = torch.tensor([0.3, 0.4]).double(), torch.tensor([math.inf, 0.6]).double()
    region = object.__new__(Region)
    over = crown_radii(networks, region, x, a, guess, upper, Effort(-1.0))
    assert {(rigorous, crown) for *_, rigorous, crown in calls} == {(False, False)}
    for k, first in enumerate(over):
        radius, evidence = first.confirm()
        assert first.radius == radius == pytest.approx(falsi(FALLING[k], GUESS[k], UPPER[k], False)[1], rel=1e-5)
        assert evidence.slopes.tolist() == [k, 10]
        assert [(leaf.rival, leaf.splits, leaf.multipliers) for leaf in evidence.leaves] == [
            (rival, (), ()) for rival in range(3)
        ]
        assert all(leaf.slopes.tolist() == [k, 10] for leaf in evidence.leaves)
    calls.clear()
    once = crown_radii(networks, region, x, a, guess, upper, ALWAYS)
    assert {crown for *_, crown in calls} == {True}
    assert calls[0][1] == pytest.approx([0.3, FIRST_GUESS * 0.6])
    assert not any(rigorous for *_, rigorous, _ in calls)  # only when it is asked for
    assert [first.confirm()[1].slopes.tolist() for first in once] == [[0, 11], [1, 11]]


def test_an_image_of_which_nothing_is_proved_has_no_evidence(monkeypatch):
    networks, calls = of_functions(monkeypatch, 0.5)  # float64 confirms nothing of image 0, and all of image 3
    x, a = torch.tensor([[0.0, 0.0], [3.0, 3.0]]), torch.ones(2, 2, 2).double()
    guess, upper = torch.tensor([0.3, 0.1]).double(), torch.tensor([math.inf, 0.9]).double()
    nothing, first = crown_radii(networks, object.__new__(Region), x, a, guess, upper, ALWAYS)
    assert nothing.radius > 0  # as float32 has it
    assert first.radius == pytest.approx(0.9)
    whole, proof = first.confirm()
    assert whole == pytest.approx(0.9)
    assert proof.slopes.tolist() == [3, 11]
    calls.clear()
    assert nothing.confirm() == (0, None)
    assert next(numbers for numbers, _, rigorous, crown in calls if not crown and not rigorous) == [0]


def test_the_least_of_the_functions_counts_and_float64_and_intervals_prove_less():
    net, x = network("relu"), images(3)
    graph = capture(net, x)
    logits = graph.forward(x.double())[-1]
    region = Region(plica.Lp("inf"), torch.tensor(0.0), torch.tensor(1.0))
    networks = Networks.of(graph)
    label = logits.argmax(1)
    a = torch.nn.functional.one_hot(label, logits.shape[1]).double()[:, None] - torch.eye(logits.shape[1])
    a = torch.stack([own[torch.arange(len(own)) != k] for own, k in zip(a, label.tolist(), strict=True)])
    radius = torch.tensor([0.01, 0.02, 0.03]).double()
    value, slopes = crown_margin(networks, region, x, a, radius)
    each = [crown_margin(networks, region, x, a[:, k : k + 1], radius)[0] for k in range(a.shape[1])]
    torch.testing.assert_close(value, torch.stack(each).amin(0))
    exact, own = crown_margin(networks, region, x, a, radius, rigorous=True)
    assert torch.equal(own, slopes)
    assert value.dtype == torch.float32
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), value, rtol=1e-4, atol=1e-5)
    single = [
        crown_margin(networks, region, x[i : i + 1], a[i : i + 1], radius[i : i + 1], rigorous=True) for i in range(3)
    ]
    torch.testing.assert_close(torch.cat([value for value, _ in single]), exact, rtol=1e-9, atol=1e-12)
    intervals, _ = crown_margin(networks, region, x, a, radius, crown=False)
    assert bool((intervals <= value).all())
    assert bool((intervals < value).any())
