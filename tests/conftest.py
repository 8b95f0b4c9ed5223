"""One thread: the tests are many and small, and answers are promised for a fixed number of threads."""

import sys

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def modules_of_its_own():
    """Several tests write a module `net` into their folder; none may find that of another."""
    sys.modules.pop("net", None)
    yield
    sys.modules.pop("net", None)
