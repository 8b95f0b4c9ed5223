"""The report holds what the run says, escapes what files say, stays small, and works in a browser as people use it."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from markupsafe import Markup

from byhand import made_up, write_inputs, write_task
from plica import runs
from plica.cli import main
from plica.core.domain.read_bounds import read_bounds
from plica.report import gallery, render, write_report
from plica.report.choice import order
from plica.report.collect import collect
from plica.report.registry import SECTIONS, Section
from plica.report.svg import Chart, ticks
from plica.runs.single import save_run
from plica.training.checkpoint import CHECKPOINT

pytest.importorskip("scipy.stats", reason="comparisons use scipy, of the extra 'see'")

B = 100
CLASSES = ["cat", "<b>dog</b>", 'ship" onload="alert(1)']


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two models whose curves cross, two methods, a ball; ten images are wrong from the start, a method misses one."""
    generator = torch.Generator().manual_seed(0)
    directory = tmp_path_factory.mktemp("runs") / "a <i>run</i>"
    x, y = torch.rand(B, 3, 8, 8, generator=generator), torch.arange(B) % 3
    noise = torch.randn(B, 3, 8, 8, generator=generator)
    unit = noise / noise.flatten(1).norm(dim=1)[:, None, None, None]
    write_inputs(directory, x, y, CLASSES, ("even", "split"), {"data": "</pre><script>document.title='owned'</script>"})
    rank = torch.arange(B).double()
    for model, radius in (("even", rank / B), ("split", torch.where(rank % 3 == 1, 0.9, 0.2) + rank / 1000)):
        radius = torch.where(rank < (10 if model == "even" else 0), 0.0, radius)
        for method, worse in (("radius", 0.0), ("fmn", 0.01)):
            found = torch.where(radius > 0, radius + worse, 0)
            found[-1] = math.inf if method == "fmn" else found[-1]
            moved = x + unit * torch.where(found.isfinite(), found, 0).float()[:, None, None, None]
            write_task(directory, made_up(x, moved, found, (y + 1) % 3), y, model=model, method=method)
        inside = torch.where(radius <= 0.5, radius, math.inf)
        moved = x + unit * torch.where(inside.isfinite(), inside, 0).float()[:, None, None, None]
        write_task(directory, made_up(x, moved, inside), y, model=model, method="pgd", radius=0.5, loss="ce")
    finding = {"check": "saturated", "weight": "RESERVATION", "sentence": "A < B in 3 of 100 images.", "share": 0.1}
    verdict = {"verdict": "with reservations", "findings": [finding], "checks": ["saturated", "noise"]}
    (directory / "summary.json").write_text(json.dumps({"format": 1, "verdict": verdict}))
    return directory


def test_numbers_of_the_run_are_in_it(run):
    page = render([runs.load(run)])
    assert "90.0\u2009%" in page  # accuracy of "even": ten of a hundred are wrong
    assert "49 of 100 are not broken within l2 distance 0.5." in page
    assert "with reservations" in page
    assert "A &lt; B in 3 of 100 images." in page
    assert "Checked: saturated, noise." in page
    assert "cross near l2 distance" in page
    assert f"cd{'cd' * 31}" in page


@pytest.mark.parametrize(
    ("command", "sentence"), [("report", "The run is unfinished, so"), ("show", "with reservations (unfinished, ")]
)
def test_a_run_that_is_unfinished_says_so(tmp_path, capsys, command, sentence):
    x, y, run = torch.rand(8, 3, 8, 8), torch.arange(8) % 3, tmp_path / "run"
    write_inputs(run, x, y, plan={"chunk": 4})
    write_task(run, made_up(x, (x + 0.01).clamp(0, 1), 0.1 + torch.arange(8) / 8), y)
    assert main([command, str(run), *(["-o", str(tmp_path / "r.html")] if command == "report" else [])]) == 0
    said = (tmp_path / "r.html").read_text() if command == "report" else capsys.readouterr().out
    assert sentence in said


def test_what_files_say_is_escaped(run):
    page = render([runs.load(run)])
    assert "<b>dog</b>" not in page
    assert "<i>run</i>" not in page
    assert "<script>document" not in page
    assert 'onload="alert' not in page
    assert "&lt;b&gt;dog&lt;/b&gt;" in page


def test_it_needs_nothing_from_elsewhere(run):
    page = render([runs.load(run)])
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in page


def test_a_thousand_images_stay_below_three_megabytes(tmp_path):
    """Noise, which compresses worse than any photograph."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(1000, 3, 32, 32, generator=generator), torch.arange(1000) % 10
    write_inputs(tmp_path / "run", x, y)
    delta = 0.01 * torch.randn(1000, 3, 32, 32, generator=generator)
    for metric in ("l1", "l2", "linf"):
        result = made_up(x, (x + delta).clamp(0, 1), 0.1 + torch.arange(1000) / 1000)
        write_task(tmp_path / "run", result, y, metric=metric)
    size = write_report([runs.load(tmp_path / "run")], tmp_path / "report.html")
    assert 1e6 < size < 3e6  # what there is room for is used
    assert re.search(r"\d+ of 3000 perturbed images", (tmp_path / "report.html").read_text())


def test_any_first_images_are_spread_over_the_radii():
    radius = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    radius[:20] = math.inf
    radius[20:40] = 0
    rows = order(radius)
    assert sorted(rows) == list(range(40, 200))
    ranked = sorted(rows, key=lambda row: radius[row])
    assert rows[:12] == ranked[:12]
    spread = [ranked.index(row) for row in rows[12 : 12 + 16]]
    gaps = torch.tensor(sorted(spread)).diff()
    assert gaps.max() <= 2 * gaps.min()


@pytest.mark.parametrize("shape", [(16,), (2, 3, 4, 4), (1, 6, 5), (6, 5)])
def test_inputs_of_any_shape(tmp_path, shape):
    x, y = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.int64)
    write_inputs(tmp_path / "run", x, y)
    write_task(tmp_path / "run", made_up(x, 1 - x, [1.0, 2.0, math.inf, 0.0]), y)
    page = render([runs.load(tmp_path / "run")])
    assert page.count("<li data-id=") == 2
    assert ("<img" in page) == ("From left to right" in page) == (len(shape) < 4 and len(shape) > 1)


def test_runs_without_images_or_without_any_find(tmp_path):
    x, y = torch.rand(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64)
    write_inputs(tmp_path / "run", x, y)
    shutil.rmtree(tmp_path / "run" / "inputs")
    write_task(tmp_path / "run", made_up(x, x, [math.inf, 0.5, 0.0]), y)
    assert "classed as" not in render([runs.load(tmp_path / "run")])
    write_inputs(tmp_path / "none", x, y)
    write_task(tmp_path / "none", made_up(x, x, [math.inf] * 3), y)
    assert "not found" in render([runs.load(tmp_path / "none")])


def test_a_section_of_the_users(run, monkeypatch):
    """It is one Section; where its body is empty it is left out, and text that is not Markup is escaped."""
    count = Section("Count", "How many", lambda report: Markup("<p>{} runs</p>").format(len(report.runs)))
    text = Section("Text", "Text & more", lambda report: "<b>plain</b>")
    empty = Section("Nothing", "Nothing", lambda report: "")
    for key, section in dict(count=count, text=text, nothing=empty).items():
        monkeypatch.setitem(SECTIONS, key, section)
    page = render([runs.load(run)])
    assert '<li><a href="#count">Count</a></li>' in page
    assert '<h2 id="count-h">How many</h2>\n<p>1 runs</p>' in page
    assert '<h2 id="text-h">Text &amp; more</h2>\n&lt;b&gt;plain&lt;/b&gt;' in page
    assert "nothing-h" not in page


def test_every_section_has_content_that_its_link_reaches(run):
    page = render([runs.load(run)])
    links = re.findall(r'<li><a href="#(\w+)">', page)
    assert links == list(SECTIONS)
    assert all(f'<section id="{link}" ' in page for link in links)


def test_the_command(run, tmp_path, capsys):
    assert main(["report", str(run), "-o", str(tmp_path / "r.html"), "--title", "A & B"]) == 0
    size = (tmp_path / "r.html").stat().st_size
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'r.html'}: {size / 1e3:.1f} kB in ")
    assert "<h1>A &amp; B</h1>" in (tmp_path / "r.html").read_text()
    assert main(["report", str(tmp_path / "nothing"), "-o", str(tmp_path / "s.html")]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a run: there is no such directory; give the directory that" in capsys.readouterr().err
    assert main(["report", str(run), "-o", str(tmp_path / "r.html" / "s.html")]) == 2  # a file is no folder
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize("command", ["show", "report"])
def test_an_unfinished_training_is_not_called_a_run_without_a_manifest(tmp_path, capsys, command):
    (tmp_path / CHECKPOINT).touch()
    assert main([command, str(tmp_path)]) == 2
    said = f"{tmp_path} is an unfinished training, which is evaluated at its end; plica train goes on with it: "
    assert capsys.readouterr().err == f"plica: {said}give the same plan and --out {tmp_path}.\n"


def test_names_are_no_markup_in_a_terminal(tmp_path, capsys):
    x, y = torch.rand(4, 1, 3, 3), torch.zeros(4, dtype=torch.int64)
    for k, name in enumerate(("[red]net[/blue]", "a:smile:b")):
        arguments = {"model": name, "metric": "l2", "method": "auto"}
        save_run(tmp_path / str(k), x, y, made_up(x, x + 0.1, [0.3] * 4), arguments, 1.0)
    both = [str(tmp_path / "0"), str(tmp_path / "1")]
    for command in ("show", "compare"):
        assert main([command, *both]) == 0
        said = capsys.readouterr().out
        assert "[red]net[/blue]" in said
        assert "a:smile:b" in said


def test_a_question_that_one_model_answers_is_named_as_not_compared(tmp_path, capsys):
    x, y = torch.rand(4, 1, 3, 3), torch.zeros(4, dtype=torch.int64)
    directories = []
    for model, metric in (("a", "l2"), ("b", "l2"), ("b", "linf")):
        directories.append(str(tmp_path / f"{model}-{metric}"))
        arguments = {"model": model, "metric": metric, "method": "auto"}
        save_run(directories[-1], x, y, made_up(x, x + 0.1, [0.3] * 4), arguments, 1.0)
    assert main(["compare", *directories]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Not compared, with answers of one model only: Smallest linf distance." in said
    assert main(["compare", *directories[:2]]) == 0
    assert "Not compared" not in capsys.readouterr().out


def test_show_and_compare(run, tmp_path, capsys):
    assert main(["show", str(run)]) == 0
    said = capsys.readouterr().out
    assert "even: accuracy 90.0\u2009% of 100 images." in said
    assert "Accuracy by l2 distance" in said
    assert "These numbers: with reservations (" in said
    for column in ("attacked", "broke", "only it", "missed", "not broken", "nearest", "5 % to 95 %"):
        assert f" {column}: " in " ".join(said.split()), f"what {column} counts is not said"
    assert main(["compare", str(run), "--json", str(tmp_path / "c.json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "cross near l2 distance" in said
    assert "These numbers: with reservations (" in said
    comparison = json.loads((tmp_path / "c.json").read_text())
    assert [part["question"] for part in comparison] == ["smallest l2 distance", "within l2 distance 0.5"]
    assert comparison[0]["pairs"][0]["images"] == 100
    assert main(["compare", str(run), "--by", "colour"]) == 2
    assert "--by takes" in capsys.readouterr().err


def test_images_are_counted_in_whole_numbers():
    assert ticks(0, 1.15, whole=True) == [0, 1]
    assert 0.5 in ticks(0, 1.15)


def test_labels_of_near_budgets_stand_below_each_other():
    chart = Chart("c", "", "", (0, 0.06), (0, 1), "")
    for budget in (1 / 255, 2 / 255, 0.05):
        chart.rule(budget, f"{budget:.3g}")
    labels = [text for text in chart.marks if "<text" in text]
    assert ["0.00392" in labels[0], "0.00784" in labels[1]] == [True, True]
    assert [re.search(r' y="(\d+)"', text)[1] for text in labels] == ["34", "47", "34"]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0)])
def test_images_within_other_bounds_are_drawn_like_pixels(tmp_path, low, high):
    """They were white where they exceeded 1."""
    u = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    bounds, drawn, pictures = read_bounds((low, high)), {}, []

    def draw(file, x, y, answers, classes):
        drawn[file.parent.name] = x, answers["l2"].x_adv

    for name, box in (("pixels", read_bounds((0, 1))), ("others", bounds)):
        x, x_adv = (box.from_units(t) for t in (u, 1 - u))
        arguments = {"model": "net.py:make", "method": "auto", "metric": "l2", "n": 4}
        y = torch.arange(4)
        save_run(tmp_path / name, x, y, made_up(x, x_adv, [0.3] * 4), arguments, 1.0, bounds=box, draw=draw)
        report = replace(collect([runs.load(tmp_path / name)]), room=10**6)
        pictures.append([card["pictures"]["perturbed"] for card in gallery.cards(report)])
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 4
    for found, pixels in zip(*drawn.values(), strict=True):
        torch.testing.assert_close(found, pixels)


def test_a_model_that_is_mostly_wrong_has_no_neighbours_at_distance_0(tmp_path, capsys):
    """It said that half of all images have a misclassified neighbour within l2 distance 0."""
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    arguments = {"model": "net.py:make", "method": "auto", "metric": "l2", "n": 4}
    save_run(tmp_path / "a", x, torch.arange(4), made_up(x, x + 0.1, [0.0, 0.0, 0.0, 0.3]), arguments, 1.0)
    assert main(["show", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "At least half of all images are misclassified without a perturbation." in said
    assert "misclassified neighbour" not in said
