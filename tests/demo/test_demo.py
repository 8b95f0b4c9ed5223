"""The network and the images that travel inside two wheels fit each other, and the table tells what was found."""

import math

import pytest
import torch

import plica
from examples import small_network
from plica import runs
from plica.cli import main
from plica.demo import CLASSES, images, resnet18, small_robust, small_undefended
from plica.demo.__main__ import NORMS, demo, table
from plica.demo.wheels import wheel
from plica.metrics import parse_metric

pytest.importorskip("foolbox", reason="the images are in the extra 'demo'")
pytest.importorskip("pyautoattack", reason="the weights are in the extra 'demo'")


def test_the_network_names_all_twenty_images():
    model, (x, y) = resnet18(), images()
    assert x.shape == (20, 3, 32, 32)
    assert torch.equal((x * 255).round() / 255, x)  # multiples of 1/255, as they were saved
    assert not model.training
    with torch.no_grad():
        assert torch.equal(model(x).argmax(1), y)


def test_the_robust_network_has_the_larger_radii():
    x, y = images()
    nets = [small_undefended(), small_robust()]
    assert not any(net.training for net in nets)
    both = (nets[0](x).argmax(1) == y) & (nets[1](x).argmax(1) == y)
    assert both.sum() >= 6
    for norm in NORMS:
        question = plica.MinRadius(parse_metric(norm))
        usual, robust = (plica.attack(net, x[both], y[both], question, gradients=20).distance for net in nets)
        assert robust.median() > 1.5 * usual.median()


def test_a_missing_wheel_says_how_to_get_it():
    with pytest.raises(ModuleNotFoundError, match=r'pip install "plica\[demo\]"'):
        wheel("no_such_wheel")


def test_the_table_has_a_line_per_image_and_the_median():
    x, ones = torch.zeros(3, 2), torch.ones(3, dtype=torch.int64)
    real = torch.tensor([0.25, math.inf, 0.75], dtype=torch.float64)
    answer = plica.Result(
        x_adv=x, success=real.isfinite(), distance=real, violation=real, stationarity=real, gradients=ones,
        forwards=ones, margin=real, prediction=ones * 8, seconds=real, status=[next(iter(plica.Status))] * 3,
    )  # fmt: skip
    lines = table(["cat", "dog", "ship"], {"l2": answer}).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "cat", "0.2500", "ship"],
        ["1", "dog", "not", "found"],
        ["2", "ship", "0.7500", "ship"],
        ["median", "0.7500"],
    ]


@pytest.mark.parametrize("network", [small_network, pytest.param(resnet18, marks=pytest.mark.slow)])
def test_the_demonstration_with_a_small_budget(network, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("plica.demo.__main__.resnet18", network)
    demo(tmp_path / "demo", gradients=10, n=2)
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"Picture: {tmp_path / 'demo' / 'perturbations.png'}"
    assert (tmp_path / "demo" / "perturbations.png").stat().st_size > 10_000
    assert [line[:24].split() for line in said.splitlines() if line.startswith("trained")] == [
        ["trained", "as", "usual", "2/2"],
        ["trained", "robust", "2/2"],
    ]
    assert f"report {tmp_path / 'demo'} -o report.html" in said
    model, labels = network(), images()[1][:2]
    page = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "demo"), "-o", str(page)]) == 0
    assert page.read_text().count("<li data-id=") == 2 * len(NORMS)
    assert CLASSES[int(labels[0])] in page.read_text()
    for norm in NORMS:
        run = runs.load(tmp_path / "demo" / norm)
        found = torch.tensor(run.samples["success"].to_pylist())
        with torch.no_grad():
            taken = model(next(run.points(run.tasks[0]))[1]).argmax(1)
        assert torch.equal(taken[found], torch.tensor(run.samples["prediction"].to_pylist())[found])
        assert (taken != labels)[found].all()
        assert found.any()
        assert CLASSES[int(taken[found][0])] in said
