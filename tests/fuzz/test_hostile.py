"""Thousands of hostile inputs: each is done, or one sentence with status 2 or 1; none is a traceback or takes 20 s."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def tried(tmp_path, inputs, seed):
    """The report of tests/fuzz/hostile.py, in a process of its own."""
    journal = tmp_path / "journal"
    line = [sys.executable, str(HERE / "hostile.py"), "--inputs", str(inputs), "--seed", str(seed)]
    done = subprocess.run([*line, "--journal", str(journal)], capture_output=True, text=True, check=False)
    last = journal.read_text() if journal.exists() else "none"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}\nthe last input was {last}"
    return done.stdout


def test_a_hundred_hostile_inputs(tmp_path):
    assert "0 different faults" in tried(tmp_path, 100, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_ten_thousand_hostile_inputs(tmp_path, seed):
    assert "0 different faults" in tried(tmp_path, 1000, seed)
