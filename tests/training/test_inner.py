"""Hard inputs: exact answers of a linear model, the envelope theorem, Appendix C, what is left untouched, bad input."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

import plica
from linear import linear
from plica.training import Inner, Union
from plica.training.network import unwrapped

P = (1, 1.5, 2, math.inf)
L2, LINF, L1 = plica.Lp(2), plica.Lp("inf"), plica.Lp(1)


def smooth(seed=0, inputs=6, classes=3):
    """A smooth network in float64, and the images nearest to its boundary of many that it takes for their labels."""
    torch.manual_seed(seed)
    layers = [nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, classes)]
    net = nn.Sequential(nn.Flatten(), *layers).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3)
        x = 0.3 + 0.4 * torch.rand(500, 1, 1, inputs, dtype=torch.float64)
        logits = net(x)
        nearest = (logits.topk(2, 1).values.diff(dim=1)[:, 0] + 0.3).abs().argsort()[:4]
    return net, x[nearest], logits[nearest].argmax(1)


# The answers


@pytest.mark.parametrize("p", [0.5, *P])
def test_the_radius_of_a_linear_model_is_exact(p):
    case = linear(b=5)
    hard = Inner(plica.MinRadius(plica.Lp(p)), gradients=20 if p <= 1 else 4)(case.model, case.x, case.y)
    assert hard.correct.all()
    torch.testing.assert_close(hard.radius.double(), case.radius(p).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(plica.Lp(p)(case.x, hard.x_adv), hard.distance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 2, math.inf])
def test_the_worst_point_of_a_linear_model_is_found(p):
    case = linear(b=5)
    radius = 0.5 * float(case.radius(p).min())
    hard = Inner(plica.MaxLoss(plica.Lp(p), radius), gradients=4)(case.model, case.x, case.y)
    assert (plica.Lp(p)(case.x, hard.x_adv) <= radius * (1 + 1e-4)).all()
    logits = case.model(hard.x_adv)
    reached = (logits[:, 1] - logits[:, 0]) * torch.where(case.y == 0, 1, -1)
    gained, most = reached - case.margin, case.worst(p, torch.tensor(radius)) - case.margin
    assert (gained >= 0.95 * most).all()


def test_a_cap_that_float32_does_not_have_is_none():
    case = linear()
    free, capped = (Inner(plica.MinRadius(plica.Lp(2)), cap=cap)(case.model, case.x, case.y) for cap in (None, 1e308))
    assert torch.equal(capped.x_adv, free.x_adv)


def test_a_cap_pulls_points_back_and_leaves_the_radius():
    case = linear(b=5)
    free = Inner(plica.MinRadius(plica.Lp(2)))(case.model, case.x, case.y)
    cap = float(free.radius.median())
    hard = Inner(plica.MinRadius(plica.Lp(2)), cap=cap)(case.model, case.x, case.y)
    torch.testing.assert_close(hard.distance, free.distance.clamp(max=cap))
    torch.testing.assert_close(hard.radius, free.radius)
    assert (hard.radius_of(case.model) <= cap).all()


def test_a_cap_is_in_the_units_of_the_metric_for_p_below_1_too():
    case = linear(b=5)
    free = Inner(plica.MinRadius(plica.Lp(0.5)))(case.model, case.x, case.y)
    cap = float(free.radius.median())
    hard = Inner(plica.MinRadius(plica.Lp(0.5)), cap=cap)(case.model, case.x, case.y)
    assert (hard.distance <= cap * (1 + 1e-4)).all()
    torch.testing.assert_close(hard.radius, free.radius)


# The envelope theorem


def exact_radius(net, x, y, metric, start):
    """The least distance at which the margin is 0 of one image, by scipy from a point near it."""
    n, shape = x.numel(), x.shape

    def tensor(u):
        return torch.tensor(u, dtype=torch.float64).view(1, *shape)

    def margin(u):
        logits = net(tensor(u))[0]
        return float((torch.cat([logits[:y], logits[y + 1 :]]).max() - logits[y]).detach())

    def slope(u):
        z = tensor(u).requires_grad_()
        logits = net(z)[0]
        (grad,) = torch.autograd.grad(torch.cat([logits[:y], logits[y + 1 :]]).max() - logits[y], z)
        return grad.flatten().numpy()

    x0, z0 = x.flatten().numpy(), start.flatten().numpy()
    options = dict(ftol=1e-16, maxiter=500)
    p = getattr(metric, "p", None) if isinstance(metric, plica.Lp) else None
    if p == 1:  # z = x + a - b, a, b >= 0
        split = np.concatenate([(z0 - x0).clip(0), (x0 - z0).clip(0)])
        found = minimize(
            np.sum, split, jac=np.ones_like, bounds=[(0, None)] * 2 * n, method="SLSQP", options=options,
            constraints=dict(type="eq", fun=lambda s: margin(x0 + s[:n] - s[n:]),
                             jac=lambda s: np.concatenate([slope(x0 + s[:n] - s[n:]), -slope(x0 + s[:n] - s[n:])])),
        )  # fmt: skip
        return found.fun
    if p == math.inf:  # (u, t), |u| <= t
        both = np.concatenate([z0 - x0, [abs(z0 - x0).max()]])
        A = np.block([[-np.eye(n), np.ones((n, 1))], [np.eye(n), np.ones((n, 1))]])
        found = minimize(
            lambda s: s[n], both, jac=lambda s: np.eye(n + 1)[n], method="SLSQP", options=options,
            constraints=[dict(type="ineq", fun=lambda s: A @ s, jac=lambda s: A),
                         dict(type="eq", fun=lambda s: margin(x0 + s[:n]),
                              jac=lambda s: np.append(slope(x0 + s[:n]), 0.0))],
        )  # fmt: skip
        return found.fun

    def value(u):
        return float(metric(x[None], tensor(u)).detach()) ** 2

    def value_slope(u):
        z = tensor(u).requires_grad_()
        (grad,) = torch.autograd.grad(metric(x[None], z).square().sum(), z)
        return grad.flatten().numpy()

    found = minimize(value, z0, jac=value_slope, method="SLSQP", options=options,
                     constraints=dict(type="eq", fun=margin, jac=slope))  # fmt: skip
    return found.fun**0.5


class Euclidean:
    """l_1.5 and others by autograd alone, for scipy's sake."""

    def __init__(self, p):
        self.p = p

    def __call__(self, x, z):
        return ((z - x).flatten(1).abs() ** self.p).sum(1) ** (1 / self.p)


def features():
    torch.manual_seed(5)
    phi = nn.Sequential(nn.Flatten(), nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8)).double().requires_grad_(False)
    return plica.Perceptual(lambda x: [phi(x)])


@pytest.mark.parametrize(
    "metric",
    [L1, LINF, *(pytest.param(m, marks=pytest.mark.slow) for m in (plica.Lp(1.5), L2, features()))],
    ids=str,
)
def test_the_gradient_of_radii_is_that_of_finite_differences(metric):
    net, x, y = smooth()
    hard = Inner(plica.MinRadius(metric), gradients=100)(net, x, y)
    radii = hard.radius_of(net)
    parameters = list(net.parameters())
    direction = [torch.randn_like(p) for p in parameters]
    step = 1e-4
    for i in range(2):
        grads = torch.autograd.grad(radii[i], parameters, retain_graph=True)
        slope = float(sum((g * d).sum() for g, d in zip(grads, direction, strict=True)))
        ends = []
        for sign in (1, -1):
            moved = copy.deepcopy(net)
            with torch.no_grad():
                for p, d in zip(moved.parameters(), direction, strict=True):
                    p.add_(sign * step * d)
            smooth_metric = Euclidean(1.5) if isinstance(metric, plica.Lp) and metric.p == 1.5 else metric
            ends.append(exact_radius(moved, x[i], int(y[i]), smooth_metric, hard.x_adv[i]))
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert abs(slope - numeric) < 1e-4 * max(abs(numeric), 1e-2)


# Appendix C of "Optimizers Matter": what a suboptimal inner solution does


class OneNeuron(nn.Module):
    """Margin max(theta x, 0)^2 - 1 of the second class: min over theta of max over |x| <= 1 is reached at theta = 0."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return torch.cat([torch.ones_like(x), (self.theta * x).clamp(min=0) ** 2], 1)


@pytest.mark.parametrize(("starts", "steps", "end"), [(1, 10, 1.0), (2, 60, 0.0)])
def test_appendix_c(starts, steps, end):
    """At x = 0 the gradient is 0: an ascent from there stays, and so does theta; the better of two starts moves it."""
    net, x, y = OneNeuron(), torch.zeros(1, 1), torch.tensor([0])
    question = plica.MaxLoss(plica.Lp("inf"), 1.0)
    inner = Inner(question, gradients=4, starts=starts, bounds=(-1.0, 1.0))
    for _ in range(steps):
        net.zero_grad()
        inner(net, x, y).loss(net).backward()
        with torch.no_grad():
            net.theta -= 0.5 * net.theta.grad
    assert abs(float(net.theta.detach()) - end) < 0.05


# Every kind of question


def convolutional():
    """A small network with batch normalisation and dropout, and images of which it takes most for their labels."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 9, 4)
    )
    x = torch.rand(6, 3, 8, 8)
    y = net.eval()(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    return net.train(), x, y


QUESTIONS = {
    "weighted": plica.MinRadius(plica.WeightedLp(2, 0.5 + torch.rand(3, 8, 8))),
    "held": plica.MinRadius(plica.Held(plica.Lp(1), torch.arange(8) < 4)),
    "callable": plica.MinRadius(lambda x, z: ((z - x) ** 2).flatten(1).sum(1)),
    "flow": plica.MinRadius("theta", through=plica.Flow()),
    "turned": plica.MinRadius(plica.Lp(2), through=plica.HueSaturation()),
    "ball": plica.MaxLoss(plica.Lp(2), 0.3, loss="ce"),
    "l1.5 ball": plica.MaxLoss(plica.Lp(1.5), 0.3),
    "flow ball": plica.MaxLoss("theta", 2.0, through=plica.Flow()),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("callable", "turned") else n for n in QUESTIONS]
)
def test_points_are_harder_and_where_they_are_said_to_be(name):
    net, x, y = convolutional()
    net.eval()
    question = QUESTIONS[name]
    hard = Inner(question, gradients=8)(net, x, y)
    before, after = (nn.functional.cross_entropy(net(z), y, reduction="none")[1:] for z in (x, hard.x_adv))
    assert (after > before).all()
    assert hard.x_adv.min() >= 0
    assert hard.x_adv.max() <= 1
    assert hard.correct.tolist() == [False, True, True, True, True, True]
    if isinstance(question, plica.MinRadius):
        assert torch.equal(hard.x_adv[0], x[0])
        assert hard.gradients.tolist() == [1, 8, 8, 8, 8, 8]
        assert (hard.radius[1:] > 0).all()
        exact = plica.attack(net, x, y, question, gradients=20).distance
        found = exact.isfinite() & hard.correct
        assert found.any()
        assert (hard.radius[found] > 0.5 * exact[found]).all()
        assert (hard.radius[found] < 2 * exact[found]).all()
    elif question.through is None:
        assert (hard.distance <= 0.3 * (1 + 1e-4)).all()
    if question.through is None:
        torch.testing.assert_close(question.metric(x, hard.x_adv), hard.distance, rtol=1e-3, atol=1e-5)
    loss = hard.loss(net)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("method", ["auto", "lpa"])
def test_perceptual_adversarial_training_bounded_by_the_network_itself(method):
    net, x, y = convolutional()
    metric = plica.Perceptual.of(net, ["2"])
    hard = Inner(plica.MaxLoss(metric, 0.8, loss="ce"), gradients=8, method=method)(net, x, y)
    assert net.training
    net.eval()
    before, after = (nn.functional.cross_entropy(net(z), y) for z in (x, hard.x_adv))
    assert after > before + 0.1
    assert (hard.distance < 0.8 * (1.5 if method == "auto" else 1)).all()  # fast-lpa is not projected
    torch.testing.assert_close(metric(x, hard.x_adv), hard.distance, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_perceptual_radii_are_near_those_of_many_gradients():
    net, x, y = convolutional()
    net.eval()
    question = plica.MinRadius(plica.Perceptual.of(net, ["2"]))
    hard = Inner(question)(net, x, y)
    exact = Inner(question, gradients=40)(net, x, y).radius
    assert (hard.radius[1:] / exact[1:]).median() < 1.15


@pytest.mark.parametrize("pick", ["random", "estimate", "max", "msd"])
@pytest.mark.parametrize("radii", [None, (0.4, 0.03, 2.0)])
def test_a_union_answers_one_of_its_questions_for_each_image(pick, radii):
    net, x, y = convolutional()
    metrics, caps = (L2, LINF, L1), (0.8, 0.05, 5.0)
    if radii is None:
        if pick == "msd":
            with pytest.raises(plica.Unsupported, match="MaxLoss in l1, l2 and linf"):
                Union([plica.MinRadius(m) for m in metrics], pick)
            return
        union, limits = Union([plica.MinRadius(m) for m in metrics], pick, caps=caps), caps
    else:
        union, limits = (
            Union([plica.MaxLoss(m, r, loss="ce") for m, r in zip(metrics, radii, strict=True)], pick),
            radii,
        )
    hard = union(net, x, y)
    seen = set()
    for image, index in enumerate(hard.picked.tolist()):
        far = metrics[index](x[image : image + 1], hard.x_adv[image : image + 1])
        torch.testing.assert_close(far[0], hard.distance[image], rtol=1e-3, atol=1e-5)
        assert far <= limits[index] * (1 + 1e-4)
        seen.add(index)
    picked = [
        set(Union(union_questions(metrics, limits), "random", seed=s)(net, x, y).picked.tolist()) for s in range(8)
    ]
    assert all(len(one) == 1 for one in picked)
    assert len(set.union(*picked)) > 1
    assert (len(seen) == 1) if pick == "random" else hard.loss(net).isfinite()


def union_questions(metrics, radii):
    return [plica.MaxLoss(m, r) for m, r in zip(metrics, radii, strict=True)]


def test_the_largest_of_all_losses_is_no_less_than_that_of_each():
    net, x, y = convolutional()
    net.eval()
    questions = [plica.MaxLoss(L2, 0.4, loss="ce"), plica.MaxLoss(LINF, 0.03, loss="ce")]

    def losses(hard):
        return nn.functional.cross_entropy(net(hard.x_adv), y, reduction="none").detach()

    both = losses(Union(questions, "max")(net, x, y))
    assert (both >= torch.stack([losses(Inner(q)(net, x, y)) for q in questions]).amax(0) - 1e-5).all()


# In anyone's loop


def state_of(net):
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    return buffers, [p.grad for p in net.parameters()], [m.training for m in net.modules()], torch.get_rng_state()


@pytest.mark.parametrize("name", ["ball", "callable", "flow"])
def test_the_network_is_left_as_it_was(name):
    net, x, y = convolutional()
    net[1].eval()  # a mode of its own
    net[5].bias.requires_grad_(False)
    net(x).sum().backward()
    grads = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    before = state_of(net)
    with torch.no_grad():
        Inner(QUESTIONS[name])(net, x, y)
    after = state_of(net)
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert all(a is b for a, b in zip(before[1], after[1], strict=True))
    assert all(a is None or torch.equal(a, b) for a, b in zip(after[1], grads, strict=True))
    assert [p.requires_grad for p in net.parameters()][-1] is False
    assert not any(m._forward_hooks for m in net.modules())


def test_bfloat16_autocast_and_gradients_accumulated():
    net, x, y = convolutional()
    inner = Inner(plica.MinRadius(L2), cap=1.0)
    plain = inner(net, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        hard = inner(net, x, y)
        loss = hard.loss(net)
    assert hard.x_adv.dtype == torch.float32
    assert loss.dtype == torch.float32
    torch.testing.assert_close(hard.radius, plain.radius, rtol=0.1, atol=0.02)  # eight bits of logits
    net.eval()
    whole = torch.autograd.grad(inner(net, x, y).loss(net), net[5].weight)[0]
    for part in (slice(0, 3), slice(3, 6)):
        (inner(net, x[part], y[part]).loss(net) / 2).backward()
    torch.testing.assert_close(net[5].weight.grad, whole)


def test_images_in_half_precision_come_back_so():
    net, x, y = convolutional()
    hard = Inner(plica.MinRadius(L2))(net.bfloat16(), x.bfloat16(), y)
    assert hard.x_adv.dtype == torch.bfloat16
    assert hard.radius.dtype == torch.float32


@pytest.mark.parametrize(("outer", "weight"), [("plain", None), ("trades", None), ("trades", 1.0), ("mart", None)])
def test_outer_losses_are_those_of_their_papers(outer, weight):
    net, x, y = convolutional()
    net.eval()
    hard = Inner(plica.MaxLoss(L2, 0.3, loss="ce"))(net, x, y)
    p, q = (net(z).double().softmax(1).detach() for z in (x, hard.x_adv))
    every = torch.arange(6)
    divergence = (p * (p / q).log()).sum(1)
    expected = {
        "plain": -q[every, y].log(),
        "trades": -p[every, y].log() + (6.0 if weight is None else weight) * divergence,
        "mart": -q[every, y].log()
        - (1 - q.scatter(1, y[:, None], 0).amax(1)).log()
        + 5 * divergence * (1 - p[every, y]),
    }[outer].mean()
    torch.testing.assert_close(hard.loss(net, outer, weight).double(), expected, rtol=1e-4, atol=1e-5)


def test_noise_comes_from_the_seed_and_the_call_and_goes_on_from_a_saved_state():
    net, x, y = convolutional()
    question = plica.MaxLoss(plica.Perceptual.of(net, ["2"]), 0.3)
    one, other = Inner(question, seed=3), Inner(question, seed=3)
    first = one(net, x, y).x_adv
    assert torch.equal(first, other(net, x, y).x_adv)
    state = one.state_dict()
    second = one(net, x, y).x_adv
    assert not torch.equal(first, second)
    fresh = Inner(question)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(net, x, y).x_adv, second)
    with pytest.raises(ValueError, match="must be the state_dict"):
        fresh.load_state_dict({})


def test_the_scale_warms_up_radii_and_caps():
    net, x, y = convolutional()
    inner = Inner(plica.MaxLoss(L2, 0.4))
    inner.scale = 0.25
    assert (inner(net, x, y).distance <= 0.1 * (1 + 1e-4)).all()
    # the first of min(1.0, step / 1000): no cap stays none
    warming, full = (Inner(plica.MinRadius(L2)) for _ in range(2))
    warming.scale = 0.0
    torch.testing.assert_close(warming(net, x, y).x_adv, full(net, x, y).x_adv)
    warming.scale = -1.0
    with pytest.raises(ValueError, match="scale must be a number from 0"):
        warming(net, x, y)


def test_rows_that_are_not_finite_stay_and_are_seen():
    net, x, y = convolutional()

    def broken(z):
        return torch.where((z[:, 0, 0, 0] == x[2, 0, 0, 0])[:, None], torch.nan, 1.0) * net(z)

    for question in (plica.MinRadius(L2), plica.MaxLoss(L2, 0.3)):
        net.eval()
        hard = Inner(question)(broken, x, y)
        assert hard.radius.isnan().tolist() == [False, False, True] + [False] * 3
        assert hard.x_adv.isfinite().all()
        assert torch.equal(hard.x_adv[2], x[2])


def test_the_module_inside_ddp_is_run_compiled_or_not():
    class Compiled(nn.Module):  # as torch.compile makes it
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

    net = nn.Linear(2, 2)
    parallel, compiled = nn.DataParallel(net), Compiled(net)
    assert unwrapped(parallel) is net
    assert unwrapped(Compiled(parallel)) is net
    assert unwrapped(compiled) is compiled


@pytest.mark.slow
def test_points_are_found_under_inference_mode():
    """As where a loop validates: it was refused in the words of attacks."""
    net, x, y = convolutional()
    plain = Inner(plica.MinRadius(L2))(net, x, y)
    with torch.inference_mode():
        hard = Inner(plica.MinRadius(L2))(net, x.clone(), y)
        assert not hard.radius_of(net).requires_grad
    assert torch.equal(hard.x_adv, plain.x_adv)
    hard.loss(net).backward()


def test_a_compiled_model_gives_the_same_points():
    net, x, y = convolutional()
    net.eval()
    question = plica.MinRadius(LINF)
    plain = Inner(question)(net, x, y)
    hard = Inner(question)(torch.compile(net, backend="eager"), x, y)
    torch.testing.assert_close(hard.x_adv, plain.x_adv)


BAD = [
    (lambda net, x, y: Inner("l2"), TypeError, "question must be"),
    (lambda net, x, y: Inner(plica.MinRadius(L2), gradients=0), ValueError, "gradients must be at least 1"),
    (lambda net, x, y: Inner(plica.MinRadius(L2), cap=-1), ValueError, "cap must be a radius above 0"),
    (lambda net, x, y: Inner(plica.MaxLoss(L2, 1.0), cap=1.0), ValueError, "cap goes with MinRadius"),
    (lambda net, x, y: Inner(plica.MinRadius(L2), starts=2), ValueError, "go with MaxLoss"),
    (lambda net, x, y: Inner(plica.MaxLoss(L2, 1.0), starts=8), ValueError, "starts must be at most"),
    (lambda net, x, y: Inner(plica.MaxLoss(L2, 1.0), method="fgsm"), ValueError, "method must be one of"),
    (lambda net, x, y: Inner(plica.MaxLoss(lambda a, b: 0, 1.0), method="pgd"), plica.Unsupported, "fast-lpa"),
    (lambda net, x, y: Union([plica.MinRadius(L2)]), ValueError, "at least two"),
    (lambda net, x, y: Union([plica.MinRadius(L2)] * 2, "best"), ValueError, "pick must be one of"),
    (lambda net, x, y: Union([plica.MinRadius(L2)] * 2, "max"), ValueError, "give caps"),
    (lambda net, x, y: Inner(plica.MaxLoss(L2, math.inf))(net, x, y), ValueError, "must be finite"),
    (lambda net, x, y: Inner(plica.MinRadius(L2))(net, x, y).loss(net, "trades", -1), ValueError, "weight must be"),
    (lambda net, x, y: Union([plica.MinRadius(L2), plica.MaxLoss(L2, 1.0)], "max"), ValueError, "one kind"),
    (lambda net, x, y: Inner(plica.MinRadius(L2))(net, 255 * x, y), ValueError, "x must lie in bounds"),
    (lambda net, x, y: Inner(plica.MinRadius(L2))(net, x.double(), y), ValueError, "parameters are torch.float32"),
    (lambda net, x, y: Inner(plica.MaxLoss(L2, 1.0))(net, x.half(), y), ValueError, "x is torch.float16"),
    (lambda net, x, y: Inner(plica.MinRadius(L2))(net, x, y).radius_of(net.double()), ValueError, "x is torch.float32"),
    (lambda net, x, y: Inner(plica.MinRadius(L2))(net, x, y[:2]), ValueError, "y must have shape"),
    (lambda net, x, y: Inner(plica.MinRadius(L2))(net, x, y + 4), ValueError, "y must hold classes from 0 to 3"),
    (lambda net, x, y: Inner(plica.MaxLoss(L2, -1.0))(net, x, y), ValueError, "must not be negative"),
    (lambda net, x, y: Inner(plica.MinRadius(lambda a, b: a.sum()))(net, x, y), ValueError, "one distance"),
    (lambda net, x, y: Inner(plica.MinRadius(L2))(net[:1], x, y), ValueError, "logits"),
    (lambda net, x, y: Inner(plica.MinRadius(L2))("net", x, y), TypeError, "The model must be"),
    (lambda net, x, y: Inner(plica.MinRadius(L2), bounds=(-x[0], 1.0))(net, x, y), plica.Unsupported, "two numbers"),
    (lambda net, x, y: Inner(plica.MinRadius(L2))(net, x, y).loss(net, "awp"), ValueError, "outer must be one of"),
    (lambda net, x, y: Inner(plica.MaxLoss(L2, 0.1))(net, x, y).radius_of(net), plica.Unsupported, "MinRadius"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "said"), BAD, ids=[said for _, _, said in BAD])
def test_bad_input_raises_an_error_of_one_sentence(call, error, said):
    with pytest.raises(error, match=said):
        call(*convolutional())
