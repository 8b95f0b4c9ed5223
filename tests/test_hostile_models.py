"""Models that do what they should not: each is answered, or refused in one sentence that says that it is the model."""

import itertools
import math
import warnings

import pytest
import torch

import plica
from plica.core.model.fitting import ModelError

W = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
X = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
Y = (X.flatten(1) @ W).argmax(1)


def logits(x):
    return x.flatten(1) @ W


def raising(kind):
    def model(x):
        raise kind("told by the model")

    return model


CALLS = itertools.count()


def every_third(x):
    if next(CALLS) % 3 == 2:
        raise RuntimeError("now and then")
    return logits(x)


def drifting(x):
    return logits(x) + 1e-3 * next(CALLS)


def filled(value):
    return lambda x: logits(x) * 0 + value


def beyond(value):
    """Such a value away from the images."""
    return lambda x: logits(x).masked_fill((torch.cdist(x.flatten(1), X.flatten(1)).amin(1) > 0.1)[:, None], value)


MODELS = {
    **{kind.__name__: raising(kind) for kind in (RuntimeError, ValueError, KeyError, AssertionError, StopIteration)},
    "every third call": every_third,
    "drifting": drifting,
    "random": lambda x: logits(x) + torch.randn(len(x), 4),
    "nan": filled(math.nan),
    "inf": filled(math.inf),
    "nan away": beyond(math.nan),
    "inf away": beyond(math.inf),
    "-inf away": beyond(-math.inf),
    "huge": lambda x: logits(x) * 1e30,
    "tiny": lambda x: logits(x) * 1e-30,
    "constant": filled(1.0),
    "tied": lambda x: logits(x).round(),
    "none": lambda x: None,
    "a number": lambda x: 3.0,
    "a list": lambda x: logits(x).tolist(),
    "no rows": lambda x: logits(x)[:0],
    "too many rows": lambda x: logits(x).repeat(2, 1),
    "one class": lambda x: logits(x)[:, :1],
    "no class": lambda x: logits(x)[:, :0],
    "integers": lambda x: logits(x).long(),
    "complex": lambda x: logits(x).to(torch.complex64),
    "booleans": lambda x: logits(x) > 0,
    "transposed": lambda x: logits(x).T,
    "three axes": lambda x: logits(x)[:, None],
    "writes": lambda x: logits(x.mul_(2)),
    "writes to its output": lambda x: logits(x).relu_().add_(1),
    "detached": lambda x: logits(x.detach()),
    "nan gradient": lambda x: logits(x) + (x.flatten(1)[:, :1] * 0).sqrt(),
    "step": lambda x: logits((8 * x).floor() / 8),
}


@pytest.mark.parametrize("question", [plica.MinRadius(plica.Lp(2)), plica.MaxLoss(plica.Lp(math.inf), 0.1)], ids="rm")
@pytest.mark.parametrize("method", ["auto", "pwcf"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_model_is_answered_or_refused_in_a_sentence(kind, method, question):
    before, refusal, result = X.clone(), "", None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch, about complex numbers
        try:
            result = plica.attack(MODELS[kind], X, Y, question, method=method, gradients=6)
        except (ValueError, TypeError, ModelError) as error:
            refusal = str(error)
    assert torch.equal(X, before)
    if result is None:
        assert "\n" not in refusal
        assert "model" in refusal.lower()
    else:
        assert len(result) == len(X)
        assert result.x_adv.isfinite().all()
        assert (result.success == result.distance.isfinite()).all()
