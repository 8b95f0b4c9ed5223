"""benchmarks/radii.py: optimality of curves whose area is known, its table, and its word on missing data;
benchmarks/training.py: differences of each seed; benchmarks/patterns.py: who breaks what; benchmarks/device.py on a
CPU."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from plica.analysis.contenders import Contender, Group


def imported(name):
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def radii():
    return imported("radii")


def test_optimality_of_known_areas(radii):
    """Radii 0, 1, 2, 4: accuracy falls from 3/4 at 0 to 0 at 4, area 5/4 of at most 3; later ones have area 7/4."""
    best = np.array([0.0, 1.0, 2.0, 4.0])
    assert radii.optimality(best, best) == pytest.approx(1)
    assert radii.optimality(np.array([0.0, 2.0, 3.0, np.inf]), best) == pytest.approx(1 - 0.5 / 1.75)
    assert radii.optimality(np.array([0.0, 2.0, 1.0, 4.0]), best) == pytest.approx(1)  # a curve has no images
    assert radii.optimality(np.array([0.0, 0.5, 1.5, 4.0]), best) > 1  # nearer than the best known


def row(method, radius, seed=0):
    return dict(net="n", norm="l2", method=method, budget=30, seed=seed, median=radius, failed=0, gradients=30.0,
                forwards=3.0, seconds=0.1, radii=[0.0, radius, 0.5])  # fmt: skip


def test_table_and_figure_from_saved_rows(radii, tmp_path, monkeypatch):
    rows, page = tmp_path / "rows.json", tmp_path / "page.md"
    rows.write_text(json.dumps([row("fmn", 0.4), row("auto", 0.3), row("auto", 0.2, seed=1)]))
    page.write_text(f"before\n{radii.START}old\n{radii.END}after\n")
    arguments = ["radii.py", "--read", str(rows), "--into", str(page), "--figure", str(tmp_path / "f")]
    monkeypatch.setattr(sys, "argv", arguments)
    radii.main()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.index("| auto |") < text.index("| fmn |")
    # the mean over seeds: of the median, and of the optimalities of 0.2, the best known, and of 0.3
    one, other = (radii.optimality(np.array([0.0, r, 0.5]), np.array([0.0, 0.2, 0.5])) for r in (0.2, 0.3))
    assert f"| auto | 30 | {(one + other) / 2:.4f} | 0.25000 |" in text
    assert (tmp_path / "f-n.png").stat().st_size > 1000


def test_missing_data_is_named(radii, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["radii.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"load\.py is missing; give the folder"):
        radii.main()


def test_differences_between_ways_of_training_are_shown_for_each_seed(tmp_path):
    """Two images, two seeds, of which PGD l2 classifies one image more by each: with radii .2 and .4 more."""
    radii = {"standard-0": [0, 1], "standard-1": [0, 1], "pgd-l2-0": [0.2, 1], "pgd-l2-1": [0.4, 1]}
    for name, l2 in radii.items():
        line = {"radii": {"l1": l2, "l2": l2, "linf": l2}, "seconds": 1}
        (tmp_path / f"{name}.json").write_text(json.dumps(line))
    text = imported("training").beside(tmp_path, ["standard", "pgd-l2"], "standard")
    _, clean, linf, l2, _ = text.splitlines()[2].strip("|").split(" | ")
    assert clean == "+50.0 [0.0, 100.0]; +50.0, +50.0"
    assert linf.endswith("; +25.50, +51.00")
    assert l2.startswith("+0.150 [")
    assert l2.endswith("; +0.100, +0.200")


def test_a_misclassified_image_is_left_by_no_method():
    """Four images, one of them misclassified: it counted as left, so that every method left a quarter more."""
    patterns, inf, found = imported("patterns"), np.inf, []
    radii = {"apgd-ce": [0, 0.1, 0.1, inf], "apgd-margin": [0, 0.1, inf, inf], "pwcf ce": [0, 0.2, inf, inf]}
    ones = np.ones(4, int)
    for name, radius in (radii | {"pwcf margin": [0, inf, inf, inf]}).items():
        found.append(Contender(name, np.arange(4), ones, np.array(radius), ones, -ones, ones > 0, []))
    row = patterns.alone("net", Group("method", "l2", 0.5, found))
    assert row == "| net | l2 0.5 | 25.0%, 1 | 50.0%, 0 | 50.0%, 0 | 75.0%, 0 | 25.0% |"


def test_the_measurement_on_a_device_runs_on_a_cpu(tmp_path):
    """In its small form; a GPU is lent for minutes, in which it has to work at once."""
    path = Path(__file__).parents[1] / "benchmarks" / "device.py"
    spec = importlib.util.spec_from_file_location("device", path)
    device = importlib.util.module_from_spec(spec)
    sys.modules["device"] = device
    try:
        spec.loader.exec_module(device)
        device.main(["--small", "--device", "cpu", "--json", str(tmp_path / "device.json")])
    finally:
        del sys.modules["device"]
    parts = json.loads((tmp_path / "device.json").read_text())
    assert "failed" not in parts
    assert "left out" not in parts
    assert [row["norm"] for row in parts["answers"]] == ["l2", "linf", "l1"]
    assert all(row["unsound in float64"] == 0 and row["repeated to the bit"] for row in parts["answers"])
    assert all(row["alone to the bit"] == row["asked alone"] for row in parts["answers"])
    assert all(row["overhead"] > 0 for row in parts["speed"])
    assert {"host", "calls"} <= set(parts["profile"][0])
    assert any(row["method"] == "plica, min-radius l2" for row in parts["public"])
