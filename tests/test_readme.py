"""What the README prints is run as printed, in one empty folder, from top to bottom."""

import re
from pathlib import Path

import pytest

from examples import blocks, run_page

pytest.importorskip("foolbox", reason="the examples use the images of the extra 'demo'")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


BLOCKS = blocks(README)
COMMANDS = [line for block in BLOCKS for line in block.code.splitlines() if line.startswith("plica ")]


@pytest.fixture(
    scope="module",
    params=["stand-in", pytest.param("demonstration", marks=pytest.mark.slow)],  # the network
)
def page(request, tmp_path_factory):
    """A folder in which the Python examples and then the commands were run, and what was printed."""
    folder = tmp_path_factory.mktemp("readme")
    python = "\n".join(block.code for block in BLOCKS if block.language == "python")
    page = folder / "page.md"
    page.write_text(f"```python\n{python}```\n\n```sh\n" + "\n".join(COMMANDS) + "\n```\n")
    return folder, run_page(page, folder, stand_in=request.param == "stand-in")


def test_the_python_examples_run_as_printed(page):
    assert len(blocks(README, "python")[0].code.splitlines()) == 8
    assert len(re.findall(r"^\w+ is taken for \w+ at distance 0\.\d{4}$", page[1], flags=re.MULTILINE)) == 4


def test_the_command_lines_run_as_printed(page):
    folder, printed = page
    assert [line.split()[1] for line in COMMANDS] == ["radius", "show", "report", "evaluate", "doctor", "audit"]
    assert "4 images, accuracy 100.0%" in printed
    assert "Accuracy by l2 distance" in printed
    assert (folder / "report.html").read_text().count("<li data-id=") >= 4
    assert "100.0 % (51.0-100.0)" in printed  # as they are; the interval of four out of four
    assert "checks: " in printed
    assert "no disagreement" in printed


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_what_it_points_to_is_there(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / target).is_file(), target
    targets = set(re.findall(r"`make (?:PYTHON=\S+ )?([a-z-]+)`", text))
    assert targets <= set(re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    for part in re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", text):
        assert (ROOT / "src" / "plica" / part).exists() or (ROOT / part).exists(), part
