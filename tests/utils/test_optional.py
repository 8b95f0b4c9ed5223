"""A missing optional package is one error with one sentence, from one place."""

import re
import sys
from pathlib import Path

import pytest

import plica
from plica.utils.optional import COMMANDS, EXTRAS, MissingPackageError, package_folder, require, stand_ins

SOURCE = Path(plica.__file__).parent


@pytest.mark.parametrize("package", [*EXTRAS, *COMMANDS])
def test_the_message_says_what_needs_the_package_and_how_to_install_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"^This needs the package {package} \(.*\): pip install .*\.$"):
        require(f"{package}.part", "This")


def test_the_error_is_caught_as_a_missing_module_and_as_wrong_input():
    assert issubclass(MissingPackageError, ModuleNotFoundError)
    assert issubclass(MissingPackageError, ValueError)


def test_every_extra_named_is_one_of_the_package():
    known = re.findall(r"^(\w+) = \[", (Path(__file__).parents[2] / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(EXTRAS.values()) <= set(known)


def test_a_package_that_fails_to_load_is_missing_too(tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text("raise RuntimeError('built for\\nanother torch')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(MissingPackageError, match="built for another torch"):
        require("timm", "This")


def test_modules_stand_in_only_within_the_context():
    with stand_ins("json", "no_such_module"):
        import no_such_module  # type: ignore[import-not-found]

        assert no_such_module.anything is None
    assert "no_such_module" not in sys.modules
    assert "json" in sys.modules


def test_a_folder_is_found_without_running_the_package(tmp_path, monkeypatch):
    (tmp_path / "never_run").mkdir()
    (tmp_path / "never_run" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folder("never_run") == tmp_path / "never_run"
    assert package_folder("no_such_package") is None


def test_optional_packages_are_imported_in_one_place():
    """Elsewhere importlib is for modules that the user names, and for plica's own."""
    users = {"utils/optional.py", "utils/factories.py", "__init__.py"}
    importers = {
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if re.search(r"importlib|find_spec\(", file.read_text().replace("importlib.metadata", ""))
    }
    assert importers <= users
