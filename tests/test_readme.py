"""What the README prints is run as printed, in one empty folder, from top to bottom."""

import re
import sys
from pathlib import Path

import pytest

from examples import blocks, shell

pytest.importorskip("foolbox", reason="the examples use the images of the extra 'demo'")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def code(language):
    return [block.code for block in blocks(README, language)]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A folder in which the Python examples were run, and what they said."""
    folder = tmp_path_factory.mktemp("readme")
    return folder, shell(sys.executable, "-c", "\n".join(code("python")), folder=folder)


def test_the_python_examples_run_as_printed(python):
    assert len(code("python")[0].splitlines()) == 8
    assert len(re.findall(r"^\w+ is taken for \w+ at distance 0\.\d{4}$", python[1], flags=re.MULTILINE)) == 4


def test_the_command_lines_run_as_printed(python):
    folder, _ = python
    lines = [line for block in code("sh") for line in block.splitlines() if line.startswith("plica ")]
    told = {line.split()[1]: shell("/bin/sh", "-c", line, folder=folder) for line in lines}
    assert list(told) == ["radius", "attack", "evaluate", "plan", "doctor", "audit", "show", "report", "figures"]
    for command in ("radius", "attack"):
        assert "4 images, accuracy 100.0%" in told[command]
    assert "100.0 % (51.0-100.0)" in told["evaluate"]  # as they are; the interval of four out of four
    assert (folder / "plan.yaml").is_file()
    assert "Accuracy by l2 distance" in told["show"]
    assert (folder / "report.html").read_text().count("<li data-id=") >= 4
    assert (folder / "figures" / "accuracy-l2.pdf").is_file()
    written = re.findall(r"^\| `([\w.]+)` \|", README, flags=re.MULTILINE)
    for run in ("l2", "linf"):
        there = {path.name for path in (folder / "runs" / run).iterdir()} - {"audit.json"}  # which audit adds
        assert sorted(there) == sorted(
            name for name in written if name.endswith((".parquet", ".safetensors", ".json", ".png"))
        )
    assert "checks: " in told["doctor"]
    assert "no disagreement" in told["audit"]


def test_what_it_points_to_is_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
    targets = set(re.findall(r"`make ([a-z-]+)`", README))
    assert {"demo", "test", "test-all"} <= targets
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert targets <= rules
    for part in re.findall(r"`([a-z_]+(?:\.py|/))`", README):
        assert (ROOT / "src" / "plica" / part).exists() or (ROOT / part).exists(), part
