"""What is imported before anything is computed, and help that nobody reads to its end."""

import os
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


def test_help_that_nobody_reads_says_nothing():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "plica", "bracket", "--help"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
