"""Every example of the how-to pages and of the first steps runs as printed; every notebook runs from top to bottom."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import examples
from examples import blocks, run_page

pytest.importorskip("foolbox", reason="the examples use the images of the extra 'demo'")
pytest.importorskip("pandas", reason="the examples use the extra 'see'")

DOCS = Path(__file__).parents[2] / "docs"
HOWTO = sorted(page for page in (DOCS / "howto").glob("*.md") if page.name != "index.md")
NOTEBOOKS = sorted(page for page in (DOCS / "notebooks").glob("*.md") if page.name != "index.md")
ALONE = [
    DOCS / "index.md",
    DOCS / "start.md",
    DOCS / "concepts" / "solver.md",
    DOCS / "concepts" / "bounds.md",
]  # pages that need no other


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the files that the how-to pages use."""
    folder = tmp_path_factory.mktemp("howto")
    run_page(DOCS / "howto" / "index.md", folder)
    return folder


@pytest.fixture
def as_before():
    """What the examples set for their whole process is set back, and what they import from their folder forgotten."""
    before, environment = set(sys.modules), {**os.environ}
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), np.errstate():
        yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == Path.cwd():
            del sys.modules[name]


@pytest.mark.parametrize("page", HOWTO, ids=lambda page: page.stem)
def test_a_how_to_runs_as_printed(page, prepared, tmp_path, monkeypatch, as_before):
    """In this process, as each start of another takes seconds."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert blocks(page.read_text())
    examples.main(page)


@pytest.mark.parametrize("page", ALONE, ids=lambda page: page.stem)
def test_a_page_runs_as_printed(page, tmp_path, monkeypatch, as_before):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("plica.demo.resnet18", examples.small_network)
    assert blocks(page.read_text())
    examples.main(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", ALONE[:2], ids=lambda page: page.stem)
def test_a_page_runs_with_the_network_that_it_names(page, tmp_path):
    run_page(page, tmp_path)


@pytest.mark.slow  # the site, which .ci/run builds, executes them too and fails on any error
@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_notebook_runs_as_printed(page, tmp_path):
    if "sklearn" in page.read_text():
        pytest.importorskip("sklearn", reason="the notebook uses the data of scikit-learn")
    assert blocks(page.read_text())
    run_page(page, tmp_path)
