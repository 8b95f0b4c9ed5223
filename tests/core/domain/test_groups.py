"""Bounds and fixed pixels of each image: the same answers as one by one, and as for all where they are equal."""

import inspect

import pytest
import torch
from torch import nn

import plica
from plica import Held, Lp, MaxLoss, MinRadius, Status

torch.manual_seed(0)
NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
X = 0.3 + 0.4 * torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
Y = NET(X).argmax(1)
WIDTH = torch.tensor([0.5, 0.2, 0.5, 0.3]).view(-1, 1, 1, 1)
LOW, HIGH = (X - WIDTH).expand_as(X), (X + WIDTH).expand_as(X)
PIXELS = torch.zeros_like(X, dtype=torch.bool)
PIXELS[0, 0], PIXELS[1, :, 0], PIXELS[3, 1] = True, True, True


def one_by_one(question, bounds, rows=range(4)):
    return [plica.attack(NET, X[k : k + 1], Y[k : k + 1], question(k), bounds=bounds(k), gradients=20) for k in rows]


@pytest.mark.parametrize("method", ["min", "max"])
def test_bounds_of_each_image(method):
    radius = torch.tensor([0.1, 0.2, 0.3, 0.4])
    together = MinRadius(Lp(2)) if method == "min" else MaxLoss(Lp(2), radius)
    alone = (lambda k: together) if method == "min" else (lambda k: MaxLoss(Lp(2), float(radius[k])))
    result = plica.attack(NET, X, Y, together, bounds=(LOW, HIGH), gradients=20)
    for k, single in enumerate(one_by_one(alone, lambda k: (LOW[k], HIGH[k]))):
        assert torch.equal(result.x_adv[k], single.x_adv[0])
        assert result.status[k] is single.status[0]
    assert ((result.x_adv >= LOW) & (result.x_adv <= HIGH)).all()


def test_fixed_pixels_of_each_image():
    result = plica.attack(NET, X, Y, MinRadius(Held(Lp(2), PIXELS)), gradients=20)
    rows = (0, 1, 3)
    alone = one_by_one(lambda k: MinRadius(Held(Lp(2), PIXELS[k])), lambda k: (0.0, 1.0), rows)
    for row, single in zip(rows, alone, strict=True):
        assert torch.equal(result.x_adv[row], single.x_adv[0])
        assert result.distance[row] == single.distance[0]
    assert torch.equal(result.x_adv[PIXELS], X[PIXELS])


def test_equal_bounds_of_each_image_are_bounds_of_all():
    each = plica.attack(NET, X, Y, MinRadius(Lp(2)), bounds=(torch.zeros_like(X), torch.ones_like(X)), gradients=20)
    of_all = plica.attack(NET, X, Y, MinRadius(Lp(2)), bounds=(torch.zeros(3, 2, 2), torch.ones(3, 2, 2)), gradients=20)
    assert torch.equal(each.x_adv, of_all.x_adv)


def test_progress_is_that_of_all_images():
    seen = []
    plica.attack(NET, X, Y, MinRadius(Lp(2)), bounds=(LOW, HIGH), gradients=8, on_progress=seen.append)
    assert seen[-1].done == seen[-1].total == 4
    assert [p.done for p in seen] == sorted(p.done for p in seen)


@pytest.mark.parametrize("more", [{"bounds": (LOW, HIGH)}, {"levels": 11}, {"draws": 3}])
def test_progress_ends_with_the_gradients_and_the_median_distance_of_the_answers(more):
    def noisy(x):
        return NET(x + 0.01 * torch.randn_like(x))

    seen, model = [], noisy if "draws" in more else NET
    result = plica.attack(model, X, Y, MinRadius(Lp(2)), gradients=20, on_progress=seen.append, **more)
    found = result.distance[result.success]
    assert len(found) > 1
    # points are settled, and changed by a level, after the last report
    assert float(found.median()) == pytest.approx(seen[-1].radius, rel=0.1)
    assert 0.7 * int(result.gradients.sum()) <= seen[-1].gradients <= int(result.gradients.sum())


@pytest.mark.parametrize("levels", [None, 11])
def test_a_mask_for_each_image_inside_another_distance_is_one_sentence(levels):
    for metric in (0.5 * Held(Lp(2), PIXELS), Held(Lp(2), PIXELS) + Lp(1), Held(Lp(2), PIXELS[:3])):
        with pytest.raises(ValueError, match="does not expand to that of an image"):
            plica.attack(NET, X, Y, MinRadius(metric), levels=levels)


def test_an_image_outside_its_bounds():
    high = HIGH.clone()
    high[2] = X[2] - 0.01
    with pytest.raises(ValueError, match="x lies outside its bounds in image 2"):
        plica.attack(NET, X, Y, MinRadius(Lp(2)), bounds=(LOW, high))


@pytest.mark.parametrize("draws", [None, 4])
@pytest.mark.parametrize(
    ("match", "wrong"),
    [
        (r"targets\[3\] = y\[3\]", {"targets": torch.where(torch.arange(4) == 3, Y, (Y + 1) % 4)}),
        (r"have shape \(4,\), one for each image, got \(9,\)", {"question": MaxLoss(Lp(2), torch.ones(9))}),
        (r"have shape \(4,\), one for each image, got \(3,\)", {"question": MaxLoss(Lp(2), torch.ones(3))}),
        ("must not be negative", {"question": MaxLoss(Lp(2), torch.tensor([1.0, 1, 1, -1]))}),
        ("bounds must be finite", {"bounds": (LOW, torch.cat([HIGH[:3], HIGH[3:] + torch.inf]))}),
        (
            "cannot tell 65536 levels",
            {"bounds": (torch.cat([LOW[:3], X[3:]]), torch.cat([HIGH[:3], X[3:] + 1e-4])), "levels": 65536},
        ),
    ],
)
def test_the_arguments_of_all_images_are_checked_before_any_work(match, wrong, draws):
    def never(x):
        raise AssertionError("was run")

    arguments = {"x": X, "y": Y, "question": MinRadius(Lp(2)), "bounds": (LOW, HIGH), "draws": draws, **wrong}
    with pytest.raises(ValueError, match=match):
        inspect.unwrap(plica.attack)(never, **arguments)


def test_labels_of_all_images_are_compared_with_the_classes_before_the_first_attack():
    calls = []

    def counted(x):
        calls.append(len(x))
        return NET(x)

    labels = torch.where(torch.arange(4) == 3, 7, Y)
    for more in ({"bounds": (LOW, HIGH)}, {"draws": 4}):
        calls.clear()
        with pytest.raises(ValueError, match=f"it ranges from {int(labels.min())} to 7"):
            plica.attack(counted, X, labels, MinRadius(Lp(2)), **more)
        assert sum(calls) < 50


HALF = torch.zeros(3, 2, 2, dtype=torch.bool)
HALF[0] = True


@pytest.mark.parametrize("draws", [None, 3])
@pytest.mark.parametrize(
    "metric", [Lp(0), Lp(0.5), Lp(1), Lp(2), Lp("inf"), lambda x, z: (z - x).flatten(1).norm(dim=1)]
)
def test_an_image_that_nothing_lets_move_has_no_radius_and_the_status_says_so(metric, draws):
    """Held pixels and bounds together fix image 1, its own pixels image 2, and its bounds image 3, which is wrong."""

    def model(x):
        return NET(x) if draws is None else NET(x) + 1e-3 * torch.randn(len(x), 4)

    pixels, low, high = HALF.expand_as(X).clone(), torch.zeros_like(X), torch.ones_like(X)
    low[1, 1:], high[1, 1:], pixels[2], low[3], high[3] = X[1, 1:], X[1, 1:], True, X[3], X[3]
    y = torch.where(torch.arange(4) == 3, (Y + 1) % 4, Y)
    for question in (MinRadius(Held(metric, pixels)), MaxLoss(Held(metric, pixels), 1.0)):
        result = plica.attack(model, X, y, question, bounds=(low, high), gradients=8, draws=draws)
        assert result.status[1:] == [Status.FIXED, Status.FIXED, Status.MISCLASSIFIED]
        assert result.status[0] not in (Status.FIXED, Status.MISCLASSIFIED)
        assert result.distance[1:].tolist() == [torch.inf, torch.inf, 0]
        assert torch.equal(result.x_adv[1:], X[1:])
        assert (result.gradients[1:] == 0).all()


@pytest.mark.parametrize("levels", [None, 256])
@pytest.mark.parametrize(("metric", "radius"), [(Lp(0), 0.5), (Lp(1), 0), (Lp("inf"), 0), (Lp(0.5), 0)])
def test_a_ball_that_holds_the_image_alone_is_not_searched(metric, radius, levels):
    y = torch.where(torch.arange(4) == 3, (Y + 1) % 4, Y)
    result = plica.attack(NET, X, y, MaxLoss(metric, radius), gradients=8, levels=levels)
    assert result.status == [Status.FIXED] * 3 + [Status.MISCLASSIFIED]
    assert result.success.tolist() == [False] * 3 + [True]
    assert int(result.gradients.sum()) == 0
    blind = MaxLoss(lambda x, z: (z - x)[:, 0].flatten(1).norm(dim=1), 0.0)  # does not see most pixels
    assert Status.FIXED not in plica.attack(NET, X, y, blind, gradients=8).status


def test_both_sides_of_an_image_that_nothing_lets_move_are_infinite():
    low, high = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    low[1:], high[1:] = X[0, 1:], X[0, 1:]
    both = plica.bracket(NET, X[:1], Y[:1], MinRadius(Held(Lp(2), HALF)), bounds=(low, high), gradients=8, nodes=4)
    assert (float(both.lower), float(both.upper), float(both.gap)) == (torch.inf, torch.inf, 0)
