"""The solver knows tensors only: it imports nothing of the package but itself."""

import ast
import sys
from pathlib import Path

import pytest

import plica.solver

FILES = sorted(Path(plica.solver.__file__).parent.rglob("*.py"))
ALLOWED = {*sys.stdlib_module_names, "torch", "jaxtyping"}


def imported(path):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_sibling_is_imported(path):
    for name in imported(path):
        assert name.startswith("plica.solver") or name.split(".")[0] in ALLOWED, name


def test_the_files_are_found():
    assert len(FILES) > 8
