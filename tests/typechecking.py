"""The type checker of the tests: beartype, an int passing for a float as everywhere in Python (PEP 484).

A check costs as much as many a function that it looks at, and a search calls the same ones hundreds of times with
arguments of the same kind. So of each function the 1st, 2nd, 4th, 8th, ... call in a test is checked, unless calls
with arguments of the same types, dtypes and numbers of axes have passed ENOUGH times before, in whatever test; with
--every-call, as in `make test-all`, every one is.
"""

import collections
import dataclasses
import functools
import inspect
import types
import typing

import jaxtyping
import numpy as np
import torch
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
every_call = False
ENOUGH = 32
passed: collections.Counter[tuple] = collections.Counter()  # checks, of a function with arguments of a kind
calls: dict[int, int] = {}  # in the test that runs, by the id of the code, which all closures of one definition share


def next_test() -> None:
    """Begin to count the calls anew."""
    calls.clear()


def kind(value, deep=True):
    """The type of an argument; of tensors and arrays also the dtype and the number of axes, and of lists those of their
    entries, not deeper: a plan may name a list exponentially often."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return type(value), value.dtype, value.ndim
    if isinstance(value, (tuple, list)) and deep:
        return type(value), *(kind(entry, deep=False) for entry in value)
    return type(value)


def resolved(annotation, namespace):
    """The type that a string names; any, where it is imported for type checkers only."""
    try:
        return typing.get_type_hints(types.SimpleNamespace(__annotations__={"": annotation}), namespace)[""]
    except Exception:
        return typing.Any


def with_check(function):
    """A copy that checks its arguments and what it returns: jaxtyping.jaxtyped makes two functions for that, and looks
    at the arguments in both."""
    if inspect.isgeneratorfunction(function):  # whose copy would run outside the context below
        return jaxtyped(function, typechecker=check)
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    functools.update_wrapper(copy, function)
    del copy.__wrapped__
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = {k: resolved(v, function.__globals__) for k, v in function.__annotations__.items()}
    checked = check(copy)

    def call(*args, **kwargs):
        with jaxtyped("context"):  # in which a letter is one size
            return checked(*args, **kwargs)

    return call


def sampled(function=None, *, typechecker):
    """In the place of jaxtyping.jaxtyped, for a part of the calls."""
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
        key = (code, *map(kind, args), *((name, kind(value)) for name, value in kwargs.items()))
        if passed[key] >= ENOUGH and not every_call:
            return function(*args, **kwargs)
        # not before: a function inside another is made anew at each call of that one, and this takes milliseconds
        checked = checked or with_check(function)
        answer = checked(*args, **kwargs)
        passed[key] += 1
        return answer

    return call


jaxtyped, jaxtyping.jaxtyped = jaxtyping.jaxtyped, sampled  # jaxtyping's import hook decorates all of plica with it
