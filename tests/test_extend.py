"""docs/extend.md: what its package adds from outside is found by its names, in Python and by commands."""

import re
from pathlib import Path

import pytest

from examples import blocks, run_page

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's package as an installer leaves it: its modules, and the entry points of its pyproject.toml."""
    folder = tmp_path_factory.mktemp("extend")
    for block in blocks(PAGE.read_text()):
        if block.file is not None:
            (folder / block.file).write_text(block.code)
    toml = re.search(r"^```toml\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    groups = re.findall(r'^\[project\.entry-points\."([\w.]+)"\]\n((?:.+\n)+)', toml[1], flags=re.MULTILINE)
    points = "\n".join(f"[{group}]\n{lines}" for group, lines in groups).replace('"', "")
    information = folder / "more_plica-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: more-plica\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(points)
    return folder


@pytest.fixture(scope="module")
def written(folder):
    """What the page's examples print, and after them the help, in one process."""
    page = folder / "page.md"
    page.write_text(f"{PAGE.read_text()}\n```sh\nplica radius --help\n```\n")
    return run_page(page, folder)


def test_the_page_runs_as_printed(folder, written):
    """Every addition is used, in Python and by commands."""
    for run in ("huber", "line", "brighten"):
        assert (folder / "runs" / run / "samples.parquet").is_file()
    assert written.count("4 images") == 3


def test_help_lists_what_was_added(written):
    said = " ".join(written.replace("│", "").split())
    for name in ("vif, huber, or", "hue-saturation, brighten, or", "ddn-adv, line", "linear:SEED", "stripes:COUNT"):
        assert name in said, name


def test_every_table_of_the_page_has_its_group():
    """The page names the tables of the package, and gives an example of each."""
    page = PAGE.read_text()
    for group in ("metrics", "perturbations", "attacks", "models", "data", "checks", "report"):
        assert f"`plica.{group}`" in page
        assert f'[project.entry-points."plica.{group}"]' in page
    for file in re.findall(r"`(\w+/registry\.py)`", page):
        assert (PAGE.parents[1] / "src" / "plica" / file).is_file(), file
