"""plica.compat.AutoAttack: a script changes one import."""

import inspect

import numpy as np
import pytest
import torch

import plica
from linear import linear
from plica.compat import AutoAttack

NORMS = {"Linf": float("inf"), "L2": 2, "L1": 1}


@pytest.mark.parametrize("device", [None, "cpu"])
def test_labels_that_are_no_tensor_are_told_what_to_write(device):
    case = linear(classes=4)
    arguments = dict(attacks_to_run=["auto"], version="custom", norm="L2", eps=1.0, verbose=False)
    adversary = AutoAttack(case.model, device=device, **arguments)
    with pytest.raises(TypeError, match="y_orig must be an int64 tensor of class indices, got ndarray"):
        inspect.unwrap(AutoAttack.run_standard_evaluation)(adversary, case.x, case.y.numpy())


@pytest.mark.parametrize("norm", NORMS)
def test_points_labels_and_radius_are_those_promised(norm):
    case = linear(classes=4, shape=(3, 8, 8))
    eps = float(case.radius(NORMS[norm]).median()) * 1.0001
    adversary = AutoAttack(case.model, attacks_to_run=["auto"], version="custom", norm=norm, eps=eps, verbose=False)
    x_adv, y_adv = adversary.run_standard_evaluation(case.x, case.y, bs=3)
    broken = y_adv != case.y
    exact = case.radius(NORMS[norm])
    assert broken[exact < 0.99 * eps].all()
    assert not broken[exact > 1.01 * eps].any()
    assert torch.equal(case.model(x_adv).argmax(1), y_adv)
    assert (plica.Lp(NORMS[norm])(case.x.double(), x_adv.double()) <= eps).all()
    assert torch.equal(x_adv[~broken], case.x[~broken])
    alone = adversary.run_standard_evaluation(case.x, case.y, return_labels=False)
    assert torch.equal(alone, x_adv)
    assert adversary.clean_accuracy(case.x, case.y) == 1.0
    assert adversary.clean_accuracy(x_adv, case.y) == pytest.approx(1 - float(broken.double().mean()))


@pytest.mark.parametrize("eps", [0, 8 / 255, np.float32(0.1), torch.tensor(0.1)])
def test_numbers_of_every_kind_are_radii(eps):
    adversary = inspect.unwrap(AutoAttack.__init__)
    made = object.__new__(AutoAttack)
    adversary(made, linear().model, eps=eps, seed=np.int64(3))
    assert float(made.epsilon) == pytest.approx(float(eps))
    assert made.seed == 3


def test_clean_accuracy_of_one_logit_is_that_of_the_classes_0_and_logit():
    """The argmax of one column is 0, whatever the logit."""
    case = linear()
    for net in (lambda x: case.model(x).diff(dim=1), lambda x: case.model(x).diff(dim=1)[:, 0]):
        assert AutoAttack(net).clean_accuracy(case.x, case.y) == 1.0
        assert AutoAttack(net).clean_accuracy(case.x, 1 - case.y) == 0.0


def test_clean_accuracy_leaves_images_and_modes_as_they_are():
    class Net(torch.nn.Module):
        def forward(self, x):
            x.sub_(0.5)
            return (-1 if self.training else 1) * case.model(x + 0.5)

    case, net = linear(), Net().train()
    x = case.x.clone()
    assert AutoAttack(net).clean_accuracy(x, case.y, bs=2) == 1.0
    assert torch.equal(x, case.x)
    assert net.training


@pytest.mark.parametrize("name", ["clean_accuracy", "run_standard_evaluation"])
def test_images_that_are_none_are_refused_in_a_sentence(name):
    """It was a division by zero, "one device, got cpu and cpu", or an AttributeError."""
    case = linear()
    call = inspect.unwrap(getattr(AutoAttack, name))
    with pytest.raises(TypeError, match="x must be a torch tensor of images, got ndarray"):
        call(AutoAttack(case.model), case.x.numpy(), case.y)
    with pytest.raises(ValueError, match="with at least one image, got"):
        call(AutoAttack(case.model), case.x[:0], case.y[:0])


def test_it_needs_no_import_of_its_own():
    assert plica.compat.AutoAttack is AutoAttack


def test_each_attack_alone(tmp_path):
    case = linear(classes=4)
    adversary = AutoAttack(case.model, attacks=["auto", "pgd"], version="custom", norm="L2", eps=1.0, verbose=False,
                           log_path=tmp_path / "log.txt", device="cpu", seed=3)  # fmt: skip
    answers = adversary.run_standard_evaluation_individual(case.x, case.y, batch_size=2)
    assert set(answers) == {"auto", "pgd"}
    assert all((labels != case.y).all() for _, labels in answers.values())
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert log == ["robust accuracy after auto: 0.00%", "robust accuracy after pgd: 0.00%"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(norm="Lp"), "norm must be one of Linf, L2, L1"),
        (dict(version="random"), "standard, plus, rand or custom, got 'random'"),
        (dict(attacks_to_run=["square"]), "version='custom'"),
        (dict(version="custom"), "version='custom'"),
        (dict(version="custom", attacks_to_run=["bim"]), "no attack 'bim'"),
        (dict(is_tf_model=True), "PyTorch"),
    ],
)
def test_what_there_is_not_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        AutoAttack(lambda x: x, **arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(version="custom", attacks_to_run="apgd-ce"), "must be a list of names, such as .*, got 'apgd-ce'"),
        (dict(version="custom", attacks=7), "must be a list of names, such as .*, got 7"),
        (dict(version="custom", attacks_to_run=[["pgd"]]), r"There is no attack \['pgd'\]"),
        (dict(norm=["L2"]), r"norm must be one of Linf, L2, L1, got \['L2'\]"),
        (dict(eps="8/255"), "eps must be a number from 0, such as 8 / 255, got '8/255'"),
        (dict(eps=-0.1), "eps must be a number from 0.*got -0.1"),
        (dict(eps=float("nan")), "eps must be a number from 0.*got nan"),
        (dict(eps=torch.tensor([0.1, 0.2])), "eps must be a number from 0.*got tensor"),
        (dict(eps=None), "eps must be a number from 0.*got None"),
        (dict(seed="a"), "seed must be a whole number, got 'a'"),
        (dict(seed=-1), "seed must be at least 0, got -1"),
        (dict(device="nope"), "The device 'nope' cannot be used here; this machine has cpu"),
        (
            dict(log_path="nowhere/log.txt"),
            "log_path must be a file that can be written, got 'nowhere/log.txt': No such",
        ),
        (dict(log_path=3), "log_path must be a file that can be written, got '3'"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_a_sentence_before_any_work(arguments, said, tmp_path, monkeypatch):
    """A string was taken for its letters, a list was unhashable, and the log was missed after the first attack."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=said):
        inspect.unwrap(AutoAttack.__init__)(object.__new__(AutoAttack), linear().model, **arguments)


@pytest.mark.needs("pyautoattack")
def test_what_the_package_takes_is_taken_and_what_it_finds_is_found():
    package = pytest.importorskip("pyautoattack.autoattack").AutoAttack
    ours, theirs = (set(inspect.signature(kind.__init__).parameters) for kind in (AutoAttack, package))
    assert theirs <= ours
    for name in ("run_standard_evaluation", "run_standard_evaluation_individual", "clean_accuracy"):
        ours, theirs = (set(inspect.signature(getattr(kind, name)).parameters) for kind in (AutoAttack, package))
        assert theirs <= ours
    case = linear(classes=4, shape=(3, 8, 8))
    eps = float(case.radius(float("inf")).median()) * 1.0001
    spend = dict(norm="Linf", eps=eps, seed=0, version="custom", attacks=["apgd-ce"])
    (x_ours, y_ours), (x_theirs, y_theirs) = (
        kind(case.model, **spend).run_standard_evaluation(case.x, case.y, batch_size=6)
        for kind in (AutoAttack, package)
    )
    assert (x_ours.shape, x_ours.dtype, y_ours.dtype) == (x_theirs.shape, x_theirs.dtype, y_theirs.dtype)
    assert ((y_ours != case.y) | (y_theirs == case.y)).all()  # no image that it breaks is left standing


def test_the_version_for_models_that_answer_at_random():
    """Three classes by the first pixel alone, with noise: broken where most draws are, and only there."""
    pytest.importorskip("pyautoattack")
    x, y = torch.full((2, 1, 8, 8), 0.5), torch.tensor([1, 1])
    x[1, 0, 0, 0] = 0.9

    def net(x):
        first = x[:, 0, 0, 0] + 0.05 * torch.randn(len(x))
        return torch.stack([0.8 - first, 2 * first - 0.8, x[:, 0, 0, 1] - 1], 1)  # class 1 above 8 / 15

    x[0, 0, 0, 0] = 0.6
    adversary = AutoAttack(net, norm="Linf", eps=0.15, version="rand", verbose=False)
    assert adversary.attacks_to_run == ["apgd-ce", "apgd-dlr"]
    x_adv, labels = adversary.run_standard_evaluation(x, y)
    assert labels.tolist() == [0, 1]
    assert float(x_adv[0, 0, 0, 0]) < 8 / 15
    assert torch.equal(x_adv[1], x[1])
