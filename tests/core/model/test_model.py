"""The model as attacks see it: padded calls, counted images."""

import pytest
import torch

from plica.core.model.batching import MIN_ROWS, MULTIPLE, Arithmetic
from plica.core.model.counted import CountedModel
from plica.core.model.second_run import SecondRun

IMAGE = (3, 4)


class Recorder:
    """A model that keeps what it was given: logits are sums and square sums of the pixels."""

    def __init__(self):
        self.batches = []

    def __call__(self, x):
        self.batches.append(x.detach().clone())
        return torch.stack([x.flatten(1).sum(1), (x**2).flatten(1).sum(1), x.flatten(1)[:, 0]], 1)


def images(r):
    return torch.rand(r, *IMAGE, generator=torch.Generator().manual_seed(0))


def first(logits, rows):
    return logits[:, 1]


@pytest.mark.parametrize("r", [1, 2, 15, 16, 17, 40, 64, 100])
@pytest.mark.parametrize("most", [16, 48, 128])
def test_every_call_is_padded_and_no_larger_than_asked(r, most):
    model = Recorder()
    counted = CountedModel(model, r, most, Arithmetic(MULTIPLE, 1e-7))
    x, image = images(r), torch.arange(r)
    logits = counted.logits(x, image)
    values, again, grad = counted.gradient(x, image, first)
    assert {len(batch) % MULTIPLE for batch in model.batches} == {0}
    assert min(len(batch) for batch in model.batches) >= MIN_ROWS
    assert max(len(batch) for batch in model.batches) <= most
    with torch.no_grad():
        torch.testing.assert_close(logits, Recorder()(x), rtol=0, atol=0)
    assert torch.equal(again, logits)
    assert torch.equal(values, logits[:, 1])
    torch.testing.assert_close(grad, 2 * x, rtol=0, atol=0)
    assert not any(t.requires_grad for t in (logits, values, again, grad))


@pytest.mark.parametrize(("most", "largest"), [(1, 16), (15, 16), (16, 16), (31, 24), (100, 96)])
def test_any_batch_size_is_rounded_to_the_padding(most, largest):
    assert CountedModel(Recorder(), 1, most).max_rows == largest


def test_each_image_is_charged_for_its_own_rows():
    counted = CountedModel(Recorder(), 4)
    counted.logits(images(3), torch.tensor([2, 0, 2]))
    counted.gradient(images(4), torch.tensor([1, 1, 1, 3]), first)
    assert counted.forwards.tolist() == [1, 0, 2, 0]
    assert counted.gradients.tolist() == [0, 3, 0, 1]


def test_the_value_gets_the_slice_of_its_rows():
    """Across chunks, and never of a padding row."""
    counted = CountedModel(Recorder(), 40, max_rows=16, arithmetic=Arithmetic(MULTIPLE, 1e-7))
    weights, seen = torch.arange(40.0), []

    def value(logits, rows):
        seen.append((rows.start, rows.stop, len(logits)))
        return logits[:, 0] * weights[rows]

    values, logits, grad = counted.gradient(images(40), torch.arange(40), value)
    assert seen == [(0, 16, 16), (16, 32, 16), (32, 40, 8)]
    assert torch.equal(values, logits[:, 0] * weights)
    torch.testing.assert_close(grad, weights.view(-1, 1, 1).expand(40, *IMAGE))


def test_the_caller_s_tensor_is_left_alone():
    x = images(16)
    before = x.clone()

    def clamps(z):  # a model may work in place on what it is given
        with torch.no_grad():
            z.clamp_(0.2, 0.3)
        return z.flatten(1)

    counted = CountedModel(clamps, 16)
    counted.logits(x, torch.arange(16))
    assert torch.equal(x, before)
    assert not x.requires_grad


def test_gradients_are_found_where_they_are_switched_off():
    with torch.no_grad():
        *_, grad = CountedModel(Recorder(), 2).gradient(images(2), torch.arange(2), first)
    torch.testing.assert_close(grad, 2 * images(2))


def test_the_gradient_of_fixed_pixels_is_zero():
    fixed = torch.zeros(IMAGE, dtype=torch.bool)
    fixed[1, 2] = True
    _, _, grad = CountedModel(Recorder(), 3, fixed=fixed).gradient(images(3), torch.arange(3), first)
    torch.testing.assert_close(grad, 2 * images(3) * ~fixed, rtol=0, atol=0)


def test_logits_in_half_precision_arrive_in_that_of_the_images():
    """Their differences are exact there."""
    counted = CountedModel(lambda x: Recorder()(x).bfloat16(), 3)
    logits = counted.logits(images(3), torch.arange(3))
    assert torch.equal(logits, Recorder()(images(3)).bfloat16().float())
    assert counted.half
    *_, grad = counted.gradient(images(3), torch.arange(3), first)
    assert grad.dtype == torch.float32


def test_the_model_is_run_at_points_of_the_grid_of_each_image():
    """A grid of all images serves some of them; gradients pass straight through."""
    grid = lambda z, image: (z * 4).round() / 4 + image[:, None, None]  # noqa: E731
    model = Recorder()
    counted = CountedModel(model, 4, arithmetic=Arithmetic(MULTIPLE, 1e-7), grid=grid).of(torch.tensor([3, 1]))
    z, image = images(3), torch.tensor([1, 0, 1])
    expected = (z * 4).round() / 4 + torch.tensor([1.0, 3, 1])[:, None, None]
    assert torch.equal(counted.logits(z, image), Recorder()(expected))
    *_, grad = counted.gradient(z, image, first)
    torch.testing.assert_close(grad, 2 * expected)


class Double(torch.nn.Module):
    """Says in which precision, and how many rows at a time, it is run."""

    def __init__(self, half):
        super().__init__()
        self.half_inside, self.seen = half, []

    def forward(self, x):
        self.seen.append((x.dtype, len(x)))
        x = x.to(torch.bfloat16).to(x.dtype) if self.half_inside else x
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize(
    ("model", "runs"),
    [(Double(False), {(torch.float64, 3)}), (Double(True), {(torch.float32, 1)}), (None, {(torch.float32, 1)})],
)
def test_the_second_run_is_in_float64_or_of_each_image_alone(model, runs):
    """Alone where there is no copy in float64, or it would be another model."""
    seen = [] if model is None else model.seen
    function = model or (lambda x: seen.append((x.dtype, len(x))) or x.flatten(1)[:, :2])
    counted = CountedModel(function, 3)
    counted.first_logits(images(3))
    second = SecondRun(counted, torch.float32)
    seen.clear()
    out = second(images(3).double())
    assert out is not None
    assert (set(seen), out.dtype) == (runs, torch.float64)


def test_no_second_run_of_a_model_that_takes_one_size_of_batch():
    def fixed(x):
        if len(x) != 32:
            raise RuntimeError("32 images")
        return x.flatten(1)[:, :2]

    counted = CountedModel(fixed, 3)
    counted.first_logits(images(3))
    assert SecondRun(counted, torch.float32)(images(3).double()) is None


def test_a_known_slope_gives_the_same_gradient_whatever_the_model_does_to_it():
    def model(x):
        logits = x @ weight
        if logits.requires_grad:
            logits.register_hook(lambda grad: grad.mul_(2))
        return logits

    generator = torch.Generator().manual_seed(0)
    x, weight = torch.rand(3, 4, generator=generator), torch.randn(4, 5, generator=generator)
    slope, image, counted = torch.eye(5)[[1, 4, 2]], torch.arange(3), CountedModel(model, 3)
    _, _, expected = counted.gradient(x, image, lambda logits, part: (logits * slope[part]).sum(1))
    for _ in range(2):
        values, logits, grad = counted.gradient(x, image, lambda logits, part: 2 * logits, slope)
        assert torch.equal(grad, expected)
        assert torch.equal(values, 2 * logits)
