"""What counts as a whole number in an argument."""

import operator


def as_int(value: object) -> int | None:
    """A whole number as Python's int, also numpy's, and of a tensor of one; None for anything else, as 3.0 or True."""
    if "bool" in str(getattr(value, "dtype", type(value).__name__)):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type] - anything may come
    except (TypeError, RuntimeError):  # the latter of tensors without numbers
        return None
