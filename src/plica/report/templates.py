"""The templates of the page, in the folder page/, filled by jinja2, which escapes all values that are not Markup."""

from functools import cache
from typing import Any

from markupsafe import Markup

from plica.utils.optional import require


def fragment(name: str, **values: Any) -> Markup:
    """A template of plica.report/page with these values.

    Raises:
        ModuleNotFoundError: jinja2 is not installed.
    """
    return Markup(_templates().get_template(name).render(**values))


@cache
def _templates() -> Any:
    jinja2 = require("jinja2", "A report")
    loader = jinja2.PackageLoader("plica.report", "page")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
