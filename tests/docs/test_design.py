"""The page of users' situations names a test for each; these are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "design" / "users.md"


def test_every_situation_has_tests_that_exist():
    rows = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    numbered = [cells for cells in rows if cells[0].strip().isdigit()]
    assert [int(cells[0]) for cells in numbered] == list(range(1, 31))
    for cells in numbered:
        file = None
        for name in re.findall(r"`([^`]+)`", cells[-1]):
            path, _, test = name.rpartition("::") if ".py::" in name else (name, "", "")
            path, test = (path, test) if ".py" in name else ("", name)
            file = TESTS / path if path else file
            assert file is not None
            assert file.is_file(), name
            assert f"def {test}(" in file.read_text(encoding="utf-8") or not test, name
