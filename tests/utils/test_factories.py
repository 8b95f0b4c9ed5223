"""Objects of the user's files and modules."""

import os

import pytest

from plica.goals import parse_goal
from plica.metrics import parse_metric
from plica.perturbations.parse import parse_through
from plica.utils.factories import make

FILE = """
with open(__file__ + ".runs", "a") as counted:
    counted.write("x")
far = lambda x, x_adv: (x_adv - x).flatten(1).norm(dim=1)
number = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    return tmp_path / "own.py"


def runs(file):
    return len(file.with_name(f"{file.name}.runs").read_text())


def test_a_file_is_run_once_until_it_changes(own):
    """A distance may hold a network, and is named once for each chunk of an evaluation."""
    far = parse_metric(f"{own}:far")
    assert parse_metric(f"{own}:far") is far
    assert runs(own) == 1
    own.write_text(FILE.replace("far =", "near ="))
    os.utime(own, ns=(0, 0))  # a clock may not tell the two apart
    with pytest.raises(ValueError, match=r"own.py has no 'far'; it has near\."):
        parse_metric(f"{own}:far")


def test_a_file_of_a_model_is_run_for_each_model(own):
    """A module may stand in it, and two entries of a plan may load different weights into it."""
    assert make(f"{own}:number") == 3
    assert make(f"{own}:number") == 3
    assert runs(own) == 2


def test_what_is_no_function(own):
    assert callable(parse_goal(f"{own}:far"))
    with pytest.raises(ValueError, match=r"own.py:number' is a int, not a function d\(x, x_adv\)"):
        parse_metric(f"{own}:number")
    with pytest.raises(ValueError, match=r"is not a plica\.Perturbation"):
        parse_through(f"{own}:number")
