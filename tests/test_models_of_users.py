"""One network in the forms that people bring it in: the same radii as the plain one, or one sentence."""

import copy
import inspect
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import plica
from plica import Lp, MaxLoss, MinRadius, Status
from plica.core.model.eval_mode import eval_mode
from plica.core.model.fitting import ModelError

ASK = inspect.unwrap(plica.attack)  # wrong types are the point in some tests: past the type checker of the tests
L2 = MinRadius(Lp(2))


class Net(nn.Module):
    """Layers that answer otherwise in train mode, weights that require gradients."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(36, 4)

    def forward(self, x):
        return self.last(self.drop(self.norm(self.conv(x)).relu()).flatten(1))


with torch.random.fork_rng():
    torch.manual_seed(0)
    X = torch.rand(3, 3, 8, 8)
    NET = Net().eval()
Y = NET(X).argmax(1)
RADII = plica.attack(NET, X, Y, L2, gradients=10).distance


def copied():
    return copy.deepcopy(NET)


class Around(nn.Module):
    """What `form` makes of a network and its input."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = copied(), form

    def forward(self, x):
        return self.form(self.net, x)


class InBuffer(nn.Module):
    """Returns a view of its own memory, which the next call overwrites."""

    def __init__(self):
        super().__init__()
        self.net = copied()
        self.register_buffer("out", torch.zeros(512, 4))

    def forward(self, x):
        self.out = self.out.detach()
        self.out[: len(x)] = self.net(x)
        return self.out[: len(x)]


def hooked(clone):
    net = copied()
    net.conv.register_forward_hook(lambda module, inputs, output: output.clone() if clone else None)
    net.conv.register_full_backward_hook(lambda module, before, after: None)
    return net


def frozen():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch recommends another way
        return torch.jit.freeze(torch.jit.script(copied()))


def traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch recommends another way
        return torch.jit.trace(copied(), X)


def made_in_inference_mode():
    with torch.inference_mode():
        return copied()


def normed():
    net = copied()
    nn.utils.parametrizations.weight_norm(net.last)
    return net


FORMS = {
    "train mode": lambda: copied().train(),
    "channels last": lambda: copied().to(memory_format=torch.channels_last),
    "writes to its input": lambda: Around(lambda net, x: net(x.sub_(0.5).add_(0.5))),
    "memory of its own": InBuffer,
    "a view": lambda: Around(lambda net, x: torch.cat([net(x), net(x)], 1)[:, :4]),
    "transposed twice": lambda: Around(lambda net, x: net(x).T.contiguous().T),
    "wrapped twice": lambda: nn.DataParallel(nn.DataParallel(copied())),
    "hooks": lambda: hooked(False),
    "hooks that replace": lambda: hooked(True),
    "traced": traced,
    "frozen": frozen,
    "fx": lambda: torch.fx.symbolic_trace(copied()),
    "weight norm": normed,
    "a function": lambda: lambda x: NET(x),
    "vmap": lambda: torch.vmap(lambda x: NET(x[None])[0]),
    "log-probabilities": lambda: Around(lambda net, x: net(x).log_softmax(1)),
    "float64 output": lambda: Around(lambda net, x: net(x).double()),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_model_does_not_change_its_radii(form):
    model = FORMS[form]()
    modes = [module.training for module in model.modules()] if form == "train mode" else []
    result = plica.attack(model, X, Y, L2, gradients=10)
    torch.testing.assert_close(result.distance, RADII, rtol=2e-3, atol=0)
    assert not modes or modes == [module.training for module in model.modules()]


SHAPES = {
    "channels last": lambda: X.to(memory_format=torch.channels_last),
    "not contiguous": lambda: X.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "every other": lambda: X.repeat_interleave(2, 0)[::2],
    "requires grad": lambda: X.clone().requires_grad_(),
    "a parameter": lambda: nn.Parameter(X.clone()),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_layout_of_images_does_not_change_their_radii(shape):
    x = SHAPES[shape]()
    result = plica.attack(NET, x, Y, L2, gradients=10)
    torch.testing.assert_close(result.distance, RADII, rtol=2e-3, atol=0)
    assert torch.equal(x.detach(), X)
    assert not result.x_adv.requires_grad


def test_a_network_made_in_inference_mode_is_asked_without_gradients():
    net = made_in_inference_mode()
    result = plica.attack(net, X, Y, MaxLoss(Lp(math.inf), 0.5), gradients=20)
    assert set(result.status) == {Status.BLACK_BOX}
    assert bool((NET(result.x_adv).argmax(1) != Y)[result.success].all())


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e36])
def test_very_small_and_very_large_logits_have_the_same_radii(scale):
    """The square of a gradient of 1e20 is inf in float32, and that of 1e-20 is 0."""
    model = Around(lambda net, x: scale * net(x))
    torch.testing.assert_close(plica.attack(model, X, Y, L2, gradients=10).distance, RADII, rtol=2e-3, atol=0)
    inside = MaxLoss(Lp(math.inf), 0.1)
    found = [plica.attack(m, X, Y, inside, gradients=10).distance for m in (model, NET)]
    torch.testing.assert_close(*found, rtol=2e-3, atol=0)


class NanBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * math.nan


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ValueError("no way\nback")


@pytest.mark.parametrize("method", ["auto", "curved"])
@pytest.mark.parametrize("question", [L2, MaxLoss(Lp(2), 0.3)], ids=["min", "max"])
def test_the_status_says_that_a_gradient_is_nan(method, question):
    model = Around(lambda net, x: NanBackward.apply(net(x)))
    result = plica.attack(model, X, Y, question, method=method, gradients=6)
    assert result.status == [Status.NOT_FINITE] * 3
    assert not result.success.any()


def test_what_a_backward_pass_raises_is_told_as_the_model_s():
    with pytest.raises(ModelError, match=r"^The backward pass of the model raised ValueError: no way back\.$"):
        plica.attack(Around(lambda net, x: Raises.apply(net(x))), X, Y, L2)


REFUSED = {
    "a class": (Net, r"model must be a torch module or a function .*, got the class Net\.$"),
    "a name": ("net.py:make", r"model must be .*, got 'net\.py:make'\.$"),
    "none": (None, r"model must be .*, got None\.$"),
    "a dict": (lambda x: {"loss": 0.0, "out": NET(x)}, r"got dict; .*such as lambda x: model\(x\)\['out'\]\.$"),
    "features and logits": (lambda x: {"features": x, "logits": NET(x)}, r"such as lambda x: model\(x\)\['logits'\]"),
    "an object": (lambda x: SimpleNamespace(logits=NET(x)), r"such as lambda x: model\(x\)\.logits\.$"),
    "a tuple": (lambda x: (NET(x), x), r"got tuple; .*such as lambda x: model\(x\)\[0\]\.$"),
    "masked": (lambda x: NET(x) - torch.tensor([0.0, 0.0, 0.0, math.inf]), r"-1e4, in place of the -inf of a class"),
    "nan": (lambda x: NET(x) * math.nan, r"check its weights and the normalisation of x\.$"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_model_of_logits_is_refused_in_a_sentence(kind):
    model, message = REFUSED[kind]
    with pytest.raises((TypeError, ValueError), match=message):
        ASK(model, X, Y, L2)


def test_images_with_nan_are_named():
    x = X.clone()
    x[1:, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"^x must be numbers, but image 1 has nan pixels \(2 such images\)"):
        plica.attack(NET, x, Y, L2)


def test_modes_of_submodules_are_restored_one_by_one():
    net = copied()
    net.norm.train()
    with eval_mode(net):
        assert not any(module.training for module in net.modules())
    assert [name for name, module in net.named_modules() if module.training] == ["norm"]


def test_images_in_8_bit_floats_are_refused():
    with pytest.raises(TypeError, match=r"x is torch.float8_e4m3fn, .*write x.float\(\)"):
        ASK(NET, X.to(torch.float8_e4m3fn), Y, L2)
