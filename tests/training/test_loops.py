"""`Inner` in loops of several kinds ends with the weights that a plain loop ends with."""

import copy

import pytest
import torch
from torch import nn

import plica
from plica.training import Inner

STEPS = 4


class Loop:
    """A small network, four batches, and the weights that a plain loop trains on them."""

    def __init__(self):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
        self.x = torch.rand(STEPS, 8, 3, 8, 8)
        self.y = self.net(self.x.flatten(0, 1)).argmax(1).view(STEPS, 8)
        self.batches = list(zip(self.x, self.y, strict=True))

    def inner(self):
        return Inner(plica.MinRadius(plica.Lp(2)), cap=0.5)

    def optimizer(self, net):
        return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def plain(self, accumulated=1):
        """Trained by a plain loop, with a step of the optimiser after so many batches."""
        net, inner = copy.deepcopy(self.net), self.inner()
        optimizer = self.optimizer(net)
        for number, (x, y) in enumerate(self.batches, 1):
            (inner(net, x, y).loss(net) / accumulated).backward()
            if number % accumulated == 0:
                optimizer.step()
                optimizer.zero_grad()
        assert_different(net, self.net)
        return net


def assert_same(net, expected):
    state = {name.removeprefix("_orig_mod."): value for name, value in net.state_dict().items()}
    assert state.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6, msg=name)


def assert_different(net, other):
    pairs = zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in pairs)


@pytest.fixture
def loop():
    return Loop()


def test_gradients_of_several_batches_are_those_of_one(loop):
    """Two steps on two batches each, by accumulation, are two steps on batches of the double size."""
    net, inner = copy.deepcopy(loop.net), loop.inner()
    optimizer = loop.optimizer(net)
    for two in ((0, 1), (2, 3)):
        x, y = (torch.cat([t[i] for i in two]) for t in (loop.x, loop.y))
        optimizer.zero_grad()
        inner(net, x, y).loss(net).backward()
        optimizer.step()
    assert_same(loop.plain(accumulated=2), net)


@pytest.mark.slow
def test_a_compiled_network_is_trained_to_the_same_weights(loop):
    net, inner = torch.compile(copy.deepcopy(loop.net), backend="aot_eager"), loop.inner()
    optimizer = loop.optimizer(net)
    for x, y in loop.batches:
        optimizer.zero_grad()
        inner(net, x, y).loss(net).backward()
        optimizer.step()
    assert_same(net, loop.plain())


@pytest.mark.slow
@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # of accelerate, about the machine
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_loop_of_accelerate_ends_with_the_same_weights(loop, accumulated):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
    net, inner = copy.deepcopy(loop.net), loop.inner()
    net, optimizer = accelerator.prepare(net, loop.optimizer(net))
    for x, y in loop.batches:
        with accelerator.accumulate(net):
            accelerator.backward(inner(net, x, y).loss(net))
            optimizer.step()
            optimizer.zero_grad()
    assert_same(accelerator.unwrap_model(net), loop.plain(accumulated))


@pytest.mark.slow
@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # of Lightning, about the machine and the number of workers
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_module_of_lightning_ends_with_the_same_weights(loop, accumulated, tmp_path):
    lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")

    class Robust(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.inner = copy.deepcopy(loop.net), loop.inner()

        def training_step(self, batch, index):
            return self.inner(self.model, *batch).loss(self.model)

        def configure_optimizers(self):
            return loop.optimizer(self.model)

    module = Robust()
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, accumulate_grad_batches=accumulated, default_root_dir=tmp_path,
        **quiet,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(loop.batches, batch_size=None))
    assert_same(module.model, loop.plain(accumulated))
