"""The display of results and runs in a notebook, without importing the report that draws it until it is needed."""

from collections.abc import Callable
from typing import Any, ClassVar


class ShownInNotebooks:
    """IPython asks `_repr_html_`; the package sets `draw`, which turns the object into HTML, when it is imported."""

    draw: ClassVar[Callable[[Any], str]]

    def _repr_html_(self) -> str:
        return ShownInNotebooks.draw(self)
