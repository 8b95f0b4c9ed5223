"""A network is judged by what it answers in the precision it runs in: half precision, autocast, a common offset."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import plica
from plica import Lp, MaxLoss, MinRadius

IMAGES, CLASSES = 12, 5


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, CLASSES),
        )  # fmt: skip
    return net.eval().requires_grad_(False)


class Shifted(nn.Module):
    def __init__(self, net: nn.Module, offset: float):
        super().__init__()
        self.net, self.offset = net, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.offset


class Autocast(nn.Module):
    """after: of the output, what a user may do with it."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, after=lambda z: z):
        super().__init__()
        self.net, self.dtype, self.after = net, dtype, after

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", self.dtype):
            return self.after(self.net(x))


def pictures(count: int, seed: int) -> Tensor:
    x = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.interpolate(x, 11, mode="bilinear") * 255).round() / 255


def case():
    """A network with logits of a few units, images, and labels of which two in three are its own."""
    net, x = network(), pictures(IMAGES, 1)
    net[-1].bias -= net(x).mean(0)
    net[-1].weight *= 200
    net[-1].bias *= 200
    y = net(x).argmax(1)
    y[::3] = (y[::3] + 1) % CLASSES
    return net, x, y


def prototypes():
    """The nearest of five pictures, logits -|x - m|^2 less what is common: boundaries lie many pixel values away."""
    m = pictures(CLASSES, 2).flatten(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(m.shape[1], CLASSES)).requires_grad_(False)
    x = pictures(IMAGES, 3)
    net[1].weight.copy_(2 * (m - m.mean(0)))
    net[1].bias.copy_(-(m**2).sum(1))
    net[1].bias -= net(x).mean()
    return net, x, net(x).argmax(1)


HALF = {
    "bfloat16": (lambda net: net.bfloat16(), torch.bfloat16),
    "float16": (lambda net: net.half(), torch.float16),
    "autocast": (lambda net: Autocast(net, torch.bfloat16), torch.float32),
    "autocast, logits in float32": (lambda net: Autocast(net, torch.float16, lambda z: z.float() / 1.7), torch.float32),
}
ALL = {
    "float32": (lambda net: net, torch.float32),
    "logits + 1e6": (lambda net: Shifted(net, 1e6), torch.float32),
    **HALF,
}


def model(name: str, net: nn.Module, x: Tensor):
    make, dtype = ALL[name]
    return make(copy.deepcopy(net)), x.to(dtype)


@torch.no_grad()
def wrong(net, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Whether each image is misclassified in calls of `size` rows."""
    return torch.cat([net(part) for part in x.split(size)]).argmax(1) != y


@pytest.mark.parametrize("name", HALF)
def test_half_precision_has_the_clean_accuracy_of_its_argmax(name):
    """A margin had to exceed half of the largest logit in bfloat16."""
    net, x, y = case()
    net, x = model(name, net, x)
    found = plica.attack(net, x, y, MaxLoss(Lp("inf"), 1e-3), gradients=20)
    assert torch.equal(found.distance == 0, wrong(net, x, y, IMAGES))
    assert (found.forwards[found.distance == 0] == 1).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_every_precision_has_the_radii_of_float32(name, p):
    """Of logits + 1e6 none had: a margin had to exceed 7.6."""
    net, x, y = prototypes()
    q = {1: torch.inf, 2: 2, "inf": 1}[p]
    weight, logits = net[1].weight.double(), net(x).double()
    away = (logits.gather(1, y[:, None]) - logits).scatter(1, y[:, None], torch.inf)
    far = torch.cdist(weight, weight, p=q)[y].scatter(1, y[:, None], 1)
    exact = (away / far).amin(1)  # but for the walls
    net, x = model(name, net, x)
    found = plica.attack(net, x, y, MinRadius(Lp(p)), gradients=40)
    assert found.success.all()
    ratio = found.distance / exact
    # pixels of bfloat16 are 1/256 apart, and its logits, as those beside 1e6, are known to a sixteenth
    assert ratio.median() < 1.06
    assert ratio.min() > 0.95


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("question", [MinRadius(Lp(2)), MaxLoss(Lp("inf"), 0.01)], ids=str)
def test_an_answer_holds_in_every_batch(name, question):
    net, x, y = case()
    net, x = model(name, net, x)
    found = plica.attack(net, x, y, question, gradients=40)
    assert found.x_adv.dtype == x.dtype
    assert found.success.any()
    for size in (1, 2, 7, IMAGES):
        assert wrong(net, found.x_adv, y, size)[found.success].all()
    if isinstance(question, MaxLoss):
        d = question.metric(x.double(), found.x_adv.double())
        assert (d[found.success] <= question.radius).all()
        torch.testing.assert_close(found.distance[found.success], d[found.success], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", HALF)
def test_half_precision_alone_and_in_a_batch(name):
    net, x, y = case()
    net, x = model(name, net, x)
    found = plica.attack(net, x, y, MinRadius(Lp(2)), gradients=25)
    for i in (1, 3, 4):
        alone = plica.attack(net, x[[i]], y[[i]], MinRadius(Lp(2)), gradients=25)
        assert torch.equal(alone.x_adv, found.x_adv[[i]])
        assert torch.equal(alone.distance, found.distance[[i]])


@pytest.mark.parametrize("name", ["bfloat16", "autocast"])
@pytest.mark.parametrize("method", ["pgd", "pwcf", "apgd-ce"])
def test_other_methods_in_half_precision(name, method):
    """Autocast raised "Index put requires the source and destination dtypes match"."""
    if method == "apgd-ce":
        pytest.importorskip("pyautoattack")
    net, x, y = case()
    net, x = model(name, net, x)
    found = plica.attack(net, x, y, MaxLoss(Lp("inf"), 0.02), method=method, gradients=30)
    assert (found.success & (found.distance > 0)).any()
    assert wrong(net, found.x_adv, y, IMAGES)[found.success].all()


@pytest.mark.parametrize("name", ["bfloat16", "autocast"])
def test_bounds_of_features_in_half_precision(name):
    net, x, y = case()
    net, x = model(name, net, x)
    low, high = torch.zeros_like(x[0]), torch.ones_like(x[0])
    high[0, :4] = low[0, :4] = 0.5
    x[:, 0, :4] = 0.5
    found = plica.attack(net, x, y, MinRadius(Lp(2)), gradients=40, bounds=(low, high))
    assert found.success.all()
    assert (found.x_adv[:, 0, :4] == 0.5).all()
    assert wrong(net, found.x_adv, y, 5)[found.success].all()
    torch.testing.assert_close(found.distance, Lp(2)(x.double(), found.x_adv.double()), rtol=1e-9, atol=1e-12)


def test_a_tie_is_no_success_in_half_precision():
    net, x, y = case()
    net, x = model("bfloat16", net, x)
    net[-1].weight[:2], net[-1].bias[:2] = 0, 50
    found = plica.attack(net, x, torch.ones_like(y), MaxLoss(Lp(2), 0.1), gradients=20)
    assert wrong(net, x, torch.ones_like(y), IMAGES).all()  # argmax takes the first of two equal logits
    assert not found.success.any()


def test_doubtful_margins_are_looked_at_once_more():
    """Recurrent layers sum in another order when they are given one image, in bfloat16 visibly."""

    class Noisy(nn.Module):
        def forward(self, x):
            change = 0.25 if len(x) == 1 else 0.0
            margin = x.flatten(1)[:, 0]
            return torch.stack([torch.ones_like(margin), 1 + margin - change], 1).bfloat16()

    x = torch.tensor([0.0, 0.125, 0.375, 1.0])[:, None]
    found = plica.attack(Noisy(), x, torch.zeros(4, dtype=torch.long), MaxLoss(Lp(2), 1e-6), gradients=20)
    assert found.success.tolist() == [False, False, True, True]  # 0.125 is not above what another batch changes
    assert found.forwards.tolist() == [2, 3, 2, 1]  # of the first two, one for the search's point


@pytest.mark.parametrize(
    ("method", "question"),
    [
        ("auto", MinRadius(Lp(2))),
        ("auto", MinRadius(Lp(0.5))),
        ("curved", MinRadius(Lp(2))),
        ("pwcf", MinRadius(Lp("inf"))),
        ("apgd-ce", MaxLoss(Lp("inf"), 0.004)),
        ("square", MaxLoss(Lp("inf"), 0.004)),
    ],
    ids=str,
)
def test_the_default_dtype_does_not_change_answers(method, question):
    """Answers moved by 3e-6 under torch.set_default_dtype(torch.float64); the curved search and peers raised."""
    if method in ("apgd-ce", "square"):
        pytest.importorskip("pyautoattack")
    net, x, y = case()
    usual = plica.attack(net, x[:4], y[:4], question, method=method, gradients=60)
    torch.set_default_dtype(torch.float64)
    try:
        other = plica.attack(net, x[:4], y[:4], question, method=method, gradients=60)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(usual.x_adv, other.x_adv)
    assert torch.equal(usual.distance, other.distance)


def test_a_perturbation_shorter_than_the_pixel_step_is_found_in_a_ball_that_has_the_step():
    """Of 0.75 the next pixels of bfloat16 are 1/256 away: a search that stops at six tenths of it was rounded back."""
    w = torch.ones(12, 2)
    w[:, 1] = 0

    def net(x):
        return (x.flatten(1) - 0.75) @ w.to(x) + torch.tensor([0.0, 12 * 0.6 / 256]).to(x)

    x, y = torch.full((2, 3, 2, 2), 0.75, dtype=torch.bfloat16), torch.tensor([1, 1])
    result = plica.attack(net, x, y, MaxLoss(Lp("inf"), 1 / 255), gradients=20)
    assert result.success.all()
    assert ((result.x_adv - x).abs() <= 1 / 256).all()
    assert not plica.attack(net, x, y, MaxLoss(Lp("inf"), 1 / 257), gradients=20).success.any()


def few_features(seed: int, features: int, classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = nn.Linear(features, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU()
        net, x = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(30, classes)), 0.2 + 0.6 * torch.rand(10, features)
    return net.requires_grad_(False), x, net(x).argmax(1)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "autocast"])
@pytest.mark.parametrize(("seed", "features", "classes", "most"), [(1, 5, 3, 1.2), (2, 64, 10, 1.5)])
def test_few_features_in_half_precision(name, seed, features, classes, most):
    """Exact steps took margins in few digits at their word: up to four of ten points were not found, radii up to four
    times as large; and the way of pixels towards the image took part of every perturbation back."""
    net, x, y = few_features(seed, features, classes)
    fine, half = (
        plica.attack(*asked, y, MinRadius(Lp(2)), gradients=20).distance for asked in ((net, x), model(name, net, x))
    )
    ratio = (half / fine)[fine.isfinite() & (fine > 0) & (half > 0)]
    assert len(ratio) >= 5
    assert (ratio < most).all()
    assert ratio.median() < 1.1
