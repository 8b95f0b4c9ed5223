"""One thread: the tests are many and small, and answers are promised for a fixed number of threads.

A test is skipped where an optional package is missing: `pytest.importorskip`, or the mark `needs(package)`.
With --extras it fails instead, so that `make test-extras` leaves none out.
"""

import gc
import importlib
import os
import sys
import warnings

import hypothesis
import jaxtyping
import pytest
import torch

import typechecking

# Before the conftest.py of a folder imports plica: too early for the pytest option of the oldest jaxtyping allowed.
jaxtyping.install_import_hook("plica", "typechecking.check")
torch.set_num_threads(1)
# The same examples in every run: a change is judged by what it changes. tests/fuzz draws others, by its seed.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser):
    parser.addoption("--extras", action="store_true", help="a missing optional package is an error, not a skip")
    parser.addoption("--every-call", action="store_true", help="check the types of every call (tests/typechecking.py)")


def pytest_configure(config):
    if config.getoption("extras"):
        pytest.importorskip = imported
    typechecking.every_call = config.getoption("every_call")


def pytest_collection_finish():
    """What is there by now stays: gc.collect, called where memory ended, need not look through it each time."""
    gc.collect()
    gc.freeze()


def imported(name, **_):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as pytest.importorskip does
        return importlib.import_module(name)


def pytest_runtest_logstart():
    typechecking.next_test()


@pytest.fixture(autouse=True)
def needed_packages(request):
    for mark in request.node.iter_markers("needs"):
        pytest.importorskip(*mark.args, reason=f"{mark.args[0]} is not installed")


@pytest.fixture(autouse=True, scope="session")
def state_of_its_own(tmp_path_factory):
    """What commands remember of a person's code (plica.runs.own) is kept beside the tests' files."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def modules_of_its_own():
    """Several tests write a module `net` into their folder; none may find that of another."""
    sys.modules.pop("net", None)
    yield
    sys.modules.pop("net", None)
