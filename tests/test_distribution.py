"""What is published: the README of a package index, the source archive, and the wheel alone in an empty environment."""

import os
import re
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import plica
from hatch_build import index_readme

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RELATIVE = r"\]\((?!https?:|#)"


def test_without_an_address_the_readme_of_an_index_has_no_relative_links():
    text = index_readme(README, None, "1.2")
    assert not re.search(RELATIVE, text)
    assert "![" not in text
    assert "MIT licence" in text


def test_with_an_address_all_its_links_and_pictures_lead_there():
    text = index_readme(README, "https://example.org/plica", "1.2")
    assert not re.search(RELATIVE, text)
    assert text.count("![") == README.count("![") > 0
    assert "(https://example.org/plica/raw/v1.2/docs/perturbations.png)" in text
    assert "[MIT licence](https://example.org/plica/blob/v1.2/LICENSE)" in text


def test_captions_go_and_stay_with_their_pictures():
    text = "Before.\n\n![a, b](docs/p.png)\n\n*What is\nseen (`make`).*\n\nAfter *this*.\n"
    assert index_readme(text, None, "1") == "Before.\n\nAfter *this*.\n"
    assert index_readme(text, "https://h/p", "1") == text.replace("docs/", "https://h/p/raw/v1/docs/")


def test_the_package_knows_its_version():
    assert plica.__version__ == metadata.version("plica")


def run(*command, cwd, status=0):
    """What a command prints. No path is handed on by which it could import plica from here."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the source archive, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    return folder, source


@pytest.mark.slow
def test_the_source_archive_has_what_the_readme_names(built):
    source = built[1]
    for target in re.findall(RELATIVE + r"([^)#]+)", README):
        assert (source / target).exists(), target
    for name in ("Makefile", "requirements/constraints.txt", "tests/conftest.py", ".ci/run", "CITATION.cff"):
        assert (source / name).is_file(), name


def needed_by(distribution, extras: set[str], known: set[str]) -> Iterator[metadata.Distribution]:
    """The installed distributions that a distribution needs with these extras, and that those need, each once."""
    for requirement in map(Requirement, distribution.requires or []):
        marker, name = requirement.marker, f"{requirement.name}[{','.join(sorted(requirement.extras))}]".lower()
        if name not in known and (marker is None or any(marker.evaluate({"extra": e}) for e in extras | {""})):
            known.add(name)
            found = metadata.distribution(requirement.name)
            yield found
            yield from needed_by(found, requirement.extras, known)


@pytest.fixture(scope="module")
def alone(built, tmp_path_factory):
    """The Python of an environment with the wheel and, as links, what it declares to need: no extras."""
    (wheel,) = built[0].glob("*.whl")
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (plica,) = metadata.distributions(path=[str(site)])
    for needed in needed_by(plica, set(), set()):
        for top in {file.parts[0] for file in needed.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():  # a namespace that several share
                (site / top).symlink_to(needed.locate_file(top))
    return python


TOY = """
import torch, plica
net = torch.nn.Linear(2, 2, bias=False)
net.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
x = torch.tensor([[0.75, 0.25]])
result = plica.attack(net, x, torch.tensor([0]), plica.MinRadius(plica.Lp(2)))
print(f"{result.success.item()} {result.distance.item():.4f}")
"""


@pytest.mark.slow
def test_the_wheel_alone_attacks_and_says_which_extra_a_report_needs(alone, tmp_path):
    plica = alone.parent / "plica"
    assert "Usage: plica" in run(plica, "--help", cwd=tmp_path)
    assert f'\nversion = "{run(plica, "--version", cwd=tmp_path).strip()}"\n' in (ROOT / "pyproject.toml").read_text()
    # the boundary is x1 = x2, at distance |0.75 - 0.25| / sqrt(2)
    assert run(alone, "-c", TOY, cwd=tmp_path).split() == ["True", "0.3536"]
    (tmp_path / "net.py").write_text("import torch\n\ndef make():\n    return torch.nn.Flatten()\n")
    save = "import numpy; numpy.savez('d.npz', x=numpy.array([[0.75, 0.25]], 'float32'), y=numpy.array([0]))"
    run(alone, "-c", save, cwd=tmp_path)
    for method in ("radius", "pwcf"):
        options = ("--model=net.py:make", "--data=d.npz", "--metric=l2", f"--method={method}", f"--out={method}")
        run(plica, "radius", *options, cwd=tmp_path)
    run(plica, "report", "radius", cwd=tmp_path)  # torch brings jinja2 along; comparing takes scipy
    said = run(plica, "report", "radius", "pwcf", "-o", "both.html", cwd=tmp_path, status=2)
    assert len(said.splitlines()) == 1
    assert 'pip install "plica[see]"' in said
