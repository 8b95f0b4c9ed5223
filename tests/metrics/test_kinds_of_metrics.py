"""Distances by name, their mixtures, and what is said of a bad one before any work."""

import math

import pytest
import torch
from torch import nn

import plica
from plica import CIEDE2000, Largest, Lp, Similarity, Wasserstein
from plica.attacks import prox_settings
from plica.core.metric_checks import check_metric
from plica.metrics import MetricProperties, Sum, WeightedLp, distance, gradient, parse_metric, properties
from plica.metrics.quality import MEASURES

LARGE = ("ms-ssim", "iw-ssim", "srsim", "vif")  # need 161, or 41, pixels


def images(b=3, size=32, dtype=torch.float32, seed=0):
    """Smooth images, so that no measure meets a flat patch, and noisy ones."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(b, 3, size // 4, size // 4, generator=generator, dtype=dtype)
    x = 0.1 + 0.8 * nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return x, (x + 0.02 * torch.randn(x.shape, generator=generator, dtype=dtype)).clamp(0, 1)


@pytest.mark.parametrize("name", MEASURES)
def test_measures_of_piq(name):
    piq = pytest.importorskip("piq", reason="needs the extra perceptual")
    function, similarity, singular = MEASURES[name]
    x, x_adv = images(2, 192 if name in LARGE else 32)
    metric = parse_metric(name)
    assert metric == Similarity(name)
    assert str(metric) == name
    expected = getattr(piq, function)(x_adv, x, data_range=1.0, reduction="none").view(2)
    value, grad = gradient(metric, x, x_adv)
    assert torch.equal(value, 1 - expected if similarity else expected)
    assert (value > 0).all()
    assert grad.isfinite().all()
    assert metric(x, x.clone()).abs().amax() < 1e-5
    assert properties(metric).singular_at_x == singular
    assert bool(gradient(metric, x, x.clone())[1].isnan().any()) == singular


def test_small_images_are_refused_or_enlarged():
    pytest.importorskip("piq", reason="needs the extra perceptual")
    x, x_adv = images()
    with pytest.raises(ValueError, match=r"raised ValueError for images of shape \(2, 3, 32, 32\).*at least 161x161"):
        check_metric(Similarity("ms-ssim"), x)
    check_metric(Similarity("ms-ssim", resize=176), x)
    assert (Similarity("ms-ssim", resize=176)(x, x_adv) > 0).all()


def test_a_point_a_little_outside_the_box_has_a_distance_and_a_gradient():
    pytest.importorskip("piq", reason="needs the extra perceptual")
    x, x_adv = images()
    out = x_adv.clone()
    out[:, :, 0, 0] = 1.01
    value, grad = gradient(Similarity("ssim"), x, out)
    assert torch.equal(value, Similarity("ssim")(x, out.clamp(0, 1)))
    assert (grad[:, :, 0, 0] != 0).all()


def test_names_of_measures():
    with pytest.raises(ValueError, match=r"no similarity 'sim'; did you mean .ssim.*choose from ssim, ms-ssim"):
        Similarity("sim")
    assert parse_metric("ciede2000") == CIEDE2000()
    assert parse_metric("wasserstein") == Wasserstein()
    with pytest.raises(ValueError, match=r"There is no metric 'psnr'; write l1, .*lpips, ciede2000, wasserstein, ssim"):
        parse_metric("psnr")


def features(x):
    """Two feature maps of a fixed random network."""
    generator = torch.Generator().manual_seed(5)
    w, v = (torch.randn(shape, generator=generator).to(x) for shape in ((4, 3, 3, 3), (6, 4, 3, 3)))
    first = nn.functional.conv2d(x, w, stride=2).relu()
    return [first, nn.functional.conv2d(first, v, stride=2).relu()]


@pytest.mark.parametrize("weighted", [False, True])
def test_dists_is_that_of_piq_on_the_same_maps(weighted):
    piq = pytest.importorskip("piq", reason="needs the extra perceptual")
    x, x_adv = images(dtype=torch.float64)
    alpha, beta = (torch.rand(13, generator=torch.Generator().manual_seed(n), dtype=x.dtype) for n in (1, 2))
    metric = plica.DISTS(features, alpha, beta) if weighted else plica.DISTS(features)
    if not weighted:  # every layer alike, every channel of a layer too
        alpha = beta = torch.cat([torch.full((c,), 1 / 6 / c, dtype=x.dtype) for c in (3, 4, 6)])
    maps = [[t, *features(t)] for t in (x_adv, x)]
    means, covariances = torch.cat(piq.DISTS.compute_distance(None, *maps), 1).flatten(1).split(13, 1)
    expected = 1 - (means * alpha + covariances * beta).sum(1) / (alpha + beta).sum()
    value, grad = gradient(metric, x, x_adv)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    assert grad.isfinite().all()
    assert torch.equal(metric(x, x.clone()), torch.zeros(3).to(x))
    assert torch.equal(gradient(metric, x, x.clone())[1], torch.zeros_like(x))


def test_dists_does_not_see_where_a_texture_lies_as_a_norm_does():
    """A shifted texture has other pixels and the same means: it is nearer by DISTS than the flat patch that l_2 takes
    for nearer."""
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shifted, flat = x.roll(1, 3), torch.full_like(x, 0.5)
    metric = plica.DISTS(lambda t: [nn.functional.avg_pool2d(t, 2)])
    assert metric(x, shifted) < metric(x, flat)
    assert Lp(2)(x, shifted) > Lp(2)(x, flat)


def test_what_is_no_dists():
    x, x_adv = images()
    with pytest.raises(TypeError, match=r"use DISTS\.of"):
        plica.DISTS(3)
    with pytest.raises(ValueError, match="alpha and beta together"):
        plica.DISTS(features, torch.ones(13))
    with pytest.raises(ValueError, match="need 13 weights"):
        plica.DISTS(features, torch.ones(3), torch.ones(3))(x, x_adv)
    with pytest.raises(ValueError, match=r"shape \(b, channels, height, width\)"):
        plica.DISTS(lambda t: [t.flatten(1)])(x, x_adv)


def test_wasserstein_of_a_moved_point():
    """A point of light moved by s costs s^2 / 2, whatever lies dark around it; twice the way four times as much."""
    pytest.importorskip("geomloss", reason="needs the extra perceptual")
    x = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    x_adv = x.clone()
    x[:, :, 2, 2] = 1
    x_adv[0, 0, 2, 3] = x_adv[1, 0, 2, 4] = x_adv[2, 0, 5, 6] = 1
    expected = torch.tensor([1, 4, 9 + 16], dtype=torch.float64) / 64 / 2
    torch.testing.assert_close(Wasserstein()(x, x_adv), expected, rtol=1e-2, atol=0)  # entropy, and LEAST in the dark
    assert Wasserstein()(x, x.clone()).abs().amax() < 1e-9


def test_wasserstein_sees_light_that_is_added():
    pytest.importorskip("geomloss", reason="needs the extra perceptual")
    x, _ = images(2, 8, torch.float64)
    torch.testing.assert_close(
        Wasserstein(mass=2)(x, 0.9 * x), torch.full((2,), 2 * 3 * 0.01).double(), rtol=1e-4, atol=0
    )


def test_sums():
    def shift(x, x_adv):
        return (x_adv - x).flatten(1).mean(1).abs()

    x, x_adv = images()
    mixed = 0.5 * Lp(2) + shift + 3 * (CIEDE2000() + 2 * Lp(1))
    assert isinstance(mixed, Sum)
    expected = 0.5 * Lp(2)(x, x_adv) + shift(x, x_adv) + 3 * CIEDE2000()(x, x_adv) + 6 * Lp(1)(x, x_adv)
    torch.testing.assert_close(mixed(x, x_adv), expected)
    assert str(0.5 * Lp(2) + CIEDE2000()) == "0.5 l2 + ciede2000"
    assert torch.equal((shift + Lp(2))(x, x_adv), (Lp(2) + shift)(x, x_adv))
    with pytest.raises(ValueError, match="number > 0, got -1"):
        _ = -1 * Lp(2)
    with pytest.raises(TypeError, match="can be added to a metric"):
        _ = Lp(2) + 1


def test_largest():
    x, x_adv = images()
    metric = Largest(Lp(2), 0.1 * Lp(1))
    expected = torch.maximum(Lp(2)(x, x_adv), 0.1 * Lp(1)(x, x_adv))
    torch.testing.assert_close(metric(x, x_adv), expected)
    assert str(metric) == "max(l2, 0.1 l1)"
    with pytest.raises(TypeError, match="takes metrics"):
        Largest()


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 8, "inf"])
def test_a_mixture_with_a_norm_has_a_gradient_at_the_image(p):
    """A power of 0 by autograd is nan."""
    x, x_adv = images()
    for metric in (0.5 * Lp(p) + CIEDE2000(), Largest(Lp(p), CIEDE2000()), WeightedLp(p, torch.rand(3, 32, 32) + 0.1)):
        assert (gradient(metric, x, x.clone())[1] == 0).all()
        x_adv[:, :, ::2] = x[:, :, ::2]
        assert gradient(metric, x, x_adv)[1].isfinite().all()


class Offered:
    """A user's norm with its prox."""

    def __call__(self, x, x_adv):
        return self.norm((x_adv - x).flatten(1))

    def norm(self, u):
        return 2 * u.norm(dim=1)

    def prox(self, u, eta):
        return u * (1 - 2 * eta / u.norm(dim=1).clamp(min=1e-30)).clamp(min=0)[:, None]


def soft(x, x_adv):
    """Bounded by 1."""
    return torch.tanh((x_adv - x).flatten(1).norm(dim=1))


WEIGHTS = torch.linspace(0.1, 2, 32)
KINDS = {
    "l2": (Lp(2), MetricProperties(True, True, True, True)),
    "l0.5": (Lp(0.5), MetricProperties(False, True, True, True)),
    "weighted": (WeightedLp(3, WEIGHTS), MetricProperties(True, True, True)),
    "sum of norms": (Lp(2) + 0.1 * Lp(1), MetricProperties(True, False, True)),
    "half a norm": (0.5 * Lp(1), MetricProperties(True, True, True, True)),
    "half a weighted norm": (0.5 * WeightedLp(3, WEIGHTS), MetricProperties(True, True, True)),
    "largest": (Largest(Lp(2), Lp(0.5)), MetricProperties(False, False, True)),
    "sum": (Lp(2) + CIEDE2000(), MetricProperties(False, False, False)),
    "offered": (Offered(), MetricProperties(True, True, True)),
    "a callable": (soft, MetricProperties(False, False, False)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_metric_says_of_itself(kind):
    """And that it is true: twice the perturbation is twice as far, and a sum no farther than the way round."""
    metric, expected = KINDS[kind]
    assert properties(metric) == expected
    x, x_adv = images(dtype=torch.float64)
    delta, other = 0.2 * (x_adv - x), (x_adv - x).flip(0)
    if expected.scale_free:
        torch.testing.assert_close(metric(x, x + 2 * delta), 2 * metric(x, x + delta))
    if expected.norm:
        assert (metric(x, x + delta + other) <= metric(x, x + delta) + metric(x, x + other) + 1e-12).all()
    if expected.prox:
        assert prox_settings.has_prox(metric)


BAD = {
    "one number": (lambda x, z: (z - x).norm(), r"shape \(2,\), got \(\); reduce over all axes but the first"),
    "one per channel": (lambda x, z: (z - x).flatten(2).norm(dim=2), r"shape \(2,\), got \(2, 3\)"),
    "a float": (lambda x, z: float((z - x).norm()), r"shape \(2,\), got float"),
    "a similarity": (lambda x, z: 1 - (z - x).flatten(1).norm(dim=1), "must be 0 from an image to itself"),
    "a negative one": (lambda x, z: -(z - x).flatten(1).norm(dim=1), "must not be negative.*change its sign"),
    "a random one": (
        lambda x, z: torch.rand(len(x)) * (z - x).flatten(1).norm(dim=1),
        "The metric is random: it",
    ),
    "one of the company": (
        lambda x, z: (z - x).flatten(1).norm(dim=1) * (1 + 0.1 * len(x)),
        "The metric depends on the other images: it gives .* for the first image alone",
    ),
    "two lines": (lambda x, z: x.new_zeros(2, 3).view("a\nb"), r"raised TypeError for images of shape [^\n]*$"),
    "the root of 0": (lambda x, z: ((z - x) ** 2).flatten(1).sum(1).sqrt(), r"not finite at x_adv = x, often the root"),
    "roots in pixels": (
        lambda x, z: (((z - x)[:, :, 1:] * 0) ** 2).sqrt().flatten(1).sum(1) + (z - x).flatten(1).norm(dim=1),
        "not finite beside an image",
    ),
    "detached": (lambda x, z: (z - x).detach().flatten(1).norm(dim=1), "no gradient with respect to x_adv"),
    "another shape": (
        lambda x, z: (z - x) @ torch.ones(7),
        r"raised RuntimeError for images of shape \(2, 3, 32, 32\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_metrics_are_found_on_entry(name):
    """One sentence, before the model has been run."""
    metric, sentence = BAD[name]

    def model(z):
        raise AssertionError("the model was run")

    x, _ = images()
    with pytest.raises(ValueError, match=sentence) as caught:
        plica.attack(model, x, torch.zeros(3).long(), plica.MinRadius(metric))
    assert "\n" not in str(caught.value)


def test_distances_do_not_depend_on_the_number_of_rows():
    pytest.importorskip("piq", reason="needs the extra perceptual")
    x, x_adv = images(20)
    for metric in (Similarity("ssim"), CIEDE2000(), Similarity("gmsd")):
        found = distance(metric, x, x_adv)
        for rows in ([3], [7, 1], list(range(17))):
            assert torch.equal(distance(metric, x[rows], x_adv[rows]), found[rows])


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_a_pixel_of_infinite_weight_must_not_move_by_the_least(p):
    weights = torch.ones(4)
    weights[2] = torch.inf
    x = torch.full((2, 4), 0.5)
    x_adv = x + 0.25
    x_adv[:, 2] = 0.5
    assert WeightedLp(p, weights)(x, x_adv).isfinite().all()
    x_adv[1, 2] = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
    assert WeightedLp(p, weights)(x, x_adv).isinf().tolist() == [False, True]


@pytest.mark.parametrize("method", ["auto", "pwcf"])
@pytest.mark.parametrize("question", [plica.MinRadius, lambda metric: plica.MaxLoss(metric, 0.3)], ids=["min", "max"])
def test_a_metric_may_sum_in_float64(method, question):
    x, _ = images()

    def single(a, b):
        return torch.linalg.vector_norm((b - a).flatten(1), dim=1)

    def double(a, b):
        return torch.linalg.vector_norm((b - a).flatten(1).double(), dim=1)

    def model(z):
        return torch.stack([z.mean((1, 2, 3)) - 0.5, 0.5 - z.mean((1, 2, 3))], 1)

    y = model(x).argmax(1)
    found = [plica.attack(model, x, y, question(d), method=method, gradients=10).distance for d in (double, single)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_that_roundings_make_negative_or_uneven_are_taken(seed):
    """One less a cosine is about 1e-7 beside an image here: below 0, or another number for an image alone."""
    torch.manual_seed(seed)
    layers = [m for i in range(6) for m in (torch.nn.Conv2d(16 if i else 3, 16, 3, padding=1), torch.nn.ReLU())]
    features = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    check_metric(
        lambda x, z: 1 - torch.nn.functional.cosine_similarity(features(x), features(z)), torch.rand(2, 3, 8, 8)
    )


@pytest.mark.parametrize("bounds", [(-math.inf, math.inf), (0, math.inf), (-1e38, 3e38)])
def test_distances_are_tried_within_bounds_that_are_infinite(bounds):
    check_metric(lambda x, z: torch.linalg.vector_norm(x - z, dim=1), torch.rand(3, 4), bounds)


@pytest.mark.parametrize("method", ["auto", "pwcf"])
@pytest.mark.parametrize(
    "spoil",
    [lambda d: d.sum(), lambda d: d[:, None], lambda d: d[::2], lambda d: None, lambda d: 1.0],
    ids=["none", "column", "half", "nothing", "number"],
)
def test_a_distance_whose_shape_changes_in_the_middle_of_the_work_is_told(method, spoil):
    """Tracebacks of several kinds; of half of the distances, those of other images were reported."""
    x, _ = images()
    calls = 0

    def metric(a, b):
        nonlocal calls
        calls += 1
        d = torch.linalg.vector_norm((b - a).flatten(1), dim=1)
        return d if calls < 20 else spoil(d)

    def model(z):
        return torch.stack([z.mean((1, 2, 3)) - 0.5, 0.5 - z.mean((1, 2, 3))], 1)

    with pytest.raises(ValueError, match="one distance for each image, shape"):
        plica.attack(model, x, model(x).argmax(1), plica.MinRadius(metric), method=method, gradients=20)


def cosine(x, z):
    """In float32, where the rounding of 1 is 1e-7."""
    return 1 - nn.functional.cosine_similarity(x.flatten(1).float(), z.flatten(1).float())


def test_a_distance_that_rounding_makes_negative_is_0():
    """Radii of -2e-7 were reported: here every class has images at a cosine of 1."""
    x = 0.25 + 0.5 * torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    longer = 1.1 * x
    assert (cosine(x, longer) < 0).any()
    assert (distance(cosine, x, longer) >= 0).all()
    assert (distance(lambda x, z: cosine(x, z) - 2e-4, x, longer) < -1e-4).all()  # more than rounding

    def model(z):
        return torch.stack([torch.full((len(z),), 2.0), z.sum(1)], 1)

    found = plica.attack(model, x, model(x).argmax(1), plica.MinRadius(cosine), gradients=20)
    assert found.success.all()
    assert (found.distance >= 0).all()
    assert (found.distance < 1e-6).all()
