"""The type checker of the tests: beartype, an int passing for a float as everywhere in Python (PEP 484).

A check costs as much as many a function that it looks at, and a search calls the same ones hundreds of times with
arguments of the same kind. So of each function the 1st, 2nd, 4th, 8th, ... call in a test is checked; with
--every-call, as in `make test-all`, every one.
"""

import dataclasses
import functools
import inspect

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
every_call = False
calls: dict[int, int] = {}  # in the test that runs, by the id of the code, which all closures of one definition share
_jaxtyped = jaxtyping.jaxtyped


def next_test() -> None:
    """Begin to count the calls anew."""
    calls.clear()


def sampled(function=None, *, typechecker):
    """jaxtyping.jaxtyped, for a part of the calls."""
    if function is None:
        return functools.partial(sampled, typechecker=typechecker)
    if inspect.isclass(function):
        if dataclasses.is_dataclass(function):
            function.__init__ = sampled(function.__init__, typechecker=typechecker)
        return function
    checked, code = None, id(function.__code__)

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal checked
        number = calls[code] = calls.get(code, 0) + 1
        if number & (number - 1) and not every_call:
            return function(*args, **kwargs)
        # not before: a function inside another is made anew at each call of that one, and this takes a millisecond
        checked = checked or _jaxtyped(function, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call


jaxtyping.jaxtyped = sampled  # jaxtyping's import hook decorates every function and class of plica with it
