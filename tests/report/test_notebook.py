"""Results as tables and as they show themselves; figures and tables for papers; runs in a tracker."""

import math
import re
from xml.etree import ElementTree

import pytest
import torch

from byhand import made_up, write_inputs, write_task
from plica import runs
from plica.analysis.contenders import groups
from plica.cli import main
from plica.report.paper import radius_table

pytest.importorskip("scipy.stats", reason="comparisons use scipy, of the extra 'see'")


def result(n=6):
    x = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, made_up(x, 1 - x, [0.0, *[k / 10 for k in range(1, n - 1)], math.inf])


@pytest.fixture
def run(tmp_path):
    x, found = result()
    y = torch.zeros(len(x), dtype=torch.int64)
    write_inputs(tmp_path / "run", x, y, models=("a_<net>",), plan={"gradients": 100, "models": [{"name": "a_<net>"}]})
    write_task(tmp_path / "run", found, y, model="a_<net>", method="radius")
    write_task(tmp_path / "run", made_up(x, 1 - x, [0.0] + [0.5] * 5), y, model="a_<net>", method="fmn")
    write_task(tmp_path / "run", found, y, model="a_<net>", method="pgd", radius=0.5, loss="ce")
    return runs.load(tmp_path / "run")


def test_a_result_as_a_table():
    _, found = result()
    table = found.to_arrow()
    assert table["distance"].to_pylist() == found.distance.tolist()
    assert table["status"].to_pylist() == ["BUDGET"] * 6
    assert table["success"].to_pylist() == [True] * 5 + [False]
    pandas = pytest.importorskip("pandas", reason="pandas is of the extra 'see'")
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[2, "distance"] == found.distance[2].item()


def test_a_result_and_a_run_show_themselves(run):
    page = result()[1]._repr_html_()
    assert re.findall(r"<td>([^<]*)</td>", page) == ["6", "1", "4", "0.1, 0.2, 0.4", "100"]
    page = run._repr_html_()
    assert "a_&lt;net&gt;" in page
    assert "a_<net>" not in page
    *numbers, belief = re.findall(r"<td>([^<]*)</td>", page)
    assert numbers == ["6", "83.3\u2009%", "0.2", "16.7\u2009%"]
    assert belief == "with reservations (few images, not examined)"
    for picture in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(picture)


def test_nothing_found_is_shown_without_a_curve():
    x = torch.zeros(2, 3)
    assert "not found" in made_up(x, x, [math.inf, math.inf])._repr_html_()


def test_figures_and_tables_for_a_paper(run, tmp_path, capsys):
    assert main(["figures", str(run.directory), "-o", str(tmp_path / "figures")]) == 0
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert [f"{tmp_path / 'figures' / name}" for name in written] == sorted(capsys.readouterr().out.split("\n")[:-1])
    assert {"accuracy-l2.pdf", "accuracy-l2.svg", "radii-l2.pdf", "models.tex", "methods.tex"} <= set(written)
    assert any(name.startswith("panels-") for name in written)
    for name in written:
        content = (tmp_path / "figures" / name).read_bytes()
        if name.endswith(".pdf"):
            assert content.startswith(b"%PDF-")
            assert b"/Subtype /Image" not in content or name.startswith("panels-")
        if name.endswith(".svg"):
            root = ElementTree.fromstring(content)
            assert float(root.attrib["width"].removesuffix("pt")) <= 72 * 7
            assert root.findall(".//{http://www.w3.org/2000/svg}text")  # type stays type


def test_the_best_of_a_column_is_bold(run):
    methods = radius_table(groups([run], "method"))
    assert r"radius & \textbf{0.2} [" in methods  # of methods the smallest radius
    assert re.search(r"^fmn & 0\.5 \[", methods, re.MULTILINE)
    assert r"a\_<net> & 0.2" in radius_table(groups([run], "model"))  # alone, it is not the best of any


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_run_in_mlflow(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is of the extra 'track'")
    from plica.track import log_run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # no server is needed for a test
    mlflow.set_tracking_uri((tmp_path / "tracked").as_uri())
    log_run(run)
    (logged,) = mlflow.MlflowClient().search_runs(["0"])
    assert logged.data.params["plan.gradients"] == "100"
    assert logged.data.metrics == {
        "a__net_.accuracy": pytest.approx(5 / 6),
        "a__net_.median_l2_radius": pytest.approx(0.2),
        "a__net_.accuracy_l2_0.5": pytest.approx(1 / 6),
    }
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(logged.info.run_id)] == ["report.html"]
