"""Models that take batches of one size, that leave autograd, or that are of another precision than x."""

import pytest
import torch
from torch import nn

import plica
from plica.core.model.fitting import fitted
from plica.core.model.gradient import NoGradientError
from plica.trust import examine

torch.manual_seed(0)
NET = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 4)).requires_grad_(False)
X = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = NET(X).argmax(1)
QUESTION = plica.MinRadius(plica.Lp(2))


def of_size(size):
    return lambda x: NET(x.view(size, 48))


@pytest.mark.parametrize("size", [1, 4, 7, 16, 64, 100])
def test_a_model_of_one_batch_size_is_run_so_and_answers_as_without(size):
    """16 is what the first call is padded to, and later ones not."""
    with pytest.warns(UserWarning, match=f"run with {size} at a time"):
        asked = plica.attack(of_size(size), X, Y, QUESTION, gradients=20)
    free = plica.attack(NET, X, Y, QUESTION, gradients=20)
    assert asked.success.all()
    assert torch.allclose(asked.distance, free.distance, rtol=1e-3)


def test_a_module_of_one_batch_size_stays_a_module():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.drop = NET, nn.Dropout()

        def forward(self, x):
            return self.drop(self.net(x.reshape(5, 48)))

    model = fitted(Fixed().train())
    assert isinstance(model, nn.Module)
    with pytest.warns(UserWarning, match="run with 5 at a time"):
        assert plica.attack(Fixed().train(), X, Y, QUESTION, gradients=20).success.all()


def test_an_image_that_the_model_refuses_is_not_taken_for_a_matter_of_batches():
    def picky(x):
        if bool((x[:, 0, 0, 0] == X[3, 0, 0, 0]).any()):
            raise RuntimeError("no such image")
        return NET(x)

    with pytest.raises(RuntimeError, match="no such image"):  # warnings are errors here, and would come before it
        plica.attack(picky, X, Y, QUESTION, gradients=5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_model_of_another_precision_is_named_with_both_ways_out(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).to(dtype)
    with pytest.raises(ValueError, match=rf"parameters are {dtype} and x is torch.float32; write x.to\({dtype}\)"):
        plica.attack(model, X, Y, QUESTION, gradients=5)


def test_a_model_without_numbers_is_not_told_to_move():
    """model.to('cpu') fails where there is nothing to copy."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4, device="meta"))
    with pytest.raises(ValueError, match=r"weights without numbers, on the device meta; make it on cpu, .*to_empty"):
        plica.attack(model, X, Y, QUESTION, gradients=5)


class NoGrad(nn.Module):
    @torch.no_grad()
    def forward(self, x):
        return NET(x)


class Inference(nn.Module):
    @torch.inference_mode()
    def forward(self, x):
        return NET(x)


class Own(nn.Module):
    """Connected to a parameter and not to x."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * NET(x.detach())


class Passing(nn.Module):
    """Connected to a parameter that lives for one call."""

    def forward(self, x):
        return nn.Parameter(torch.ones(())) * NET(x.detach())


class Rounded(torch.autograd.Function):
    """Without a backward pass."""

    @staticmethod
    def forward(ctx, x):
        return (8 * x).round() / 8


def integers(x):
    return NET((255 * x).long() / 255)


LEAVERS = {
    "no_grad": NoGrad(),
    "inference_mode": Inference(),
    "detach": lambda x: NET(x.detach()),
    "parameters alone": Own(),
    "a passing parameter": Passing(),
    "numpy": lambda x: NET(torch.from_numpy(x.numpy().copy())),
    "integers": integers,
    "no backward": lambda x: NET(Rounded.apply(x)),
}


@pytest.mark.parametrize(
    "method", ["pwcf", "radius", "curved", pytest.param("ddn", marks=pytest.mark.needs("foolbox"))]
)
@pytest.mark.parametrize("kind", LEAVERS)
def test_a_model_without_gradient_is_told_the_ways_out(kind, method):
    with pytest.raises(NoGradientError, match=r"no gradient .* straight-through"):
        plica.attack(LEAVERS[kind], X, LEAVERS[kind](X).argmax(1), QUESTION, method=method, gradients=10)


def test_weights_of_inference_mode_are_told_apart():
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 4))
        y = model(X).argmax(1).clone()
    with pytest.raises(NoGradientError, match=r"made under torch\.inference_mode"):
        plica.attack(model, X, y, QUESTION, method="pwcf", gradients=10)


def test_plica_asked_under_inference_mode_answers_as_outside():
    with torch.inference_mode():
        inside = plica.attack(NET, X.clone(), Y.clone(), QUESTION, gradients=20)
    outside = plica.attack(NET, X, Y, QUESTION, gradients=20)
    assert torch.equal(inside.x_adv, outside.x_adv)


def test_a_model_that_writes_to_its_input_answers_as_one_that_does_not():
    def writes(x):
        return NET(x.sub_(0.5).mul_(2))

    before = X.clone()
    wrote = plica.attack(writes, X, writes(X.clone()).argmax(1), QUESTION, gradients=20)
    calm = plica.attack(lambda x: NET((x - 0.5) * 2), X, writes(X.clone()).argmax(1), QUESTION, gradients=20)
    assert torch.equal(X, before)
    assert torch.equal(wrote.x_adv, calm.x_adv)


def test_a_model_that_writes_to_its_input_leaves_images_as_they_are():
    """It was said to answer at random and to take only one batch size, and the pixels to lie outside their bounds."""

    class InPlace(nn.Module):
        def forward(self, x):
            return NET(x.sub_(0.5))

    x, model = X.clone(), fitted(InPlace())
    for _ in range(3):
        assert torch.equal(model(x), NET(X - 0.5))
        assert torch.equal(x, X)
    found = {finding.check for finding in examine(InPlace(), x, Y, images=2).findings}
    assert not found & {"pixels", "random outputs"}


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (X.to("meta"), "device meta"),
        (X.to_sparse(), r"dense tensor, got torch.sparse_coo; write x.to_dense\(\)"),
    ],
    ids=["meta", "sparse"],
)
def test_images_without_numbers_of_their_own_are_refused(x, said):
    with pytest.raises((TypeError, ValueError), match=said):
        plica.attack(NET, x, Y, QUESTION)
