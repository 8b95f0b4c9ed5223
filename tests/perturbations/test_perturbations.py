"""Perturbations x' = T(x, theta): what each is at its start, exact radii through linear models, and what is said of bad
ones."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import plica
from linear import linear
from plica import Flow, HueSaturation, Lp, MaxLoss, MinRadius, Perturbation, Recolor, RotateTranslate
from plica.perturbations import apply
from plica.perturbations.base import check_positive
from plica.perturbations.luv import HIGH, LOW, luv, rgb

EVERY = (Flow(), RotateTranslate(), Recolor(nodes=4), HueSaturation(), Recolor(nodes=4, space="luv"))
named = pytest.mark.parametrize("through", EVERY, ids=lambda t: type(t).__name__)


def pictures(b=3, size=12):
    return torch.rand(b, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def small():
    """A small convolutional network with random weights, smooth pictures, and its labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(),
                            nn.Linear(32, 5))  # fmt: skip
    x = nn.functional.avg_pool2d(torch.rand(5, 3, 40, 40, generator=torch.Generator().manual_seed(1)), 4, 4)
    x = nn.functional.interpolate((3 * x - 1).clamp(0, 1), size=12, mode="bilinear")
    return net.eval(), x, net(x).argmax(1)


@named
def test_the_start_is_the_image_and_its_distance_is_0(through):
    x = pictures()
    theta = through.start(x)
    assert (through(x, theta) - x).abs().max() < 1e-12
    assert torch.equal(through.distance(x, theta), torch.zeros(3, dtype=torch.float64))


@named
def test_gradients_are_those_of_differences(through):
    x = pictures()
    theta = (0.3 * torch.rand(through.start(x).shape, dtype=x.dtype) - 0.1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda t: through(x, t), theta, fast_mode=True)
    assert torch.autograd.gradcheck(lambda t: through.distance(x, t), theta, fast_mode=True)


def test_a_flow_of_one_pixel_shifts_and_costs_the_border():
    x = pictures(b=1, size=6)
    theta = torch.zeros(1, 2, 6, 6, dtype=x.dtype)
    theta[:, 0] = 1.0  # every pixel read off one row further down
    found = Flow()(x, theta.flatten(1))
    assert torch.allclose(found[:, :, :-1], x[:, :, 1:], atol=1e-12)
    assert math.isclose(float(Flow().distance(x, theta.flatten(1))), 24, rel_tol=0.02)  # edges along the border


def test_a_turn_by_a_right_angle_is_exact():
    x = pictures(b=1)
    found = RotateTranslate()(x, torch.tensor([[3.0, 0, 0]], dtype=x.dtype))  # 3 x 30 degrees
    assert torch.allclose(found, x.rot90(-1, (2, 3)), atol=1e-9)
    back = RotateTranslate()(x, torch.tensor([[-3.0, 0, 0]], dtype=x.dtype))
    assert torch.allclose(back, x.rot90(1, (2, 3)), atol=1e-9)


def test_a_shift_moves_by_its_share_of_the_side():
    x = pictures(b=1, size=10)
    found = RotateTranslate(share=0.1)(x, torch.tensor([[0, 1.0, 0]], dtype=x.dtype))
    assert torch.allclose(found[:, :, 1:], x[:, :, :-1], atol=1e-9)
    assert (found[:, :, 0].abs() < 1e-9).all()


def test_equal_colours_stay_equal():
    x = pictures().round(decimals=1)
    theta = 0.1 * torch.randn(Recolor(nodes=4).start(x).shape, dtype=x.dtype)
    found = Recolor(nodes=4)(x, theta)
    pixels, after = (t[0].flatten(1).T for t in (x, found))
    _, where = pixels.unique(dim=0, return_inverse=True)
    for colour in range(int(where.max()) + 1):
        same = after[where == colour]
        assert torch.allclose(same, same[:1].expand_as(same), atol=1e-12)


def test_luv_of_known_colours_and_back():
    """Red, green and blue of sRGB: L*, u*, v* as in tables of the colour space (Lindbloom)."""
    primaries = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)
    known = [[53.2408, 175.0151, 37.7564], [87.7347, -83.0776, 107.3985], [32.2970, -9.4054, -130.3423]]
    torch.testing.assert_close(100 * luv(primaries).flatten(1), torch.tensor(known).double(), rtol=2e-4, atol=0)
    side = torch.linspace(0, 1, 17, dtype=torch.float64)
    cube = torch.cartesian_prod(side, side, side).T.reshape(1, 3, -1, 1)
    colours = luv(cube).flatten(2)
    assert (rgb(luv(cube)) - cube).abs().max() < 1e-12
    low, high = (torch.tensor(t, dtype=torch.float64) for t in (LOW, HIGH))
    assert ((colours[0] > low[:, None] - 1e-6) & (colours[0] < high[:, None] + 1e-6)).all()  # 7 digits


def test_a_constant_map_of_luv_shifts_lightness_and_keeps_hues():
    x = 0.3 + 0.4 * pictures()
    through = Recolor(space="luv")
    theta = torch.zeros_like(through.start(x)).view(3, 3, -1)
    theta[:, 0] = 0.05  # five units of L*
    before, after = luv(x), luv(through(x, theta.flatten(1)))
    torch.testing.assert_close(after[:, 0], before[:, 0] + 0.05)
    torch.testing.assert_close(after[:, 1:], before[:, 1:])
    torch.testing.assert_close(
        through.distance(x, theta.flatten(1)), torch.full((3,), 0.05).double(), rtol=1e-4, atol=0
    )
    with pytest.raises(ValueError, match="rgb or luv"):
        Recolor(space="lab")
    with pytest.raises(ValueError, match="needs images of shape"):
        through.start(torch.rand(2, 1, 8, 8))


def test_a_constant_colour_map_costs_its_size():
    x = pictures()
    theta = torch.full_like(Recolor().start(x), 0.1)
    assert torch.allclose(Recolor()(x, theta), x + 0.1)
    assert torch.allclose(Recolor().distance(x, theta), torch.full((3,), 0.1 * 3**0.5, dtype=x.dtype), atol=1e-5)


def test_hue_turns_red_into_green_and_saturation_makes_grey():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert torch.allclose(HueSaturation()(red, torch.tensor([[2 / 3, 0]])).flatten(), torch.tensor([0, 1.0, 0]))
    assert torch.allclose(HueSaturation()(red, torch.tensor([[0, -1.0]])).flatten(), torch.ones(3))


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_exact_radius_of_a_linear_perturbation_of_a_linear_model(p):
    case = linear(dtype=torch.float64, shape=(3, 4, 4))
    directions = torch.randn(7, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    through = Perturbation(lambda x, t: x + (t @ directions).view_as(x), torch.zeros(7), Lp(p), unit=0.1)
    q = {1: math.inf, 2: 2, "inf": 1}[p]
    exact = -case.margin / torch.linalg.vector_norm(directions @ case.model.w, ord=q)
    found = plica.attack(case.model, case.x, case.y, MinRadius("theta", through=through), gradients=300)
    assert found.success.all()
    assert found.theta is not None
    assert (found.distance >= exact * (1 - 1e-9)).all()
    assert (found.distance <= exact * (1.0001 if p == 2 else 1.005)).all()  # the balls of the others have corners
    again = apply(through, case.x, found.theta, (0, 1))
    assert torch.equal(found.x_adv, again)
    assert torch.allclose(found.distance, Lp(p)(torch.zeros_like(found.theta), found.theta))


def test_a_metric_on_the_image_measures_the_image():
    case = linear(dtype=torch.float64, shape=(3, 4, 4))
    directions = torch.randn(7, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    through = Perturbation(lambda x, t: x + (t @ directions).view_as(x), torch.zeros(7))
    # the shortest of the subspace: ||P w|| in place of ||w||
    basis = torch.linalg.qr(directions.T).Q
    exact = -case.margin / torch.linalg.vector_norm(basis.T @ case.model.w)
    found = plica.attack(case.model, case.x, case.y, MinRadius(Lp(2), through=through), gradients=100)
    assert (found.distance >= exact * (1 - 1e-9)).all()
    assert (found.distance <= exact * 1.02).all()
    assert torch.allclose(found.distance, Lp(2)(case.x, found.x_adv))


def test_max_loss_keeps_theta_within_the_radius():
    case = linear(dtype=torch.float64, shape=(3, 4, 4))
    directions = torch.randn(7, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    through = Perturbation(lambda x, t: x + (t @ directions).view_as(x), torch.zeros(7), Lp(2), unit=0.1)
    exact = -case.margin / torch.linalg.vector_norm(directions @ case.model.w)
    for factor, broken in ((1.05, True), (0.95, False)):
        found = plica.attack(case.model, case.x, case.y, MaxLoss("theta", factor * exact, through=through))
        assert found.success.eq(broken).all()
    assert (found.violation > 0).all()


@named
def test_answers_depend_on_theta_alone_not_on_other_images(through):
    net, x, y = small()
    question = MinRadius("theta", through=through)
    found = plica.attack(net, x, y, question, gradients=30)
    assert found.success.any()
    assert found.theta is not None
    done = found.success
    assert torch.equal(apply(through, x[done], found.theta[done], (0, 1)), found.x_adv[done])
    assert torch.equal(through.distance(x.double(), found.theta.double())[done], found.distance[done])
    assert (net(found.x_adv).argmax(1) != y)[done].all()
    assert (found.gradients <= 30).all()
    assert (found.forwards <= 6).all()
    for rows in ([2], [4, 0, 3, 1]):
        other = plica.attack(net, x[rows], y[rows], question, gradients=30, batch_size=3)
        assert other.theta is not None
        assert torch.equal(found.theta[rows], other.theta)
        assert torch.equal(found.distance[rows], other.distance)


@pytest.mark.parametrize("through", [RotateTranslate(), HueSaturation()], ids=["rotate", "hue"])
def test_the_solver_is_not_behind_a_grid_that_costs_as_much(through):
    net, x, y = small()
    question = MinRadius("theta", through=through)
    found, grid = (plica.attack(net, x, y, question, gradients=300, method=method) for method in ("auto", "grid"))
    assert grid.success.any()
    assert (found.success | ~grid.success).all()
    assert found.distance[grid.success].mean() <= grid.distance[grid.success].mean()


def test_a_target_is_reached():
    net, x, y = small()
    targets = net(x).topk(2, 1).indices[:, 1]
    question = MinRadius("theta", through=Recolor(nodes=4))
    found = plica.attack(net, x, y, question, targets=targets, gradients=60)
    assert found.success.any()
    assert (found.prediction == targets)[found.success].all()


def test_other_bounds():
    net, x, y = small()
    wide = nn.Sequential(_Scaled(), net)
    for through in (Recolor(nodes=4, bounds=(0, 2)), HueSaturation(bounds=(0, 2)), Flow()):
        theta = 0.1 * torch.randn(through.start(x).shape, generator=torch.Generator().manual_seed(3))
        one = replace(through, bounds=(0.0, 1.0)) if not isinstance(through, Flow) else through
        scaled = theta * 2 if isinstance(through, Recolor) else theta
        assert torch.allclose(through(2 * x, scaled), 2 * one(x, theta), atol=1e-5)
    found = plica.attack(wide, 2 * x, y, MinRadius("theta", through=Recolor(nodes=4, bounds=(0, 2))),
                         gradients=60, bounds=(0, 2))  # fmt: skip
    assert found.success.any()


class _Scaled(nn.Module):
    def forward(self, x):
        return x / 2


def ask(question, **more):
    case = linear()
    return plica.attack(case.model, case.x, case.y, question, **more)


def test_what_cannot_be_asked():
    with pytest.raises(ValueError, match='"theta" is the distance of a perturbation'):
        MinRadius("theta")
    with pytest.raises(TypeError, match=r"through=... is a perturbation"):
        MinRadius(Lp(2), through=lambda x, t: x)
    with pytest.raises(plica.Unsupported, match=r"pgd adds a perturbation.*use auto"):
        ask(MaxLoss("theta", 1.0, through=Flow()), method="pgd")
    with pytest.raises(plica.Unsupported, match=r"grid tries all values.*Flow has none"):
        ask(MinRadius("theta", through=Flow()), method="grid")
    with pytest.raises(plica.Unsupported, match=r"grid tries all values"):
        ask(MinRadius(Lp(2)), method="grid")


@pytest.mark.parametrize(
    ("through", "says"),
    [
        (Perturbation(lambda x, t: x + 1, torch.zeros(2)), "must give x at its start"),
        (Perturbation(lambda x, t: x[:, :1], torch.zeros(2)), "must return images like x"),
        (Perturbation(lambda x, t: x.missing, torch.zeros(2)), "raised AttributeError"),
        (Perturbation(lambda x, t: x, torch.zeros(2), lambda a, b: b + 1), "must return one distance for each image"),
        (Perturbation(lambda x, t: x, torch.zeros(2), lambda a, b: b[:, 0] + 1), "one number for each image and 0"),
    ],
)
def test_a_bad_perturbation_is_told_in_a_sentence(through, says):
    with pytest.raises(ValueError, match=says):
        ask(MinRadius("theta", through=through))


def test_an_origin_is_one_theta():
    with pytest.raises(ValueError, match=r"a float tensor of shape \(k,\), got \(2, 2\)"):
        Perturbation(lambda x, t: x, torch.zeros(2, 2))


def test_images_that_do_not_suit():
    flat = torch.rand(2, 12)
    for through in EVERY:
        with pytest.raises(ValueError, match="needs images of shape"):
            through.start(flat)
    with pytest.raises(ValueError, match=r"HueSaturation needs images of shape \(3, height, width\), got \(1, 8, 8\)"):
        HueSaturation().start(torch.rand(2, 1, 8, 8))


def test_a_grey_image_has_a_curve():
    x = torch.rand(2, 1, 8, 8)
    theta = Recolor(nodes=3).start(x)
    theta[:, 1] = 0.2  # the middle grey
    assert theta.shape == (2, 3)
    grey = torch.full_like(x, 0.5)
    assert torch.allclose(Recolor(nodes=3)(grey, theta), grey + 0.2)
    assert torch.allclose(Recolor(nodes=3)(torch.zeros_like(x), theta), torch.zeros_like(x))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_sizes_that_are_none(value):
    made = [lambda: Flow(value), lambda: HueSaturation(unit=value)]
    made += [lambda name=name: RotateTranslate(**{name: value}) for name in ("degrees", "share", "unit")]
    made += [lambda name=name: Recolor(**{name: value}) for name in ("smooth", "unit")]
    made.append(lambda: Perturbation(lambda x, theta: x, torch.zeros(2), unit=value))
    for make in made:
        with pytest.raises(ValueError, match="must be a number above 0"):
            make()


@pytest.mark.parametrize("value", [True, "1", 1 + 1j, None])
def test_sizes_that_are_no_numbers(value):
    with pytest.raises(ValueError, match="must be a number above 0"):
        check_positive(SimpleNamespace(unit=value), "unit")


@pytest.mark.parametrize("nodes", [0, 1, -8])
def test_a_grid_of_colours_has_two_nodes_at_least(nodes):
    with pytest.raises(ValueError, match="a whole number from 2"):
        Recolor(nodes=nodes)


@pytest.mark.parametrize("bounds", [(0, math.nan), (1, 0), (0, math.inf)])
def test_bounds_that_are_no_interval(bounds):
    for make in (Recolor, HueSaturation):
        with pytest.raises(ValueError, match="low < high"):
            make(bounds=bounds)


def test_a_padding_that_there_is_not():
    with pytest.raises(ValueError, match="zeros, border or reflection, got 'mirror'"):
        RotateTranslate(padding="mirror")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_a_place_that_is_not_finite_is_not_read(value):
    """The kernel ended the process there, forwards or backwards."""
    x = pictures()
    for through in (Flow(), RotateTranslate(padding="reflection")):
        theta = through.start(x)
        theta[1] = value
        theta.requires_grad_(True)
        image = through(x, theta)
        (grad,) = torch.autograd.grad(image.nan_to_num().sum(), theta)
        assert image[[0, 2]].isfinite().all()
        assert grad[[0, 2]].isfinite().all()


class Poisoned(nn.Module):
    """Not a number away from the images, in its values or in its gradient; it would end the process if it saw one."""

    def __init__(self, net, x, values):
        super().__init__()
        self.net, self.x, self.values = net, x, values

    def forward(self, x):
        assert x.isfinite().all()
        logits = self.net(x)
        if self.values:
            return logits.masked_fill(
                torch.cdist(x.flatten(1), self.x.flatten(1)).amin(1, keepdim=True) > 1e-3, math.nan
            )
        zero = x.flatten(1)[:, :1] * 0
        return logits + zero.sqrt() * 0


@named
@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("metric", ["theta", Lp(2)])
def test_a_model_that_becomes_nan_does_not_end_the_process(through, values, metric):
    net, x, y = small()
    result = plica.attack(Poisoned(net, x, values), x, y, MinRadius(metric, through), gradients=20)
    assert "NOT_FINITE" in {status.name for status in result.status} or not values
    assert not result.success.any() or not values


@pytest.mark.parametrize("metric", [Lp(1), Lp(2), Lp(math.inf), Lp(0.5), Lp(1.5)], ids=str)
@pytest.mark.parametrize("values", [True, False])
def test_nor_does_it_see_pixels_that_are_not_finite(metric, values):
    net, x, y = small()
    for method in ("auto", "pwcf"):
        result = plica.attack(Poisoned(net, x, values), x, y, MinRadius(metric), method=method, gradients=20)
        assert not result.success.any() or not values
