"""precision="bf16": the search runs the model under autocast, what it finds is judged in the model's own precision."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import plica
from plica import Lp, MaxLoss, MinRadius, runs
from plica.cli.app import main
from plica.metrics import Unsupported

CLASSES = 5
NET = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 5),
    ).eval()
"""


class Seen(nn.Module):
    """Keeps for each run whether it was under autocast, and whether a gradient was asked for."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.runs = net, []

    def forward(self, x):
        half = torch.is_autocast_enabled("cpu")
        self.runs.append((half, torch.is_grad_enabled()))
        return self.net(x)


def case(count: int = 12):
    parts: dict = {}
    with torch.random.fork_rng():
        exec(compile(NET, "net", "exec"), parts)
        net = parts["make"]().requires_grad_(False)
    x = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    x = nn.functional.interpolate(x, 11, mode="bilinear")
    net[-1].bias -= net(x).mean(0)
    net[-1].weight *= 200
    net[-1].bias *= 200
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("metric", [Lp(2), Lp("inf")])
def test_radii_are_those_of_a_search_in_float32(precision, metric):
    net, x, y = case()
    own = plica.attack(net, x, y, MinRadius(metric), gradients=30)
    seen = Seen(net)
    half = plica.attack(seen, x, y, MinRadius(metric), gradients=30, precision=precision)
    assert half.success.all()
    assert (net(half.x_adv).argmax(1) != y).all()  # measured in float32
    assert (net.double()(half.x_adv.double()).argmax(1) != y).all()
    assert float((half.distance / own.distance).median()) < 1.03
    assert all(autocast for autocast, with_gradient in seen.runs if with_gradient)
    assert {autocast for autocast, with_gradient in seen.runs if not with_gradient} == {True, False}
    assert (half.gradients <= 30).all()
    assert (half.forwards <= 30 // 5 + 4).all()


class OtherInSmallBatches(nn.Module):
    """Has logits under autocast that depend on the size of the batch, as kernels of a GPU are chosen by it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x):
        out = self.net(x)
        return out * 1.02 if torch.is_autocast_enabled("cpu") and len(x) < 8 else out


def test_what_another_batch_changes_under_autocast_does_not_lengthen_radii():
    net, x, y = case()
    steady = plica.attack(net, x, y, MinRadius(Lp(2)), gradients=30, precision="bf16")
    other = plica.attack(OtherInSmallBatches(net), x, y, MinRadius(Lp(2)), gradients=30, precision="bf16")
    assert torch.equal(other.x_adv, steady.x_adv)


@pytest.mark.parametrize("method", ["auto", "pgd", "pwcf"])
def test_points_within_a_ball(method):
    net, x, y = case()
    radius = plica.attack(net, x, y, MinRadius(Lp(2)), gradients=30).distance.median()
    half = plica.attack(net, x, y, MaxLoss(Lp(2), float(radius)), gradients=20, method=method, precision="bf16")
    assert half.success.any()
    assert (net(half.x_adv[half.success]).argmax(1) != y[half.success]).all()
    assert (half.distance[half.success] <= radius).all()


class OnlyUnderAutocast(nn.Module):
    """Right everywhere, but under autocast wrong past a distance that it sees."""

    def forward(self, x):
        values = x.flatten(1)[:, :2]
        sure = torch.stack([values[:, 0] + 2, values[:, 1] * 0], 1)
        return sure.flip(1) * (values - 0.6) if torch.is_autocast_enabled("cpu") else sure


def test_a_point_that_succeeds_under_autocast_alone_is_not_reported():
    x = torch.full((3, 4), 0.5)
    question = MinRadius(Lp(2))
    result = plica.attack(OnlyUnderAutocast(), x, torch.zeros(3).long(), question, gradients=20, precision="bf16")
    assert not result.success.any()
    assert torch.equal(result.x_adv, x)


def test_an_image_that_autocast_alone_misclassifies_has_a_point():
    net, x, _ = case()
    y = net(x).argmax(1)
    found = plica.attack(net, x, y, MinRadius(Lp(2)), gradients=30).x_adv
    near = torch.cat([torch.lerp(x, found, share) for share in (0.99, 0.995, 0.999, 0.9995)])
    labels = y.repeat(4)
    right = net(near).argmax(1) == labels
    with torch.autocast("cpu", torch.bfloat16):
        assert (net(near[right]).argmax(1) != labels[right]).any()
    result = plica.attack(net, near, labels, MinRadius(Lp(2)), gradients=30, precision="bf16")
    assert result.success.all()
    assert (result.distance[right] > 0).all()


def test_perturbations_and_bounds_of_each_feature():
    net, x, y = case(4)
    flow = plica.attack(net, x, y, MinRadius("theta", plica.Flow()), gradients=20, precision="bf16")
    assert flow.theta is not None
    for result in (
        flow,
        plica.attack(
            net, x, y, MinRadius(Lp(2)), bounds=(x.amin() * 0, torch.full(x.shape[1:], 1.5)), precision="bf16"
        ),
    ):
        assert result.success.any()
        assert (net(result.x_adv[result.success]).argmax(1) != y[result.success]).all()


def test_a_public_attack():
    pytest.importorskip("foolbox")
    net, x, y = case(4)
    result = plica.attack(net, x, y, MinRadius(Lp(2)), method="fmn", gradients=30, precision="bf16")
    assert result.success.all()
    assert (net(result.x_adv).argmax(1) != y).all()


@pytest.mark.parametrize("precision", ["float16", "half", "", "BF16"])
def test_other_names_are_refused(precision):
    net, x, y = case(2)
    with pytest.raises(ValueError, match="choose from 'own', 'bf16', 'fp16'"):
        plica.attack(net, x, y, MinRadius(Lp(2)), precision=precision)


@pytest.mark.parametrize("more", [{"levels": 256}, {"draws": 4}])
def test_what_does_not_go_with_it(more):
    net, x, y = case(2)
    with pytest.raises(Unsupported, match="leave out"):
        plica.attack(net, x, y, MinRadius(Lp(2)), precision="bf16", **more)


def test_outputs_with_too_few_digits_are_refused():
    net, x, y = case(2)
    with pytest.raises(ValueError, match="bf16 cannot tell them apart; leave out the precision"):
        plica.attack(lambda z: net(z) + 1e4, x, y, MinRadius(Lp(2)), gradients=20, precision="bf16")


def test_a_model_that_does_not_run_so():
    net, x, y = case(2)

    def model(z):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("no kernel")
        return net(z)

    with pytest.raises(ValueError, match=r"does not run under autocast to bf16 .*leave out the precision"):
        plica.attack(model, x, y, MinRadius(Lp(2)), precision="bf16")


def command(*words) -> int:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main([str(word) for word in words]))
    return int(ended.value.code or 0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    _, x, y = case(4)
    np.savez(tmp_path / "d.npz", x=x.numpy(), y=y.numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


ASK = ["--model", "net.py:make", "--data", "d.npz", "--metric", "l2", "--gradients", 5]
SAID = "Searched under autocast to bf16, judged in the model's own precision."


def test_a_single_run_names_its_precision(folder, capsys):
    assert command("radius", *ASK, "--precision", "bf16", "--out", "run") == 0
    assert json.loads((folder / "run" / "summary.json").read_text())["arguments"]["precision"] == "bf16"
    assert command("show", "run") == 0
    assert SAID in capsys.readouterr().out
    assert command("radius", *ASK, "--precision", "bf8", "--out", "other") == 2
    assert "choose from 'own', 'bf16', 'fp16'" in capsys.readouterr().err


def test_a_run_of_a_plan_goes_on_with_the_same_precision_alone(folder, capsys):
    (folder / "plan.yaml").write_text(
        "models: net.py:make\ndata: d.npz\ngradients: 5\nprecision: bf16\nquestions: {ask: min-radius, metric: l2}\n"
    )
    assert command("evaluate", "plan.yaml", "--out", "run") == 0
    assert runs.load("run").manifest["plan"]["precision"] == "bf16"
    capsys.readouterr()
    assert command("show", "run") == 0
    assert SAID in capsys.readouterr().out
    assert command("evaluate", "plan.yaml", "--out", "run") == 0
    assert command("evaluate", "plan.yaml", "--precision", "own", "--out", "run") == 2
    assert 'precision is "bf16" there and null here' in capsys.readouterr().err
    (folder / "plan.yaml").write_text((folder / "plan.yaml").read_text().replace("bf16", "bf17"))
    assert command("evaluate", "plan.yaml", "--out", "run") == 2
    assert "there is no precision 'bf17'; known are own, bf16, fp16" in capsys.readouterr().err
