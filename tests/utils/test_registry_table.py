"""Entries of installed packages: found by name, imported on first use, reported in one sentence where wrong."""

import sys
from importlib.metadata import EntryPoint

import pytest

from plica.utils import registry
from plica.utils.registry import Registry


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with entry points in the group plica.numbers."""

    def install(points, code="three = 3\n"):
        (tmp_path / "added_numbers.py").write_text(code)
        folder = tmp_path / "added-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: added\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[plica.numbers]\n{points}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "added_numbers", raising=False)
        return Registry("plica.numbers", {"one": 1, "two": 2})

    yield install
    sys.modules.pop("added_numbers", None)


def test_entries_of_packages_come_after_its_own_and_are_imported_on_use(installed):
    numbers = installed("three = added_numbers:three")
    assert list(numbers) == ["one", "two", "three"]
    assert "added_numbers" not in sys.modules
    assert numbers["three"] == 3
    assert dict(numbers) == {"one": 1, "two": 2, "three": 3}


def test_it_is_a_dict_for_whoever_adds_by_hand():
    numbers = Registry("plica.numbers", {"one": 1})
    numbers["four"] = 4
    assert numbers == {"one": 1, "four": 4}
    assert list(numbers.added_first()) == [4, 1]
    del numbers["four"]
    assert "four" not in numbers
    assert len(numbers) == 1
    with pytest.raises(KeyError):
        numbers["four"]


def test_a_name_that_is_taken(installed):
    numbers = installed("two = added_numbers:three")
    with pytest.raises(ValueError, match=r"two = added_numbers:three .* name that is taken; .*uninstall added\."):
        list(numbers)


def test_a_package_that_cannot_be_imported(installed):
    numbers = installed("three = added_numbers:three", "import no_such_module_at_all\n")
    assert "three" in numbers
    with pytest.raises(ValueError, match=r"from added_numbers:three \(ModuleNotFoundError: .*uninstall added\."):
        numbers["three"]


def test_an_entry_point_of_no_distribution(monkeypatch):
    point = EntryPoint("one", "nowhere:one", "plica.numbers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(ValueError, match="uninstall the package"):
        list(Registry("plica.numbers", {"one": 1}))
