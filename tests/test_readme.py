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
    assert list(told) == ["radius", "show", "report", "evaluate", "doctor", "audit"]
    assert "4 images, accuracy 100.0%" in told["radius"]
    assert "Accuracy by l2 distance" in told["show"]
    assert (folder / "report.html").read_text().count("<li data-id=") >= 4
    assert "100.0 % (51.0-100.0)" in told["evaluate"]  # as they are; the interval of four out of four
    assert "checks: " in told["doctor"]
    assert "no disagreement" in told["audit"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_what_it_points_to_is_there(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / target).is_file(), target
    targets = set(re.findall(r"`make (?:PYTHON=\S+ )?([a-z-]+)`", text))
    assert targets <= set(re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    for part in re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", text):
        assert (ROOT / "src" / "plica" / part).exists() or (ROOT / part).exists(), part
