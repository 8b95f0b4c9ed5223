"""The display of results and runs in a notebook, without importing the report that draws it until it is needed."""

from collections.abc import Callable
from typing import Any, ClassVar


class ShownInNotebooks:
    """IPython calls `_repr_html_`, which uses `draw`; the package sets `draw` when it is imported."""

    draw: ClassVar[Callable[[Any], str]]

    def _repr_html_(self) -> str:
        return ShownInNotebooks.draw(self)
