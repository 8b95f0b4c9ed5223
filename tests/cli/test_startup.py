"""What is imported before anything is computed, and help that nobody reads to its end."""

import os
import subprocess
import sys

# Step by step in one process, as each start takes seconds.
CODE = """
import sys
import plica

def loaded(step, *names):
    print("after", step, [name for name in names if name in sys.modules])

loaded("import", "PIL", "pyarrow", "matplotlib", "pandas", "scipy", "pydantic", "rich")
from plica.cli import main
for option in ("--version", "--help"):
    main([option])
    loaded(option, "matplotlib", "pandas", "scipy")
assert callable(plica.plot.accuracy_curve)  # there after import plica alone
assert plica.patterns.MEASURES
"""


def test_heavy_packages_wait_until_they_are_used():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("after")]
    assert said == ["after import []", "after --version []", "after --help []"]


def test_help_that_nobody_reads_says_nothing():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "plica", "bracket", "--help"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
