"""What the judge lets count, and what not."""

import pytest
import torch
from torch import nn

from plica.core.goals import Goal
from plica.core.judging.judge import Judge, confirms
from plica.core.model.counted import CountedModel
from plica.core.model.second_run import SecondRun, in_float64
from plica.metrics import Lp

X = torch.tensor([[0.5, 0.5]])
Y = torch.tensor([0])
LEVEL = 4.0  # of the larger logits: their rounding is 64 * 1.2e-7 * 4 = 3e-5


class Ramp(nn.Module):
    """Logits (LEVEL, LEVEL + 10 (x_0 - 0.6), 0): class 1 from x_0 = 0.6 on."""

    def __init__(self, error=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 10.0, 0.0]), requires_grad=False)
        self.bias = nn.Parameter(torch.tensor([LEVEL, LEVEL - 6.0, 0.0]), requires_grad=False)
        self.error = error

    def forward(self, x):
        logits = x[:, :1] * self.weight + self.bias
        if x.dtype == torch.float32:  # what a float64 run does not confirm
            logits[:, 1] += self.error
        return logits


def verdict(point, radius=None, model=None, targets=None, bounds=(0.0, 1.0), x=X, fine=True):
    model = model or Ramp()
    radius = None if radius is None else torch.tensor([radius], dtype=torch.float64)
    counted = CountedModel(model, 1)
    judge = Judge(
        counted,
        SecondRun(counted, x.dtype) if fine else None,
        Lp(2),
        x,
        Goal(Y, targets),
        radius,
        bounds,
        torch.arange(1),
    )
    return judge(torch.tensor([point]))


def refused(found):
    assert not found.sure.any()
    assert found.distance.isinf().all()
    return found


def test_a_sound_point():
    found = verdict([0.7, 0.5])
    assert found.sure.all()
    assert found.distance.item() == pytest.approx(0.2, rel=1e-6)  # 0.7 in float32
    assert found.distance.dtype == torch.float64
    assert found.margin.item() == pytest.approx(1, rel=1e-5)
    assert found.violation.item() == 0
    assert found.prediction.item() == 1


def test_a_point_on_the_radius_counts_and_one_beyond_does_not():
    exact = verdict([0.75, 0.5], radius=0.25)
    assert exact.sure.all()
    found = refused(verdict([0.75, 0.5], radius=0.25 * (1 - 1e-12)))
    assert found.violation.item() == pytest.approx(0.25e-12, rel=1e-3, abs=0)


def test_the_violation_is_the_largest_one():
    """0.15 beyond the bound, 0.1 beyond the radius, short of the margin by 0.5 or not."""
    assert refused(verdict([0.55, 1.15], radius=0.5)).violation.item() == pytest.approx(0.5, rel=1e-5)
    assert refused(verdict([0.8, 1.15], radius=9.0)).violation.item() == pytest.approx(0.15, rel=1e-5)
    assert refused(verdict([0.8, 0.9], radius=0.4)).violation.item() == pytest.approx(0.1, rel=1e-5)
    assert refused(verdict([0.8, 0.9], radius=0.1)).violation.item() == pytest.approx(0.4, rel=1e-5)


def test_the_right_class():
    found = refused(verdict([0.55, 0.5]))
    assert found.violation.item() == pytest.approx(0.5, rel=1e-5)  # of the margin
    assert found.prediction.item() == 0


def test_a_tie():
    model = Ramp()
    model.weight.data[:], model.bias.data[:] = 0, torch.tensor([LEVEL, LEVEL, 0])
    refused(verdict([0.7, 0.5], model=model))


@pytest.mark.parametrize("fine", [True, False])
def test_a_margin_made_of_rounding(fine):
    model = Ramp()
    model.weight.data[:], model.bias.data[:] = 0, torch.tensor([LEVEL, LEVEL + 1e-5, 0])
    refused(verdict([0.7, 0.5], model=model, fine=fine))
    model.bias.data[1] = LEVEL + 1e-3
    assert verdict([0.7, 0.5], model=model, fine=fine).sure.all()


@pytest.mark.parametrize("wall", [0.0, 1.0])
def test_one_ulp_outside_the_bounds(wall):
    outward = torch.tensor(-1.0 if wall == 0 else 2.0)
    assert verdict([0.7, wall]).sure.all()
    found = refused(verdict([0.7, float(torch.nextafter(torch.tensor(wall), outward))]))
    assert 0 < found.violation.item() < 2e-7


def test_other_bounds():
    assert verdict([0.7, 1.5], bounds=(-2.0, 2.0)).sure.all()
    refused(verdict([0.7, 0.3], bounds=(0.4, 0.8)))
    refused(verdict([0.7, 0.9], bounds=(0.4, 0.8)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("fine", [True, False])
def test_a_point_that_is_not_finite(bad, place, fine):
    """The model looks at the first pixel only: the second must not slip through."""
    point = [0.7, 0.5]
    point[place] = bad
    refused(verdict(point, fine=fine))
    refused(verdict(point, fine=fine, radius=1.0))


def test_logits_that_are_not_finite():
    model = Ramp()
    model.bias.data[1] = torch.nan
    refused(verdict([0.7, 0.5], model=model))


def test_a_point_that_float64_rejects_does_not_count():
    refused(verdict([0.59, 0.5], model=Ramp(error=0.2)))  # float32 says margin 0.1, float64 -0.1
    refused(verdict([0.605, 0.5], model=Ramp(error=0.05)))  # 0.1 against 0.05: half of it is made of rounding
    assert verdict([0.605, 0.5], model=Ramp(error=0.01)).sure.all()
    assert verdict([0.59, 0.5], model=Ramp(error=0.2), fine=False).sure.all()


def test_only_the_target_counts():
    refused(verdict([0.7, 0.5], targets=torch.tensor([2])))
    assert verdict([0.7, 0.5], targets=torch.tensor([1])).sure.all()


def test_each_point_by_itself_and_one_forward_run_each_in_either_precision():
    points = torch.tensor([[0.7, 0.5], [0.55, 0.5], [torch.nan, 0.5], [0.9, 1.1]])
    model, x = Ramp(), X.expand(4, 2)
    counted = CountedModel(model, 4)
    second, goal = SecondRun(counted, x.dtype), Goal(Y.expand(4))
    found = Judge(counted, second, Lp(2), x, goal, None, (0.0, 1.0), torch.arange(4))(points)
    assert found.sure.tolist() == [True, False, False, False]
    assert counted.forwards.tolist() == [2, 2, 2, 2]


def test_the_copy_in_float64_leaves_the_model_alone():
    model = Ramp()
    fine = in_float64(model)
    assert fine is not None
    assert fine(X.double()).dtype == torch.float64
    assert model.weight.dtype == torch.float32


def test_a_function_has_no_copy_in_float64():
    assert in_float64(lambda x: x) is None


class Stubborn(Ramp):
    def forward(self, x):
        return super().forward(x).float()


class Brittle(Ramp):
    def forward(self, x):
        if x.dtype == torch.float64:
            raise TypeError("float32 only")
        return super().forward(x)


class Unique(Ramp):
    def __deepcopy__(self, memo):
        raise RuntimeError("there is one of me")


class Wandering(Ramp):
    """Not a number in float64."""

    def forward(self, x):
        return super().forward(x) * (torch.nan if x.dtype == torch.float64 else 1)


class Once(Ramp):
    """Takes batches of 32 images alone, in float32."""

    def forward(self, x):
        if len(x) != 32 or x.dtype == torch.float64:
            raise RuntimeError("32 images")
        return super().forward(x)


@pytest.mark.parametrize("kind", [Stubborn, Brittle, Unique])
def test_a_module_that_cannot_be_had_in_float64_is_run_with_each_image_alone(kind):
    second = SecondRun(CountedModel(kind(), 1), X.dtype)
    for _ in range(2):
        out = second(X.expand(2, 2).double())
        assert out is not None
        assert torch.equal(out, kind()(X.expand(2, 2)).double())
    assert verdict([0.7, 0.5], model=kind()).sure.all()


def test_a_module_that_runs_one_way_only_is_judged_by_it():
    assert SecondRun(CountedModel(Once(), 1), X.dtype)(X.double()) is None
    assert verdict([0.7, 0.5], model=Once()).sure.all()


def test_a_point_that_is_not_a_number_in_float64_is_refused():
    refused(verdict([0.7, 0.5], model=Wandering()))


def test_an_error_after_the_first_points_is_raised():
    model = Ramp()
    second = SecondRun(CountedModel(model, 1), X.dtype)
    assert second(X.double()) is not None
    with pytest.raises(RuntimeError):
        second(X.double().expand(1, 2).repeat(1, 2)[:, :0])


@pytest.mark.parametrize(
    ("second", "few", "agrees"),
    [
        (1.0, False, True),
        (0.67, False, True),
        (0.66, False, False),
        (1.33, False, True),
        (1.34, False, False),
        (0.01, True, True),
        (0.0, True, False),
        (1.99, True, True),
        (2.0, True, False),
        (-0.5, True, False),
    ],
)
def test_a_second_run_agrees_within_a_third_and_within_the_margin_itself_where_digits_are_few(second, few, agrees):
    found = confirms(*(torch.tensor([value]).double() for value in (second, 1.0)), torch.tensor([few]))
    assert found.tolist() == [agrees]


def test_second_margins_that_are_no_numbers_refuse():
    rows = [[0.0, 1.0], [0.0, torch.nan], [torch.inf, 0.0], [0.0, torch.inf]]
    counted = CountedModel(Ramp(), 4)
    judge = Judge(
        counted, lambda z: torch.tensor(rows).double(), Lp(2), X.expand(4, 2), Goal(Y.expand(4)), None, (0.0, 1.0),
        torch.arange(4),
    )  # fmt: skip
    assert judge.second_margin(X.expand(4, 2)).tolist() == [1, -torch.inf, -torch.inf, torch.inf]
    assert counted.forwards.tolist() == [1, 1, 1, 1]


def test_second_margins_of_many_points_are_of_their_own_labels():
    y = torch.arange(40) // 3 % 2
    counted = CountedModel(Ramp(), 40, max_rows=16)
    x = torch.linspace(0.5, 0.7, 40)[:, None].expand(40, 2)
    judge = Judge(counted, SecondRun(counted, x.dtype), Lp(2), x, Goal(y), None, (0.0, 1.0), torch.arange(40))
    expected = torch.where(y == 0, 1, -1) * 10 * (x[:, 0].double() - 0.6)
    torch.testing.assert_close(judge.second_margin(x), expected)


@pytest.mark.parametrize("more", [0.0, 2.0**-24])
def test_a_margin_must_exceed_64_units_of_rounding_of_the_largest_logit(more):
    found = verdict([0.7, 0.5], model=lambda z: torch.tensor([[1 - 2.0**-17 - more, 1.0]]).expand(len(z), 2))
    assert found.sure.tolist() == [bool(more)]


def test_a_model_that_computes_in_half_precision_has_no_copy_in_float64():
    for inside, ways in ((torch.bfloat16, 1), (torch.float32, 2)):
        counted = CountedModel(Inside(inside), 1)
        counted.logits(X, torch.arange(1))
        assert counted.half == (ways == 1)
        assert len(SecondRun(counted, X.dtype).ways) == ways


class Inside(Ramp):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return super().forward(x.to(self.dtype).to(x) if x.dtype == torch.float32 else x)


class Hungry(Ramp):
    def forward(self, x):
        if x.dtype == torch.float64:
            raise MemoryError("not enough memory")
        return super().forward(x)


def test_where_memory_runs_out_the_second_run_is_no_other_one():
    with pytest.raises(MemoryError):
        SecondRun(CountedModel(Hungry(), 1), X.dtype)(X.double())


def test_an_infinite_distance_is_none():
    judge = Judge(
        CountedModel(Ramp(), 1), None, lambda x, z: Lp(2)(x, z) / 0, X, Goal(Y), None, (0.0, 1.0), torch.arange(1)
    )
    assert not judge(torch.tensor([[0.7, 0.5]])).sure


@pytest.mark.parametrize("radius", [None, 1.0])
def test_a_negative_distance_is_none(radius):
    limit = None if radius is None else torch.tensor([radius]).double()
    for shift, sure in ((-1.0, False), (-0.2 - 5e-5, True), (-0.2 - 2e-4, False)):
        judge = Judge(
            CountedModel(Ramp(), 1), None, lambda x, z, s=shift: Lp(2)(x, z) + s, X, Goal(Y), limit, (0.0, 1.0),
            torch.arange(1),
        )  # fmt: skip
        found = judge(torch.tensor([[0.7, 0.5]]))
        assert found.sure.tolist() == [sure]
        assert found.distance.tolist() == [0.0 if sure else float("inf")]
