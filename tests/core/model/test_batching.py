"""The padding that a network needs, and the size of call that takes least time per row."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from plica.api.batch import VECTORS, rows_on_gpu
from plica.core.model.batching import SMALLEST_ROWS, TIMED, Arithmetic, BatchSizeTuner, observe
from plica.core.model.counted import CountedModel

ROWS = 32


def net(act, width):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, width), act, nn.Linear(width, 16)).eval()


@pytest.mark.parametrize(
    ("act", "width", "multiple"),
    [
        (nn.ReLU(), 33, 8),  # exact wherever it stands
        (nn.SiLU(), 33, 32),
        (nn.SiLU(), 34, 16),
        (nn.SiLU(), 36, 8),
        (nn.SiLU(inplace=True), 33, 32),
        (nn.Tanh(), 40, 8),
    ],
)
def test_elementwise_functions_decide_the_multiple_of_rows(act, width, multiple):
    model, x = net(act, width), torch.rand(ROWS, 20)
    arithmetic = Arithmetic()
    out = observe(model, x, arithmetic)
    assert arithmetic.multiple == multiple
    assert torch.equal(out, model(x))


class Scaled(nn.Module):
    """A layer that computes with a few numbers of its own, and asks for one of its input."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5), requires_grad=False)

    def forward(self, x):
        return x / self.scale.exp().sum() if x.sum().isfinite() else x


def test_numbers_that_are_not_of_the_rows_ask_for_no_padding():
    arithmetic = Arithmetic()
    observe(Scaled(), torch.rand(ROWS, 20), arithmetic)
    assert arithmetic.multiple == 8


def test_the_first_call_is_observed():
    counted = CountedModel(net(nn.SiLU(), 33), 3)
    counted.logits(torch.rand(3, 20), torch.arange(3))
    assert (counted.arithmetic.multiple, counted.padded(3), counted.padded(33)) == (32, 32, 64)
    plain = CountedModel(net(nn.ReLU(), 33), 3, arithmetic=Arithmetic(8, 1e-7))
    assert (plain.padded(3), plain.padded(17)) == (16, 24)


@pytest.mark.parametrize("act", [nn.SiLU(), nn.ELU(), nn.Sigmoid()])
@pytest.mark.parametrize("width", [33, 34, 36])
def test_a_row_has_the_same_bits_in_every_batch(act, width):
    model, x = net(act, width), torch.rand(70, 20, generator=torch.Generator().manual_seed(2))

    def ask(rows):
        counted = CountedModel(model, len(rows))
        counted.logits(x[rows], torch.arange(len(rows)))
        return counted.gradient(x[rows], torch.arange(len(rows)), lambda logits, part: logits[:, 0])

    every = ask(list(range(70)))
    for rows in ([69], [3, 68], list(range(15, -1, -1)), list(range(40)), list(range(21, 70))):
        for part, whole in zip(ask(rows), every, strict=True):
            assert torch.equal(part, whole[rows])


def tuned(seconds, rows, calls=30):
    """The size chosen in the end, where a row of a call of p rows takes seconds(p)."""
    tuner = BatchSizeTuner()
    for _ in range(calls):
        size = min(tuner.size(rows), rows)
        tuner.record(size, size * seconds(size))
    return tuner.size(rows)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda p: 1 + 20 / p, 256),  # a call has a price
        (lambda p: 1 + p / 100, SMALLEST_ROWS),  # the cache is small
        (lambda p: 1 + 20 / p + p / 200, 64),
        (lambda p: 1.0, 256),  # no gain: as few calls as can be
    ],
)
def test_calls_are_as_large_as_runs_fastest(seconds, best):
    assert tuned(seconds, 256) == best


def test_every_size_is_timed_before_it_is_left():
    tuner = BatchSizeTuner()
    for rows, each in ((64, 1.0), (100, 1.2), (32, 0.9)):
        for _ in range(TIMED):
            assert tuner.size(100) == {64: 64, 100: 128, 32: 32}[rows]
            tuner.record(rows, rows * each)
    assert tuner.size(100) == 32
    assert tuner.size(20) == 32


def test_a_size_that_is_never_called_is_proposed_again():
    tuner = BatchSizeTuner()
    for _ in range(2 * TIMED):
        assert tuner.size(20) == 64
        tuner.record(24, 1.0)


def test_detecting_the_padding_does_not_import_a_compiler():
    """torch._dynamo takes a second to import."""
    code = (
        "import sys, torch; from plica.core.model.batching import Arithmetic, observe\n"
        "was = 'torch._dynamo' in sys.modules\n"
        "observe(torch.nn.SiLU(), torch.rand(16, 3), Arithmetic())\n"
        "sys.exit('torch._dynamo' in sys.modules and not was)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Hungry(nn.Module):
    """Takes no more rows than there is memory for."""

    def __init__(self, most):
        super().__init__()
        self.net, self.most, self.sizes = net(nn.ReLU(), 32), most, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.net(x)


def test_calls_are_halved_where_memory_ends():
    def ask(most, rows=100):
        x = torch.rand(rows, 20, generator=torch.Generator().manual_seed(0))
        model, image = Hungry(most), torch.arange(rows)
        counted = CountedModel(model, rows, 128, arithmetic=Arithmetic(8, 1e-7))
        out = counted.logits(x, image), *counted.gradient(x, image, lambda logits, _: logits[:, 0])
        assert counted.gradients.tolist() == counted.forwards.tolist() == [1] * rows  # of tries that failed nothing
        return out, counted, model

    plenty, scarce = ask(1000), ask(30)
    for one, other in zip(plenty[0], scarce[0], strict=True):
        assert torch.equal(one, other)
    assert scarce[1].max_rows == 24
    assert max(scarce[2].sizes[4:]) <= 30  # remembered
    with pytest.raises(torch.cuda.OutOfMemoryError):
        ask(8)


def test_rows_side_by_side_on_a_gpu():
    small, large = VECTORS * 3 * 32 * 32, VECTORS * 3 * 224 * 224
    assert [rows_on_gpu(free, small) for free in (0, 2**28, 2**33, 2**36)] == [16, 64, 1024, 1024]
    assert rows_on_gpu(70 * 2**30, large) == 256
    assert rows_on_gpu(70 * 2**30 + 2**29, large) == 256  # whatever the last megabytes are
