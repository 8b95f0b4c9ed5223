"""benchmarks/papers and docs/papers.md: every script runs on a small random network, and every row has its verdict."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FOLDER, PAGE = ROOT / "benchmarks" / "papers", ROOT / "docs" / "papers.md"
VERDICTS = ("holds", "holds in part", "does not hold here", "cannot be tested here: ")
BY_PYAUTOATTACK = ("table1", "table2", "figure6", "figure8", "section2", "training")
FEW = {  # what keeps a script within seconds
    "table1": "--budget 10 --attacks APGD-ce APGD-margin PWCF-margin AutoAttack",
    "table2": "--gradients 20",
    "table3": "--gradients 15",
    "figure1": "--seconds 0.3 --radius 0.1",
    "figure6": "--gradients 15 --evaluations 20",
    "figure8": "--gradients 15",
    "magnitudes": "--gradients 15",
    "section2": "--gradients 20",
    "training": "--gradients 15",
    "appendix_a": "--steps 5",
    "appendix_b": "--gradients 15 --evaluations 20",
    "ablations": "--evaluations 16",
}


@pytest.fixture
def script(monkeypatch):
    """Imports a script as Python does that runs it: its folder is the first of the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == FOLDER:
            del sys.modules[name]


@pytest.mark.parametrize("name", [n if n == "appendix_a" else pytest.param(n, marks=pytest.mark.slow) for n in FEW])
def test_scripts_run_on_a_small_network(script, name, tmp_path, monkeypatch, capsys):
    """Its tables have as many cells in each row as in the head; asked again, it answers from what it has kept."""
    if name in BY_PYAUTOATTACK:
        pytest.importorskip("pyautoattack")
    given = [f"{name}.py", "--nets", "small", "--n", "3", "--out", str(tmp_path), *FEW[name].split()]
    monkeypatch.setattr(sys, "argv", given)
    module = script(name)
    module.main()
    first = capsys.readouterr()
    tables = [part.splitlines() for part in re.findall(r"(?:^\|.*\n)+", first.out, re.MULTILINE)]
    assert tables
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
    assert any(len(lines) > 2 for lines in tables)
    module.main()
    again = capsys.readouterr()
    assert again.out == first.out
    assert not again.err


def test_every_script_is_tested():
    helpers = {"common", "posed"}
    assert {file.stem for file in FOLDER.glob("*.py")} == {*FEW, *helpers}


def test_a_page_gets_its_tables(script, tmp_path, monkeypatch):
    common = script("common")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one -->\nold\n<!-- end of one -->\nafter\n")
    monkeypatch.setattr(sys, "argv", ["x", "--into", str(page)])
    given = common.begin(common.arguments("", [], 1))
    common.publish(given, {"one": common.table("a | b", [[1, 2]])})
    assert page.read_text() == "before\n<!-- one -->\n| a | b |\n|---|---|\n| 1 | 2 |\n<!-- end of one -->\nafter\n"


def claims():
    """The cells of every row of the page that states a claim."""
    rows, inside = [], False
    for line in PAGE.read_text().splitlines():
        if line.startswith("| claim |"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_every_claim_has_a_test_a_figure_and_a_verdict():
    rows = claims()
    assert len(rows) >= 30
    for cells in rows:
        assert len(cells) == 4, cells
        assert all(cells), cells
        claim, _, _, verdict = cells
        assert claim.endswith(")"), f"{claim} does not say where it stands"
        assert verdict in VERDICTS[:3] or verdict.startswith(VERDICTS[3]), cells


def test_the_summary_counts_the_verdicts():
    verdicts = [cells[3] for cells in claims()]
    said = re.search(r"Of (\d+) claims (\d+) hold here, (\d+) hold in part, (\d+) do not hold, and (\d+) cannot", PAGE.read_text())  # fmt: skip # noqa: E501
    assert said is not None
    counts = [verdicts.count(verdict) for verdict in VERDICTS[:3]]
    assert [int(number) for number in said.groups()] == [len(verdicts), *counts, len(verdicts) - sum(counts)]


@pytest.mark.parametrize(("law", "power", "exponential"), [("pareto", 1, 0), ("exponential", 0, 1)])
def test_law_of_magnitudes_is_told(script, law, power, exponential):
    """Of 3,000 numbers drawn from either law, above 1; the exponent of the power law is 2.5."""
    draw, module = np.random.default_rng(0), script("magnitudes")
    sizes = 1 + (draw.pareto(1.5, 3000) if law == "pareto" else draw.exponential(1.0, 3000))
    *shares, is_power, is_exponential, exponent = module.described(sizes, with_tail=True)
    assert shares[0] == 0
    assert (is_power, is_exponential) == (power, exponential)
    if law == "pareto":
        assert exponent == pytest.approx(2.5, abs=0.2)


def test_shares_of_magnitudes(script):
    sizes = np.array([0, 0, 0.5, 0.89, 0.91, 1])
    assert script("magnitudes").described(sizes, with_tail=False) == [1 / 3, 1 / 3, None, None, None]
