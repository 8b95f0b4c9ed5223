"""Comparisons of radii that are known: who is ahead, where curves cross, and what is only chance."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from byhand import made_up, write_inputs, write_task
from plica import plot, runs
from plica.analysis import compare, contenders
from plica.cli import main
from plica.report.comparison import certain_sentence
from plica.report.curves import gap_sentences
from plica.report.paper import radius_table

scipy = pytest.importorskip("scipy.stats", reason="the signed-rank test is scipy's, of the extra 'see'")


def contender(radius, name="a"):
    radius = np.asarray(radius, dtype=np.float64)
    ones = np.ones(len(radius), int)
    return contenders.Contender(name, np.arange(len(radius)), ones, radius, ones, -ones, ones > 0, [])


def group(*compared, by="model", budget=None):
    return contenders.Group(by, "l2", budget, list(compared))


def test_accuracy_counts_the_radii_beyond():
    assert compare.accuracy(np.array([0, 0.5, 1, math.inf]), np.array([0, 0.4, 0.5, 2])) == pytest.approx(
        [0.75, 0.75, 0.5, 0.25]
    )


def test_differences_are_paired_and_two_unbroken_images_are_level():
    a, b = contender([1, 2, 3, math.inf, math.inf]), contender([1.5, 2.5, 2, math.inf, 3])
    pair = compare.pair(a, b)
    assert (pair.larger, pair.smaller) == (0.4, 0.4)
    assert pair.difference.value == 0
    assert pair.images == 5
    assert pair.accuracy.value == pytest.approx(-0.2)  # one image more is broken for b


def test_radii_of_one_and_the_same_network_are_equal():
    """A network and the same one with a softmax differed in the seventh digit, and significantly so."""
    radius = np.random.default_rng(0).uniform(0.1, 1, 24)
    a, b = contender(radius, "a"), contender(radius * (1 + 1e-6), "b")
    pair = compare.pair(a, b)
    assert (pair.larger, pair.smaller, pair.difference.value, pair.p) == (0, 0, 0, 1)
    assert [(rank.best, rank.worst) for rank in compare.ranking(group(a, b))] == [(1, 2)] * 2
    other = compare.pair(a, contender(radius * (1 + 1e-3), "b"))
    assert other.larger == 1
    assert other.p < 1e-5


def test_what_is_proved_within_a_budget_is_more_robust_than_what_breaks_at_it():
    """A point at the distance of the budget was not counted."""
    broken = contender([0.5, 0.5, np.inf, 0.0])
    proved = replace(contender([np.inf] * 4, "b"), lower=np.array([0.5, 0.0, 0.5, 0.0]))
    pair = compare.pair(broken, proved)
    assert (pair.surely_larger, pair.surely_smaller) == (1, None)
    assert certain_sentence(pair, group(broken, proved, budget=0.5)) == (
        "b is certainly more robust on 1 of 4 images: one is proved, the other broken."
    )
    assert "radii are apart" in certain_sentence(pair, group(broken, proved))


def test_the_figure_of_accuracy_has_a_line_for_what_is_proved():
    drawn = plot.accuracy_curve({"a": replace(contender([0.4, 0.8]), lower=np.array([0.2, 0.2]))})
    found, proved = drawn.lines
    assert proved.get_label() == "a, certified"
    assert proved.get_ydata()[[0, -1]].tolist() == [1.0, 0.0]
    assert (proved.get_ydata() <= found.get_ydata()).all()


def test_misclassified_images_are_told_apart_from_radii_that_are_proved_exact():
    both = replace(contender([0.0, 0.5, 0.5]), lower=np.array([0.0, 0.5, 0.4]))
    (sentence,) = gap_sentences(group(both))
    assert sentence == "a: 2 of 3 l2 radii are exact to a thousandth, 1 of them 0; widest gaps: image 2 (0.4 to 0.5)."


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    random, covered = np.random.default_rng(0), 0
    for trial in range(100):
        a = random.uniform(1, 2, 100)
        pair = compare.pair(contender(a), contender(a + random.normal(0.1, 0.3, 100)), seed=trial)
        covered += pair.difference.low <= 0.1 <= pair.difference.high
    assert 88 <= covered <= 100  # 95 expected, three standard deviations of 2.2


def test_signed_rank_is_scipys_and_infinity_is_the_largest_rank():
    difference = np.random.default_rng(1).normal(0.3, 1, 50)
    assert compare.signed_rank(difference) == pytest.approx(scipy.wilcoxon(difference).pvalue)
    difference[0] = math.inf
    capped = np.where(np.isfinite(difference), difference, 1e6)
    assert compare.signed_rank(difference) == pytest.approx(scipy.wilcoxon(capped).pvalue)
    assert compare.signed_rank(np.zeros(4)) == 1


def test_curves_that_cross_are_found_with_their_radius():
    """One falls evenly over [0, 1]; of the other half lies near 0.1, half near 0.9: ahead to 0.1, behind to 0.5, ..."""
    rng = np.random.default_rng(0)
    a = contender(rng.uniform(0, 1, 800), "even")
    b = contender(np.where(rng.random(800) < 0.5, 0.1, 0.9) + rng.uniform(-0.02, 0.02, 800), "split")
    crossings, touches = compare.crossing(a, b)
    assert [(c.first, c.second) for c in crossings] == [("split", "even"), ("even", "split"), ("split", "even")]
    assert [c.radius for c in crossings] == pytest.approx([0.1, 0.5, 0.9], abs=0.05)
    assert touches >= 3
    for crossing in crossings:
        assert crossing.within[0] <= crossing.radius <= crossing.within[1]
        assert crossing.before[1].low > 0 > crossing.after[1].high
    assert crossings[1].before[1].value == pytest.approx(0.4, abs=0.06)  # at 0.1: 0.9 against 0.5


def test_curves_of_one_kind_seldom_seem_to_cross():
    rng = np.random.default_rng(3)
    found = [compare.crossing(contender(rng.random(150)), contender(rng.random(150)), seed)[0] for seed in range(40)]
    assert sum(map(len, found)) <= 2  # a crossing needs two certain differences of opposite sign


def test_a_ranking_tells_which_ranks_are_open():
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 2, 300)
    strong, level = contender(base + 1, "strong"), contender(base + rng.normal(0, 1e-3, 300), "level")
    places = compare.ranking(group(contender(base, "base"), level, strong))
    assert next((p.name, p.best, p.worst) for p in places) == ("strong", 1, 1)
    assert {(p.best, p.worst) for p in places[1:]} == {(2, 3)}
    assert compare.ranking(group(contender(base, "base"), strong, by="method"))[0].name == "base"


def test_the_interval_of_a_share_is_never_empty():
    """The bootstrap's has width 0 at 0 % and 100 %; the table of an evaluation says 72.2 to 100."""
    places = compare.ranking(group(contender([math.inf] * 10, "none"), contender([1] * 10, "all"), budget=2.0))
    assert [(p.value.value, p.value.low, p.value.high) for p in places] == [
        (1, pytest.approx(0.7225, abs=1e-4), 1),
        (0, 0, pytest.approx(0.2775, abs=1e-4)),
    ]


def test_hardest():
    assert compare.hardest(contender([3, 0, math.inf, 1]), most=2) == [(1, 0.0), (3, 1.0)]


@pytest.fixture
def run(tmp_path):
    """Two models, two methods, one metric; and a ball with two losses of one method."""
    x, y = torch.rand(4, 3, 4, 4), torch.tensor([0, 1, 0, 1])
    write_inputs(tmp_path / "run", x, y, models=("a", "b"))
    for model, method, radius in [
        ("a", "radius", [1, 2, 3, math.inf]), ("a", "pwcf", [2, 1, 4, math.inf]),
        ("b", "radius", [0, 1, 1, 1]), ("b", "pwcf", [0, 2, 2, 2]),
    ]:  # fmt: skip
        write_task(tmp_path / "run", made_up(x, x, radius), y, model=model, method=method)
    for loss in ("ce", "margin"):
        result = made_up(x, x, [0.4, math.inf, math.inf, 0.4])
        write_task(tmp_path / "run", result, y, model="a", method="pwcf", radius=0.5, loss=loss)
    return runs.load(tmp_path / "run")


def test_models_are_represented_by_their_nearest_points(run):
    nearest, ball = contenders.groups([run])
    assert (str(nearest), nearest.by) == ("smallest l2 distance", "model")
    assert str(ball) == "within l2 distance 0.5"
    a, b = nearest.contenders
    assert (a.name, a.radius.tolist()) == ("a", [1, 1, 3, math.inf])
    assert a.by == ["radius", "pwcf", "radius", ""]
    assert b.radius.tolist() == [0, 1, 1, 1]
    assert (ball.budget, [c.name for c in ball.contenders]) == (0.5, ["a"])


def test_methods_can_be_compared_and_losses_are_told_apart(run):
    nearest, ball = contenders.groups([run], by="method")
    assert {c.name for c in nearest.contenders} == {"a, radius", "a, pwcf", "b, radius", "b, pwcf"}
    assert [c.name for c in ball.contenders] == ["a, pwcf ce", "a, pwcf margin"]


def test_methods_are_ranked_within_each_model(run, capsys, tmp_path):
    parts = contenders.by_model(contenders.groups([run], by="method"))
    assert [(str(part), model, [c.name for c in part.contenders]) for part, model in parts] == [
        ("smallest l2 distance", "a", ["pwcf", "radius"]),
        ("smallest l2 distance", "b", ["pwcf", "radius"]),
        ("within l2 distance 0.5", "a", ["pwcf ce", "pwcf margin"]),
    ]
    file = tmp_path / "all.json"
    assert main(["compare", str(run.directory), "--by", "method", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert "Smallest l2 distance, b, 4 images" in said
    assert "b, radius" not in said
    assert [(part["model"], len(part["pairs"])) for part in json.loads(file.read_text())] == [
        ("a", 1),
        ("b", 1),
        ("a", 1),
    ]
    table = radius_table(contenders.groups([run], by="method"))
    assert [line.count("textbf") for line in table.splitlines() if line.startswith(("a, ", "b, "))] == [1, 1, 1, 0]


def test_one_model_in_two_runs_is_named_by_its_run(run, tmp_path):
    groups = contenders.groups([run, run])
    assert len(groups[1].contenders) == 1  # one place twice is one place
    other = tmp_path / "other"
    x, y = torch.cat([x for _, x, _ in run.inputs()]), torch.tensor([0, 1, 0, 1])
    write_inputs(other, x, y, models=("a",))
    write_task(other, made_up(x[:3], x[:3], [1, 1, 1]), y[:3], model="a")
    names = [c.name for c in contenders.groups([run, runs.load(other)])[0].contenders]
    assert f"a ({other})" in names


@pytest.mark.parametrize("changed", ["label", "pixels"])
def test_other_images_are_refused(run, tmp_path, changed):
    x, y = torch.cat([x for _, x, _ in run.inputs()]), torch.tensor([0, 1, 0, 1])
    x, y = (x, 1 - y) if changed == "label" else (1 - x, y)
    write_inputs(tmp_path / "other", x, y)
    write_task(tmp_path / "other", made_up(x, x, [1, 1, 1, 1]), y)
    with pytest.raises(ValueError, match=r"only runs on the same images|give runs on the same images"):
        contenders.groups([run, runs.load(tmp_path / "other")])


def test_a_method_that_was_spared_images_is_compared_on_those_it_was_asked(tmp_path, capsys):
    """As where each method is asked only about the images that those before it left."""
    x, y = torch.rand(4, 3, 4, 4), torch.tensor([0, 1, 0, 1])
    write_inputs(tmp_path / "run", x, y)
    write_task(tmp_path / "run", made_up(x, x, [0.4, math.inf, 0, math.inf]), y, method="a", radius=0.5, loss="ce")
    spared = made_up(x[:2], x[:2], [math.inf, 0.5])
    write_task(tmp_path / "run", spared, y[:2], method="b", radius=0.5, loss="ce")
    (models,) = contenders.groups([runs.load(tmp_path / "run")], by="model")
    assert models.contenders[0].radius.tolist() == [0.4, 0.5, 0, math.inf]
    assert models.contenders[0].by == ["a", "b", "a", ""]
    (methods,) = contenders.groups([runs.load(tmp_path / "run")], by="method")
    assert methods.contenders[1].attacked.tolist() == [True, True, False, False]
    assert compare.pair(*methods.contenders).images == 2
    assert [place.value.value for place in compare.ranking(methods)] == [0.5, 0.5]
    assert main(["compare", str(tmp_path / "run"), "--by", "method"]) == 0
    assert "Only the 2 of 4 images that all methods attacked are compared." in capsys.readouterr().out
