"""What is imported before anything is computed: a session and a command line wait for it each time."""

import subprocess
import sys

import pytest

HEAVY = ("PIL", "pyarrow", "matplotlib", "pandas", "scipy", "pydantic", "rich")
COMMAND = "from plica.cli import main; main([{!r}])"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import plica", HEAVY),
        (COMMAND.format("--version"), ("matplotlib", "pandas", "scipy")),
        (COMMAND.format("--help"), ("matplotlib", "pandas", "scipy")),
    ],
)
def test_heavy_packages_wait_until_they_are_used(code, absent):
    code = f"import sys; {code}; print('loaded:', *[name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"
