"""Distances between features: their definition, their roots, the layers of a network, LPIPS on published weights."""

import pytest
import torch
from torch import nn

import shared_data
from plica import LPIPS, Lp, Perceptual
from plica.metrics import distance, gradient, parse_metric

WEIGHTS = shared_data.SHARED / "models" / "lpips_alex.safetensors"


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6)
        )


def images(b=4, size=11, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(b, 3, size, size, generator=generator, dtype=dtype)
    return x, (x + 0.05 * torch.randn(x.shape, generator=generator, dtype=dtype)).clamp(0, 1)


def needs_weights():
    if not WEIGHTS.exists():
        pytest.skip(f"needs LPIPS weights, looked for at {WEIGHTS}")
    return WEIGHTS


@pytest.mark.parametrize("p", [1, 1.5, 2, 4, "inf"])
def test_definition(p):
    """Unit channel vectors over the root of the number of places, in plain loops."""
    net, (x, x_adv) = network(), images(dtype=torch.float64)
    net = net.double()

    def phi(image):
        first = net[1](net[0](image[None]))
        second = net[3](net[2](first))
        features = []
        for maps in (first[0], second[0]):
            _, h, w = maps.shape
            features += [maps[:, i, j] / max(maps[:, i, j].norm(), 1e-30) / (h * w) ** 0.5
                     for i in range(h) for j in range(w)]  # fmt: skip
        return torch.cat(features)

    expected = torch.stack([torch.linalg.vector_norm(phi(b) - phi(a), float(p)) for a, b in zip(x, x_adv, strict=True)])
    metric = Perceptual.of(net, ["1", "3"], p=p)
    torch.testing.assert_close(metric(x, x_adv), expected, rtol=1e-6, atol=0)  # LEAST is 1e-10
    assert str(metric) == f"perceptual l{float(p):g}"


def test_layers_and_a_function_are_one_metric():
    net, (x, x_adv) = network(), images()

    def features(z):
        first = net[:2](z)
        return [first, net[2:4](first)]

    assert torch.equal(Perceptual.of(net, ["1", "3"])(x, x_adv), Perceptual(features)(x, x_adv))


@pytest.mark.parametrize("p", [1, 1.5, 2, 4, "inf"])
def test_gradient(p):
    """Against finite differences, in float64."""
    metric, (x, x_adv) = Perceptual.of(network().double(), ["1", "5"], p=p), images(b=2, dtype=torch.float64)
    _, grad = gradient(metric, x, x_adv)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h = 1e-7  # no kink of the ReLUs lies so near these images
    slope = (metric(x, x_adv + h * direction) - metric(x, x_adv - h * direction)) / (2 * h)
    torch.testing.assert_close((grad * direction).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("p", [1, 1.5, 2, 4, "inf"])
def test_at_the_image_itself(p):
    metric, (x, _) = Perceptual.of(network(), ["1", "3"], p=p), images()
    value, grad = gradient(metric, x, x.clone())
    assert (value == 0).all()
    assert (grad == 0).all()


def test_channel_vectors_that_are_all_zero():
    """A ReLU that is silent everywhere: the root of 0 has an infinite slope."""

    def silent(z):
        return [(z - 2).relu(), z]

    metric, (x, x_adv) = Perceptual(silent), images()
    value, grad = gradient(metric, x, x_adv)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    assert grad.abs().amax() > 0


def test_the_mode_of_the_network_is_restored():
    net, (x, x_adv) = nn.Sequential(network()[0], nn.Dropout(0.5), nn.Conv2d(5, 2, 3)), images()
    net.train()
    net[0].eval()
    metric = Perceptual.of(net, ["1", "2"])
    assert torch.equal(metric(x, x_adv), metric(x, x_adv))
    assert [m.training for m in net] == [False, True, True]
    assert net.training
    assert not net[1]._forward_hooks


def test_distances_of_a_float32_network_are_had_in_float64():
    net, (x, x_adv) = network(), images()
    found = distance(Perceptual.of(net, ["1", "3"]), x, x_adv)
    fine = Perceptual.of(network().double(), ["1", "3"])(x.double(), x_adv.double())
    assert torch.equal(found, fine)
    assert net[0].weight.dtype == torch.float32


def test_wrong_layers_and_features():
    with pytest.raises(ValueError, match=r"got 'conv'; .*The module has 0, 1, 2, 3, 4, 5"):
        Perceptual.of(network(), ["conv"])
    with pytest.raises(ValueError, match="needs names of layers, got None"):
        Perceptual.of(network(), [])
    with pytest.raises(TypeError, match="use Perceptual\\.of"):
        Perceptual(["1"])
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, got function"):
        Perceptual.of(lambda z: z, ["1"])
    with pytest.raises(ValueError, match="must be at least 1"):
        Perceptual(network(), p=0.5)
    x, x_adv = images()
    with pytest.raises(ValueError, match="must return a list of tensors"):
        Perceptual(lambda z: z)(x, x_adv)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of torchvision, on how the package calls it
def test_lpips_equals_the_package():
    lpips = pytest.importorskip("lpips", reason="needs the package lpips")
    state = LPIPS(needs_weights())._state[torch.float32, torch.device("cpu")]
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    trunk = {key.split(".", 1)[1]: value for key, value in state.items() if key.startswith("features.")}
    for stage in (theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4, theirs.net.slice5):
        stage.load_state_dict({key: trunk[key] for key in stage.state_dict()})
    x, x_adv = images(b=3, size=64)
    with torch.no_grad():
        expected = theirs(x, x_adv, normalize=True).flatten()
    torch.testing.assert_close(LPIPS(WEIGHTS)(x, x_adv), expected, rtol=1e-4, atol=1e-7)  # float32, another order
    for i in range(5):
        assert torch.equal(theirs.lins[i].model[1].weight, state[f"lin{i}.weight"])


def test_lpips_is_smooth_at_the_image_and_known_in_float64():
    metric, (x, x_adv) = LPIPS(needs_weights(), resize=64), images(b=2, size=32)
    value, grad = gradient(metric, x, x.clone())
    assert (value == 0).all()
    assert (grad == 0).all()
    fine = distance(metric, x, x_adv)
    torch.testing.assert_close(metric(x, x_adv).double(), fine, rtol=1e-4, atol=0)
    assert not torch.equal(metric(x, x_adv).double(), fine)
    torch.testing.assert_close(Lp(2).norm(metric.embed(x_adv) - metric.embed(x)).double() ** 2, fine, rtol=1e-4, atol=0)


def test_lpips_without_weights_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("PLICA_LPIPS", raising=False)
    with pytest.raises(FileNotFoundError, match=r"give LPIPS\(weights=file\).*Nothing is downloaded"):
        parse_metric("lpips")
    monkeypatch.setenv("PLICA_LPIPS", str(tmp_path / "none.safetensors"))
    with pytest.raises(FileNotFoundError, match="There is no weights file"):
        LPIPS()


def test_lpips_takes_what_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("lpips", reason="needs the package lpips")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("PLICA_LPIPS", raising=False)
    state = LPIPS(needs_weights())._state[torch.float32, torch.device("cpu")]
    (tmp_path / "checkpoints").mkdir()
    trunk = {key: value for key, value in state.items() if key.startswith("features.")}
    torch.save({**trunk, "classifier.6.bias": torch.zeros(3)}, tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    x, x_adv = images(b=2, size=64)
    assert torch.equal(LPIPS()(x, x_adv), LPIPS(WEIGHTS)(x, x_adv))
    monkeypatch.setenv("PLICA_LPIPS", str(WEIGHTS))
    assert torch.equal(parse_metric("lpips")(x, x_adv), LPIPS(WEIGHTS)(x, x_adv))


def test_lpips_refuses_what_is_not_rgb():
    with pytest.raises(ValueError, match=r"takes RGB images \(b, 3, height, width\), got \(2, 1, 64, 64\)"):
        LPIPS(needs_weights())(torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64))
    with pytest.raises(ValueError, match="must be one of alex, vgg, got 'squeeze'"):
        LPIPS(net="squeeze")
    with pytest.raises(ValueError, match=r"lack features\.2\.weight; give the weights of this net"):
        LPIPS(WEIGHTS, net="vgg")
